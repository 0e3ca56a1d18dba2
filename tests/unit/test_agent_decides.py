"""`agent_step` on single views: what an agent does about a redis that hangs, or is left over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachecluster_core.agent_step import (
    HUNG_S,
    NOWHERE,
    AgentView,
    Attached,
    Command,
    CopyView,
    GateView,
    Restart,
    Seal,
    agent_step,
)
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.pod_table import Marks, encode_marks
from cachecluster_core.report import Process

pytestmark = pytest.mark.t0

HERE, THERE = CopyId("uid-a", "ra"), CopyId("uid-b", "rb")
MEMBERS = tuple((f"uid-{x}", Member(f"demo-{x}", f"h{x}")) for x in "ab")


def commands(entry: Entry, copy: CopyView, marks: Marks) -> tuple[Command, ...]:
    """What is to be done about the copy on pod uid-a."""
    ring = HashRing("demo", MEMBERS, (entry,), version="7")
    gates = {0: GateView(confirmed=True)}
    return agent_step(AgentView("uid-a", ring, 0, 1, {}, {0: marks}, gates, {0: copy})).commands


@pytest.mark.parametrize("run_id", ["ra", ""])
def test_a_redis_that_hangs_outside_the_in_sync_set_is_replaced(run_id: str) -> None:
    entry = Entry(epoch=5, state=State.STABLE, primary=THERE, isr=(THERE,), learners=("uid-a",), term=5)
    marks = Marks(seen_epoch=5, rank_term=4, run_id="ra")
    for silent_s in (HUNG_S - 0.1, HUNG_S):
        hanging = CopyView(Process.SILENT, run_id, silent_s=silent_s)
        replaced = [isinstance(command, Restart) for command in commands(entry, hanging, marks)]
        assert replaced == ([True] if silent_s == HUNG_S else [])


@pytest.mark.parametrize("run_id", ["ra", ""])
def test_a_redis_that_hangs_in_the_in_sync_set_is_left_alone(run_id: str) -> None:
    entry = Entry(epoch=5, state=State.ELECTING, isr=(HERE, THERE), former=(HERE,), term=4)
    hanging = CopyView(Process.SILENT, run_id, silent_s=1000.0)
    assert not commands(entry, hanging, Marks(seen_epoch=5, rank_term=4, run_id="ra"))


def test_what_a_copy_holds_of_a_partition_that_is_given_up_is_kept_if_it_is_of_the_last_term() -> None:
    entry = Entry(epoch=7, state=State.LOST, learners=("uid-a",), term=5)
    left = CopyView(Process.UP, "ra", source=("hb", 17000), link_up=False, has_stream=True, offset=90)
    held = Marks(seen_epoch=7, rank_term=5, run_id="ra")
    assert commands(entry, left, held) == (Seal(0),)
    assert commands(entry, replace(left, source=NOWHERE), held) == ()
    for copy, marks in ((left, replace(held, rank_term=4)), (replace(left, has_stream=False), held)):
        assert isinstance(commands(entry, copy, marks)[0], Restart)


def test_a_copy_of_a_partition_that_is_given_up_reports_what_it_holds_once_it_is_sealed() -> None:
    entry = Entry(epoch=7, state=State.LOST, learners=("uid-a",), term=5)
    ring = HashRing("demo", MEMBERS, (entry,), version="7")
    marks = Marks(seen_epoch=7, rank_term=5, run_id="ra")
    for source, sealed in ((("hb", 17000), 0), (NOWHERE, 7)):
        copy = CopyView(Process.UP, "ra", source=source, has_stream=True, offset=90)
        view = AgentView("uid-a", ring, 1, 2, {}, {0: marks}, {0: GateView(confirmed=True)}, {0: copy})
        told = agent_step(view).report
        assert told is not None
        told_of = told.copies[0]
        assert (told_of.sealed_epoch, told_of.term, told_of.offset, told_of.intact) == (sealed, 5, 90, True)


def test_an_agent_without_a_map_vouches_for_no_learner_that_has_not_caught_up() -> None:
    marks = Marks(seen_epoch=5, rank_term=5, run_id="ra", required=(HERE, THERE), required_epoch=5)
    gates = {0: GateView(5, 1, 10**12, confirmed=True)}
    for offset, vouched in ((-1, ()), (120, ()), (100, (THERE,))):
        replica = Attached(THERE, online=True, offset=100)
        copy = CopyView(Process.UP, "ra", offset=140, attached=(replica,))
        known = replace(marks, required_since_ns=1, required_offset=offset)
        told = agent_step(AgentView("uid-a", None, 0, 2, {}, {0: known}, gates, {0: copy})).report
        assert told is not None and told.copies[0].required == vouched


def test_a_learner_that_starts_anew_again_and_again_does_not_outgrow_the_marks() -> None:
    entry = Entry(epoch=5, state=State.STABLE, primary=HERE, isr=(HERE,), learners=("uid-b",), term=5)
    ring = HashRing("demo", MEMBERS, (entry,), version="7")
    marks = Marks(seen_epoch=5, rank_term=5, run_id="ra", required=(HERE,), required_epoch=5)
    for number in range(100):
        learner = CopyId("uid-b", f"{number:040d}")
        copy = CopyView(Process.UP, "ra", attached=(Attached(learner, online=True, offset=10),))
        gates = {0: GateView(5, 1, 10**12, confirmed=True)}
        marks = agent_step(AgentView("uid-a", ring, 1, 2, {}, {0: marks}, gates, {0: copy})).marks[0]
        encode_marks(marks, 1)
    assert marks.required == (HERE, learner)


def test_with_sync_a_learner_counts_as_required_once_it_holds_all_that_was_answered_before() -> None:
    entry = Entry(epoch=5, state=State.STABLE, primary=HERE, isr=(HERE,), learners=("uid-b",), term=5)
    ring = HashRing("demo", MEMBERS, (entry,), Settings(sync=True), version="7")
    gates = {0: GateView(5, 1, 10**12, confirmed=True)}
    marks = Marks(seen_epoch=5, rank_term=5, run_id="ra", required=(HERE, THERE), required_epoch=5)
    told = []
    for now, asked_at, acknowledged in ((10, 5, 100), (20, 9, 100), (30, 15, 100), (40, 35, 100), (50, 45, 150)):
        replica = Attached(THERE, online=True, offset=acknowledged)
        copy = CopyView(Process.UP, "ra", offset=140, observed_ns=asked_at, attached=(replica,))
        decision = agent_step(AgentView("uid-a", ring, 1, now, {}, {0: marks}, gates, {0: copy}))
        marks = decision.marks.get(0, marks)
        assert decision.report is not None
        told.append(decision.report.copies[0].required)
    assert marks.required_since_ns == 10 and marks.required_offset == 140
    assert told == [(HERE,)] * 4 + [(HERE, THERE)]


def test_a_learner_that_has_not_acknowledged_yet_is_not_in_step() -> None:
    entry = Entry(epoch=5, state=State.STABLE, primary=HERE, isr=(HERE,), learners=("uid-b",), term=5)
    ring = HashRing("demo", MEMBERS, (entry,), version="7")
    marks = Marks(seen_epoch=5, rank_term=5, run_id="ra", required=(HERE,), required_epoch=5)
    gates = {0: GateView(5, 1, 10**12, confirmed=True)}
    for acknowledged, own, joins in ((0, 700, False), (650, 700, True), (0, 0, False)):
        copy = CopyView(Process.UP, "ra", offset=own, attached=(Attached(THERE, online=True, offset=acknowledged),))
        decision = agent_step(AgentView("uid-a", ring, 1, 2, {}, {0: marks}, gates, {0: copy}))
        required = decision.marks.get(0, marks).required
        assert required == ((HERE, THERE) if joins else (HERE,)), (acknowledged, own)


def test_a_learner_is_not_required_before_the_stream_reaches_it() -> None:
    entry = Entry(epoch=5, state=State.STABLE, primary=HERE, isr=(HERE,), learners=("uid-b",), term=5)
    ring = HashRing("demo", MEMBERS, (entry,), version="7")
    marks = Marks(seen_epoch=5, rank_term=5, run_id="ra", required=(HERE,), required_epoch=5)
    gates = {0: GateView(5, 1, 10**12, confirmed=True)}
    for streams in (False, True):
        replica = Attached(THERE, online=True, offset=650, streams=streams)
        copy = CopyView(Process.UP, "ra", offset=700, attached=(replica,))
        decision = agent_step(AgentView("uid-a", ring, 1, 2, {}, {0: marks}, gates, {0: copy}))
        assert decision.marks.get(0, marks).required == ((HERE, THERE) if streams else (HERE,))


def test_a_required_learner_that_is_gone_is_reported_as_lagging_at_this_epoch_only() -> None:
    for epoch, lagging in ((5, (THERE,)), (6, ())):
        entry = Entry(epoch=epoch, state=State.STABLE, primary=HERE, isr=(HERE,), learners=("uid-b",), term=5)
        ring = HashRing("demo", MEMBERS, (entry,), Settings(sync=True), version="7")
        marks = Marks(seen_epoch=5, rank_term=5, run_id="ra", required=(HERE, THERE), required_epoch=5)
        gates = {0: GateView(5, 1, 10**12, confirmed=True)}
        copy = CopyView(Process.UP, "ra", offset=9, settled_offset=9)
        decision = agent_step(AgentView("uid-a", ring, 1, 2, {}, {0: marks}, gates, {0: copy}))
        assert decision.report is not None and decision.report.copies[0].lagging == lagging
        required = decision.marks.get(0, marks).required
        assert required == ((HERE,) if epoch == 6 else (HERE, THERE))


@pytest.mark.parametrize("sync", [False, True])
def test_a_primary_that_has_just_taken_over_gives_the_others_time_to_attach(sync: bool) -> None:
    entry = Entry(epoch=5, state=State.STABLE, primary=HERE, isr=(HERE, THERE), term=5)
    ring = HashRing("demo", MEMBERS, (entry,), Settings(sync=sync), version="7")
    marks = Marks(seen_epoch=5, rank_term=5, run_id="ra", required=(HERE, THERE), required_epoch=5)
    gates = {0: GateView(5, 1, 10**12, confirmed=True)}
    for settled, lagging in ((-1, ()), (0, (THERE,)), (700, (THERE,))):
        for attached in ((), (Attached(THERE, online=True, offset=0),)):
            copy = CopyView(Process.UP, "ra", offset=700, settled_offset=settled, attached=attached)
            decision = agent_step(AgentView("uid-a", ring, 1, 2, {}, {0: marks}, gates, {0: copy}))
            assert decision.report is not None and decision.report.copies[0].lagging == lagging
