"""A sole in-sync copy that cannot read the map stops serving before the operator gives it up, whoever promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.operator_views import NOW, PODS, A, B, agents, copy_report, view

from cachecluster_core.agent_step import AgentView, Attached, CopyView, GateView, Promise, agent_step
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.operator_step import OperatorView, PodView, Suspicion, operator_step
from cachecluster_core.pod_table import Marks
from cachecluster_core.report import Process

pytestmark = pytest.mark.t0

S = 1_000_000_000
HERE, THERE, NEXT = CopyId("uid-a", "ra"), CopyId("uid-b", "rb"), CopyId("uid-b", "rc")
MEMBERS = tuple((f"uid-{x}", Member(f"demo-{x}", f"h{x}")) for x in "ab")
SOLE = Entry(epoch=5, state=State.STABLE, primary=HERE, isr=(HERE,), learners=("uid-b",), term=5)
PAIR = replace(SOLE, isr=(HERE, THERE), learners=())
SETTINGS = Settings(lost_after_s=60.0, outage_s=900.0, replication_factor=2)
READ_AT = 1000 * S


def blind(entry: Entry, later_s: int, required: tuple[CopyId, ...], attached: CopyId = THERE) -> AgentView:
    """A primary so many seconds after its last quorum read, whose other pod has promised just now."""
    now = READ_AT + later_s * S
    replica = Attached(attached, online=True, offset=9, streams=True)
    return AgentView(
        "uid-a",
        HashRing("demo", MEMBERS, (entry,), SETTINGS, version="7"),
        READ_AT,
        now,
        marks={0: Marks(seen_epoch=5, rank_term=5, run_id="ra", required=required, required_epoch=5)},
        gates={0: GateView(5, 1, now + S // 2, confirmed=True)},
        copies={0: CopyView(Process.UP, "ra", offset=9, attached=(replica,))},
        promises={0: {"uid-b": Promise(5, now)}},
        read_failing=True,
    )


@pytest.mark.parametrize(("entry", "longest_s"), [(SOLE, 60), (PAIR, 900)])
def test_promises_carry_authority_no_further_than_the_operator_waits(entry: Entry, longest_s: int) -> None:
    for later_s in (10, longest_s - 1):
        (change,) = agent_step(blind(entry, later_s, (HERE, THERE))).gates
        assert change.deadline_ns == READ_AT + min(later_s + 3, longest_s) * S


def test_a_blind_primary_requires_no_further_pod_but_the_successor_of_a_process_that_ended() -> None:
    decision = agent_step(blind(SOLE, 10, (HERE,)))
    assert decision.marks.get(0, Marks(required=(HERE,))).required == (HERE,)
    assert agent_step(replace(blind(SOLE, 10, (HERE,)), read_failing=False)).marks[0].required == (HERE, THERE)
    assert agent_step(blind(SOLE, 10, (HERE, THERE), attached=NEXT)).marks[0].required == (HERE, NEXT)


def unreachable(seen_epoch: int, isr: tuple[CopyId, ...], silent_s: float, factor: int = 2) -> OperatorView:
    """An election whose former primary is cut off, and last reported at this epoch."""
    entry = Entry(epoch=7, state=State.ELECTING, isr=isr, former=(A,), term=5)
    known = agents((Entry(epoch=7, state=State.LOST),), PODS[:3])
    report = known[A.pod].report
    assert report is not None
    stable = Entry(epoch=seen_epoch, state=State.STABLE, primary=A, isr=isr, term=5)
    last = replace(report, copies={0: copy_report(stable, A.pod)})
    for copy in isr:
        known[copy.pod] = PodView(last, NOW - silent_s, Suspicion.CONFIRMED, None, NOW - silent_s)
    settings = replace(SETTINGS, replication_factor=factor)
    return view((entry,), known, known_for=silent_s, settings=settings)


@pytest.mark.parametrize(
    ("seen_epoch", "isr", "factor", "lost_after_s"),
    [
        (6, (A,), 2, 66.5),
        (5, (A,), 2, 990.5),
        (6, (A, B), 2, 990.5),
        (6, (A,), 1, 66.5),
        (6, (A, B), 1, 990.5),
    ],
    ids=["it knew that it was alone", "it may act on a larger set", "two copies", "one is wanted", "one, that moves"],
)
def test_a_partition_is_given_up_when_its_copies_can_have_no_authority(
    seen_epoch: int, isr: tuple[CopyId, ...], factor: int, lost_after_s: float
) -> None:
    for silent_s, lost in ((lost_after_s - 1, False), (lost_after_s + 1, True)):
        decided = operator_step(unreachable(seen_epoch, isr, silent_s, factor)).map
        assert (decided is not None and decided.entries[0].state is State.LOST) == lost


def test_a_gate_left_below_its_set_by_an_agent_that_died_is_told_anew() -> None:
    """The marks were written and the gate was not: routers that came since do not know what is required."""
    given = replace(blind(PAIR, 0, (HERE, THERE)), read_failing=False, gates={0: GateView(4, 1, READ_AT + S, True)})
    (change,) = agent_step(given).gates
    assert (change.gate_epoch, change.new_generation) == (5, True)
