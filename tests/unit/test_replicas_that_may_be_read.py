"""Which copies may answer reads in their primary's place, and until when: `readable_until` on single views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cachecluster_core import pod_table
from cachecluster_core.agent_step import NOWHERE, AgentView, CopyView, GateView
from cachecluster_core.copy_state import CopyState
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.pod_table import Marks
from cachecluster_core.replica_reads import LINK_SILENT_S, LOOK_S, MAP_S, readable_until
from cachecluster_core.report import Process
from cachecluster_sidecar.agent.table import GateRecord, PodTable

pytestmark = pytest.mark.t0

S = 10**9
HERE, THERE = CopyId("uid-a", "ra"), CopyId("uid-b", "rb")
MEMBERS = tuple((f"uid-{x}", Member(f"demo-{x}", f"h{x}")) for x in "abc")
ENTRY = Entry(epoch=5, state=State.STABLE, primary=THERE, isr=(HERE, THERE), term=5)
MARKS = Marks(seen_epoch=5, rank_term=5, run_id="ra")
COPY = CopyView(
    Process.UP, "ra", source=("hb", 17000), link_up=True, has_stream=True, observed_ns=100 * S, link_silence_s=0
)
SHUT = GateView(confirmed=True)


def until(
    entry: Entry = ENTRY,
    copy: CopyView = COPY,
    marks: Marks = MARKS,
    gate: GateView = SHUT,
    reads_from: str = "replica",
    confirmed_at_ns: int = 100 * S,
) -> int:
    ring = HashRing("demo", MEMBERS, (entry,), Settings(reads_from=reads_from), version="7")
    view = AgentView("uid-a", ring, confirmed_at_ns, 100 * S, {}, {0: marks}, {0: gate}, {0: copy})
    return readable_until(CopyState(view, 0))


def test_a_copy_may_be_read_a_moment_longer_than_it_was_seen_in_sync_by_a_map_that_was_just_confirmed() -> None:
    assert until() == until(reads_from="nearest-zone") == 100 * S + round(LOOK_S * S)
    assert until(copy=replace(COPY, link_silence_s=LINK_SILENT_S)) == until()
    assert until(confirmed_at_ns=99 * S) == 99 * S + round(MAP_S * S)
    assert until(copy=replace(COPY, observed_ns=98 * S)) == 98 * S + round(LOOK_S * S)


def test_only_where_the_spec_allows_it() -> None:
    assert until(reads_from="primary") == 0
    assert readable_until(CopyState(AgentView("uid-a", None, 0, 1, {}, {0: MARKS}, {0: SHUT}, {0: COPY}), 0)) == 0


@pytest.mark.parametrize(
    "copy",
    [
        replace(COPY, link_up=False),
        replace(COPY, link_silence_s=LINK_SILENT_S + 1),
        replace(COPY, link_silence_s=-1),
        replace(COPY, source=NOWHERE),
        replace(COPY, source=("hc", 17000)),
        replace(COPY, source=None, link_up=False),
        replace(COPY, syncing=True),
        replace(COPY, busy=True),
        replace(COPY, run_id="another"),
        replace(COPY, process=Process.SILENT),
        replace(COPY, process=Process.DEAD),
        CopyView(),
    ],
)
def test_not_while_it_does_not_follow_the_primary_of_the_map(copy: CopyView) -> None:
    assert until(copy=copy) == 0


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, primary=HERE),
        replace(ENTRY, isr=(THERE,), learners=("uid-a",)),
        replace(ENTRY, isr=(THERE, CopyId("uid-a", "older"))),
        replace(ENTRY, state=State.ELECTING, primary=None, former=(THERE,)),
        replace(ENTRY, state=State.MOVING, successor=HERE),
        replace(ENTRY, epoch=4),
    ],
)
def test_not_unless_the_map_calls_it_in_sync_with_a_primary_that_stays(entry: Entry) -> None:
    assert until(entry=entry) == 0


def test_not_while_its_gate_is_open_nor_without_history() -> None:
    assert until(gate=GateView(5, 1, 200 * S, confirmed=True)) == 0
    assert until(marks=replace(MARKS, rank_term=0)) == 0
    assert until(marks=replace(MARKS, run_id="another")) == 0


def test_not_while_its_primary_lives_by_promises_when_no_copy_that_falls_behind_leaves_the_set() -> None:
    assert until(marks=replace(MARKS, promised_epoch=5, promised_until_ns=100 * S + 1)) == 0
    assert until(marks=replace(MARKS, promised_epoch=5, promised_until_ns=100 * S)) == until()


def test_the_word_of_the_table_is_of_one_boot_and_apart_from_the_gate(tmp_path: Path) -> None:
    table = PodTable.open(tmp_path / "pod-table", 2, "a" * 36)
    table.write_readable(1, 77)
    table.write_gate(1, GateRecord(seen_epoch=7, gate_epoch=7, deadline_ns=9, generation=3))
    assert (table.readable_ns(0), table.readable_ns(1)) == (0, 77)
    table.close()
    again = PodTable.open(tmp_path / "pod-table", 2, "a" * 36)
    assert again.readable_ns(1) == 77 and again.gate(1).generation == 3
    again.close()
    after = PodTable.open(tmp_path / "pod-table", 2, "b" * 36)
    assert after.readable_ns(1) == 0 and after.gate(1).generation == 4
    after.close()
    assert 8 * (pod_table.READABLE_NS + 1) <= pod_table.GATE_BYTES, "the layout is what agents before knew"
