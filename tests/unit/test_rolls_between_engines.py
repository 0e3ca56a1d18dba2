"""A roll to another engine, pass by pass: no copy is to be filled by an engine that it cannot load, and it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from tests.unit.operator_views import PODS, STABLE, A, B, C, D, agents, entry_after, leaving_after, view

from cachecluster_core.engines import can_fill
from cachecluster_core.hashring import CopyId, Entry, HashRing, Settings, State
from cachecluster_core.operator_step import (
    CreatePod,
    DeletePod,
    OperatorView,
    Pod,
    PodView,
    Suspicion,
    operator_step,
    remember,
)
from cachecluster_core.report import CopyReport, Process, Report

pytestmark = pytest.mark.t0

REDIS, VALKEY = "redis 7.0.15", "valkey 9.1.2"
OLD = {"a": REDIS, "b": REDIS, "c": REDIS}


@pytest.mark.parametrize(
    ("source", "target", "can"),
    [
        (REDIS, VALKEY, True),
        (VALKEY, REDIS, False),
        ("redis 7.0.15", "redis 7.0.1", True),
        ("redis 7.0.15", "redis 7.2.0", True),
        ("redis 7.2.0", "redis 7.0.15", False),
        ("valkey 9.0.1", "valkey 8.1.4", False),
        ("redis 7.2.4", VALKEY, True),
        ("redis 8.0.0", VALKEY, False),
        ("", REDIS, True),
        (VALKEY, "", True),
        ("redis 7.2.0", "redis", True),
    ],
)
def test_later_engines_load_what_earlier_ones_send(source: str, target: str, can: bool) -> None:
    assert can_fill(source, target) is can


# -- single passes -----------------------------------------------------------------------------------------------------


def outdated(*pods: Pod) -> tuple[Pod, ...]:
    return tuple(replace(pod, outdated=True) for pod in pods)


def test_the_primary_of_a_pod_that_is_emptied_stays_on_the_old_engine_while_a_copy_there_stays() -> None:
    entry = replace(STABLE, isr=(A, B, D))
    pods = (*outdated(*PODS[:3]), PODS[3])
    emptying = view((entry,), agents((entry,), pods, **OLD, d=VALKEY), pods, leaving=(A.pod,))
    assert entry_after(emptying).successor == B
    pods = (*outdated(PODS[0], PODS[2]), PODS[1], PODS[3])
    emptying = view((entry,), agents((entry,), pods, a=REDIS, b=VALKEY, c=REDIS, d=VALKEY), pods, leaving=(A.pod,))
    assert entry_after(emptying).successor in (B, D), "no other copy stays"


def test_a_learner_that_cannot_be_filled_is_dropped_and_the_roll_goes_on_without_it() -> None:
    entry = replace(STABLE, primary=D, isr=(D,), learners=(B.pod,))
    pods = (*outdated(*PODS[:2]), PODS[3])
    known = agents((entry,), pods, **OLD, d=VALKEY)
    dropped = entry_after(view((entry,), known, pods))
    assert (dropped.learners, dropped.epoch) == ((), 6)
    stuck = view((dropped,), agents((dropped,), pods, **OLD, d=VALKEY), pods)
    assert entry_after(stuck) == dropped, "no pod is there that could be filled"
    assert leaving_after(stuck) == {"demo-0", "demo-1"}, "nobody needs them"


def test_the_engine_of_a_pod_whose_agent_does_not_tell_is_known_from_its_object() -> None:
    entry = replace(STABLE, isr=(A, B, D))
    made = {pod: replace(pod, engine="redis") for pod in PODS[:3]}
    pods = (*outdated(*made.values()), PODS[3])
    emptying = view((entry,), agents((entry,), pods, d=VALKEY), pods, leaving=(A.pod,))
    assert entry_after(emptying).successor == B


def test_an_ordinary_roll_waits_for_copies_that_can_be_filled() -> None:
    entry = replace(STABLE, primary=D, isr=(D,), learners=(B.pod,))
    pods = (*outdated(*PODS[:2]), PODS[3])
    assert leaving_after(view((entry,), agents((entry,), pods), pods)) == set()


def test_a_roll_to_an_older_version_stops_at_its_first_pod_which_goes_when_the_image_is_set_back() -> None:
    entry = replace(STABLE, isr=(A, B, C))
    settings = Settings(replication_factor=3)
    engines = {"a": "redis 7.2.4", "b": "redis 7.2.4", "c": "redis 7.2.4", "d": "redis 7.0.15"}

    def rolling(*pods: Pod) -> OperatorView:
        known = agents((entry,), pods, **engines)
        return view((entry,), known, pods, leaving=(C.pod,), settings=settings)

    forth = rolling(*outdated(*PODS[:3]), PODS[3])
    assert entry_after(forth) == entry and leaving_after(forth) == {"demo-2"}
    back = rolling(*PODS[:3], *outdated(PODS[3]))
    assert entry_after(back) == entry and leaving_after(back) == {"demo-2", "demo-3"}


def test_of_two_pods_one_too_old_to_be_filled_no_more_are_rolled() -> None:
    pods = (*outdated(*PODS[:2]), PODS[3])
    known = agents((STABLE,), pods, a="redis 7.2.4", b="redis 7.2.4", d="redis 7.0.15")
    assert leaving_after(view((STABLE,), known, pods)) == set()


# -- whole rolls -------------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """Pods that do at once what the map says, an operator that decides once a second, and nobody who rests."""

    nodes: int
    factor: int
    partitions: int
    now: float = 0.0
    pods: dict[str, Pod] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    ring: HashRing | None = None
    seen_at: dict[int, float] = field(default_factory=dict)
    filled: int = 0
    in_vain: int = 0
    made: int = 0

    def make(self, number: int, engine: str) -> None:
        uid = f"uid-{self.made}"
        self.made += 1
        self.pods[uid] = Pod(uid, f"demo-{number}", f"h{number}", f"z{number % 3}", f"n{number}", ready=True)
        self.engines[uid] = engine

    def copy(self, entry: Entry, uid: str) -> CopyReport | None:
        copy = entry.copy_on(uid) or (CopyId(uid, "r") if uid in entry.learners else None)
        if copy is None:
            return None
        primary = entry.primary
        report = CopyReport(Process.UP, copy.run_id, entry.epoch, born_epoch=entry.epoch, term=entry.term, offset=9)
        if copy == primary:
            required = (*entry.isr, *(CopyId(pod, "r") for pod in entry.learners))
            report = replace(report, intact=True, gate_epoch=entry.epoch, required_epoch=entry.epoch, required=required)
        elif primary is not None:
            hopeless = uid in entry.learners and not can_fill(self.engines[primary.pod], self.engines[uid])
            self.filled += uid in entry.learners
            self.in_vain += hopeless
            report = replace(report, intact=not hopeless, link_up=not hopeless, shut_epoch=entry.epoch)
        if entry.state is State.MOVING and copy == entry.successor:
            report = replace(report, taken_over_epoch=entry.epoch, gate_epoch=entry.epoch)
        return report

    def agents(self) -> dict[str, PodView]:
        entries = self.ring.entries if self.ring is not None else ()
        known = {}
        for uid in self.pods:
            copies = {p: copy for p, entry in enumerate(entries) if (copy := self.copy(entry, uid)) is not None}
            report = Report(uid, "i", "7", 2.0, copies, routers=1, engine=self.engines[uid])
            known[uid] = PodView(report, self.now, Suspicion.NONE)
        return known

    def step(self, engine: str) -> None:
        """A second passes; new pods get this engine, and others are outdated."""
        self.now += 1.0
        pods = tuple(replace(pod, outdated=self.engines[uid] != engine) for uid, pod in self.pods.items())
        settings = Settings(replication_factor=self.factor)
        seen = OperatorView(
            "demo", self.nodes, self.partitions, settings, self.now, 0.0, self.ring, True, pods, self.agents(),
            self.seen_at,
        )  # fmt: skip
        decision = operator_step(replace(seen, memory=remember(seen)))
        for action in decision.pod_actions:
            if isinstance(action, CreatePod):
                self.make(action.number, engine)
            elif isinstance(action, DeletePod):
                del self.pods[action.uid]
        if decision.map is not None:
            before = self.ring.entries if self.ring is not None else (None,) * self.partitions
            changed = (p for p, (old, new) in enumerate(zip(before, decision.map.entries, strict=True)) if old != new)
            self.seen_at |= dict.fromkeys(changed, self.now)
            self.ring = decision.map

    def is_done(self, engine: str) -> bool:
        """Only pods of this engine are there, with all copies."""
        there = sorted(self.engines[uid] for uid in self.pods) == [engine] * self.nodes
        entries = self.ring.entries if self.ring is not None else ()
        stable = all(e.state is State.STABLE and len(e.isr) == self.factor and not e.learners for e in entries)
        return there and stable and len(entries) == self.partitions

    def run(self, engine: str, then: Callable[[], None] = lambda: None, seconds: int = 900) -> None:
        """Until it is done, or AssertionError after so many seconds; `then` may do harm every second."""
        for _ in range(seconds):
            self.step(engine)
            if self.is_done(engine):
                return
            then()
        raise AssertionError(f"not done: {self.pods}\n{self.ring}")


@pytest.mark.parametrize(("nodes", "factor"), [(3, 2), (3, 3), (3, 1), (5, 2), (5, 3), (2, 2)])
def test_a_roll_to_a_later_engine_ends_and_fills_nothing_that_cannot_be(nodes: int, factor: int) -> None:
    cluster = Cluster(nodes, factor, 16)
    cluster.run(REDIS)
    filled = cluster.filled
    cluster.run(VALKEY)
    copies = 16 * factor
    assert copies <= cluster.filled - filled <= copies * 1.5, "each copy is filled once, and some twice for the zones"
    assert cluster.in_vain == 0


@pytest.mark.parametrize(("nodes", "factor"), [(3, 2), (3, 3), (5, 2)])
@pytest.mark.parametrize("turn", range(0, 60, 4))
def test_a_roll_to_a_later_engine_ends_although_copies_have_to_begin_anew(nodes: int, factor: int, turn: int) -> None:
    cluster = Cluster(nodes, factor, 16)
    cluster.run(REDIS)
    turns = iter(range(turn, -1, -1))

    def lose_replicas() -> None:
        """Once, every partition is left with the copy that was made last; the others have to begin anew."""
        if next(turns, None) != 0 or cluster.ring is None:
            return
        entries = list(cluster.ring.entries)
        for partition, entry in enumerate(entries):
            if entry.state is State.STABLE:
                last = max(entry.isr, key=lambda copy: (len(copy.pod), copy.pod))
                learners = tuple(sorted((entry.pods() - {last.pod}) & set(cluster.pods)))
                term = entry.epoch + 1
                entries[partition] = entry.changed(primary=last, isr=(last,), learners=learners, term=term)
        cluster.ring = replace(cluster.ring, entries=tuple(entries))

    cluster.run(VALKEY, lose_replicas)
    assert cluster.in_vain <= 2 * 16 * factor, "what cannot be filled is not tried for long"
