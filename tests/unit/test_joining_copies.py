"""Learners join the in-sync set as exactly the process that runs now, whatever the primary began to require."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.operator_step import operator_step
from cachecluster_core.operator_view import OperatorView, Pod, PodView, Suspicion
from cachecluster_core.report import CopyReport, Process, Report

pytestmark = pytest.mark.t0

PRIMARY, DEAD, ALIVE = CopyId("pod-0", "a"), CopyId("pod-1", "dead"), CopyId("pod-1", "alive")
ENTRY = Entry(16, State.STABLE, PRIMARY, (PRIMARY,), learners=("pod-1",), term=15)


def view(required: tuple[CopyId, ...], learner: CopyReport | None) -> OperatorView:
    """A primary that requires these, and what the learner's own agent says."""
    served = CopyReport(
        Process.UP, "a", 16, intact=True, gate_epoch=16, required_epoch=16, required=(PRIMARY, *required), born_epoch=1
    )
    reports = {"pod-0": Report("pod-0", "i", copies={0: served}, authority_s=3.0)}
    if learner is not None:
        reports["pod-1"] = Report("pod-1", "i", copies={0: learner}, authority_s=3.0)
    pods = tuple(Pod(f"pod-{n}", f"demo-{n}", f"127.0.0.{n + 1}", node=f"n{n}", ready=True) for n in range(2))
    members = tuple((pod.uid, Member(pod.name, pod.host, node=pod.node)) for pod in pods)
    settings = Settings()
    return OperatorView(
        name="demo",
        nodes=2,
        partitions=1,
        settings=settings,
        now=100.0,
        wall=0.0,
        map=HashRing("demo", members, (ENTRY,), settings, version="7", uid="u"),
        pods=pods,
        agents={uid: PodView(report, 100.0, Suspicion.NONE) for uid, report in reports.items()},
        seen_at={0: 90.0},
    )


def isr_after(required: tuple[CopyId, ...], learner: CopyReport | None) -> tuple[CopyId, ...]:
    ring = operator_step(view(required, learner)).map
    return ring.entries[0].isr if ring is not None else ENTRY.isr


RUNS = CopyReport(Process.UP, "alive", 16, intact=True, link_up=True, born_epoch=16)


def test_a_required_learner_joins() -> None:
    assert isr_after((ALIVE,), RUNS) == tuple(sorted((PRIMARY, ALIVE)))


def test_of_two_processes_of_one_pod_that_the_primary_requires_the_running_one_joins() -> None:
    assert isr_after((ALIVE, DEAD), RUNS) == tuple(sorted((PRIMARY, ALIVE)))


def test_a_process_that_has_ended_does_not_join() -> None:
    assert isr_after((DEAD,), RUNS) == (PRIMARY,)
    assert isr_after((ALIVE,), replace(RUNS, process=Process.DEAD)) == (PRIMARY,)


def test_a_learner_whose_agent_does_not_report_does_not_join() -> None:
    assert isr_after((ALIVE,), None) == (PRIMARY,)
