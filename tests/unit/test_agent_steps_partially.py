"""A step about some partitions, put together with the one before it, says what a step about all of them says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachecluster_core.agent_step import NOWHERE, AgentView, Attached, CopyView, GateView, HandoverWord, agent_step
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.partial_step import continued
from cachecluster_core.pod_table import HandOver, Marks
from cachecluster_core.report import Process

pytestmark = pytest.mark.t0

HERE, THERE = CopyId("uid-a", "ra"), CopyId("uid-b", "rb")
MEMBERS = tuple((copy.pod, Member(copy.pod, f"host-{copy.pod}")) for copy in (HERE, THERE))
NOW = 1_000
ENTRIES = (
    Entry(epoch=5, state=State.STABLE, primary=HERE, isr=(HERE, THERE), term=5),
    Entry(epoch=5, state=State.MOVING, primary=HERE, successor=THERE, isr=(HERE, THERE), term=5),
    Entry(epoch=5, state=State.MOVING, primary=THERE, successor=HERE, isr=(HERE, THERE), term=5),
    Entry(epoch=5, state=State.ELECTING, isr=(HERE, THERE), former=(THERE,), term=4),
)
PARTITIONS = st.integers(0, len(ENTRIES) - 1)

copies = st.builds(
    CopyView,
    process=st.sampled_from([Process.UP, Process.SILENT, Process.DEAD]),
    run_id=st.sampled_from(["ra", "rx"]),
    source=st.sampled_from([None, NOWHERE, ("host-uid-b", 17000)]),
    link_up=st.booleans(),
    has_stream=st.booleans(),
    offset=st.integers(0, 2),
    attached=st.sampled_from([(), (Attached(THERE, online=True, offset=2),)]),
    busy=st.booleans(),
)
marks = st.builds(
    Marks,
    seen_epoch=st.integers(4, 6),
    rank_term=st.integers(0, 5),
    run_id=st.just("ra"),
    hand_over=st.builds(HandOver, epoch=st.just(5), since_ns=st.just(NOW), shut_ns=st.sampled_from([0, NOW])),
    required=st.sampled_from([(), (HERE,), (HERE, THERE)]),
    required_epoch=st.integers(4, 5),
)
gates = st.builds(GateView, gate_epoch=st.sampled_from([0, 5]), deadline_ns=st.just(10**12), confirmed=st.booleans())
words = st.builds(HandoverWord, st.just(THERE), st.just(5), st.integers(0, 2), st.booleans(), st.sampled_from([0, 5]))


@st.composite
def steps(draw: st.DrawFn) -> tuple[AgentView, AgentView, frozenset[int]]:
    """A view, the next one, and the partitions that changed from one to the other."""

    def some(of: st.SearchStrategy[object]) -> dict[int, object]:
        return draw(st.dictionaries(PARTITIONS, of))

    ring = HashRing("demo", MEMBERS, ENTRIES, Settings(sync=draw(st.booleans())), version="7")
    first = AgentView("uid-a", ring, 1, NOW, read_failing=draw(st.booleans()))
    first = replace(first, marks=some(marks), gates=some(gates), copies=some(copies), words=some(words))
    only = draw(st.frozensets(PARTITIONS))
    changes = {}
    for name, of in (("marks", marks), ("gates", gates), ("copies", copies), ("words", words)):
        kept = {p: value for p, value in getattr(first, name).items() if p not in only}
        changes[name] = kept | {p: value for p, value in some(of).items() if p in only}
    return first, replace(first, **changes), only


@given(steps())
def test_a_partial_step_continues_the_one_before(case: tuple[AgentView, AgentView, frozenset[int]]) -> None:
    before, after, only = case
    whole = agent_step(after)
    shown = {name: {p: v for p, v in getattr(after, name).items() if p in only} for name in ("copies", "gates")}
    partial = agent_step(replace(after, only=only, **shown))
    assert partial.marks == {p: value for p, value in whole.marks.items() if p in only}
    assert partial.gates == tuple(change for change in whole.gates if change.partition in only)
    assert partial.commands == tuple(command for command in whole.commands if command.partition in only)
    both = continued(agent_step(before), partial, only)
    assert both.report is not None and whole.report is not None
    assert both.report.copies == whole.report.copies
    assert set(both.messages) == set(whole.messages)
    assert (both.news, both.answers, both.asks) == (whole.news, whole.answers, whole.asks)
