"""A pod whose agent reports and whose redis processes do not answer: its copies are made on other pods."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.operator_views import NOW, PODS, STABLE, A, B, C, agents, entries_after, view

from cachecluster_core.hashring import Entry
from cachecluster_core.operator_step import OperatorView, PodView, remember
from cachecluster_core.report import CopyReport, Process

pytestmark = pytest.mark.t0

WAITING = replace(STABLE, isr=(A,), learners=(C.pod,))
DOWN = (Process.DEAD, Process.STARTING, Process.ABSENT, Process.SILENT)


def reports(entries: tuple[Entry, ...], process: Process) -> dict[str, PodView]:
    """All agents report; the processes of all learners on the third pod are so."""
    known = agents(entries)
    report = known[C.pod].report
    assert report is not None
    copies = {p: CopyReport(process, "", e.epoch) for p, e in enumerate(entries) if C.pod in e.learners}
    return known | {C.pod: replace(known[C.pod], report=replace(report, copies={**report.copies, **copies}))}


def down_for(seen: OperatorView, seconds: float) -> OperatorView:
    """The same view, which has been so for so long."""
    return replace(seen, memory=remember(replace(seen, now=NOW - seconds)))


@pytest.mark.parametrize("process", DOWN)
def test_a_copy_whose_process_does_not_answer_for_long_is_made_on_another_pod(process: Process) -> None:
    seen = view((WAITING,), reports((WAITING,), process))
    assert entries_after(down_for(seen, 20)) == (WAITING,)
    (after,) = entries_after(down_for(seen, 40))
    assert after.learners == (B.pod, C.pod)


def test_a_copy_that_is_being_filled_has_all_the_time_it_takes() -> None:
    assert entries_after(down_for(view((WAITING,), reports((WAITING,), Process.UP)), 4000)) == (WAITING,)


def test_copies_that_do_not_start_take_no_turn_from_those_that_can_be_filled() -> None:
    missing = replace(STABLE, primary=B, isr=(B,))
    entries = (*[WAITING] * 4, *[missing] * 4)
    seen = view(entries, reports(entries, Process.DEAD))
    assert entries_after(down_for(seen, 20)) == entries
    after = entries_after(down_for(seen, 40))
    new = [set(now.learners) - set(before.learners) for before, now in zip(entries, after, strict=True)]
    assert new == [{B.pod}, {B.pod}, set(), set(), {A.pod}, {A.pod}, set(), set()], "two at a time, as a pod may take"


def test_with_no_other_pod_a_copy_waits_for_its_process() -> None:
    known = {uid: agent for uid, agent in reports((WAITING,), Process.DEAD).items() if uid != B.pod}
    seen = view((WAITING,), known, pods=(PODS[0], PODS[2]), nodes=2)
    assert entries_after(down_for(seen, 40)) == (WAITING,)


def test_a_partition_is_short_of_copies_while_one_does_not_start_and_another_pod_is_missing() -> None:
    known = reports((WAITING,), Process.DEAD)
    seen = view((WAITING,), known, nodes=4)
    assert remember(seen).short == {}
    down = down_for(seen, 70)
    assert remember(replace(down, now=NOW - 35)).short == {0: NOW - 35}
    late = replace(down, memory=remember(replace(down, now=NOW - 35)))
    assert entries_after(replace(late, memory=remember(late)))[0].learners == (B.pod, C.pod)
