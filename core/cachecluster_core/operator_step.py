"""`operator_step`: what the operator does next about one cluster. Pure, level-triggered, callable at any moment.

Implements O1-O9 (docs/protocol.md). The shell around it (the control loop) keeps the
observations, calls `remember` and then this, writes the new map by compare-and-swap, and hands pod actions and events
on. All that a pass decides about all partitions goes into one write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from . import election, rebuild
from .hashring import CopyId, Entry, HashRing, Member, State
from .leaving import idle_pods, leaving_pods, newly_leaving, staying_pods, why_not_serving
from .moves import begin_moves, emptied_pods, next_moving
from .operator_view import (
    CreatePod,
    DeletePod,
    Event,
    MarkNotReady,
    Memory,
    OperatorDecision,
    OperatorView,
    Pod,
    PodAction,
    PodView,
    Suspicion,
    Timing,
)
from .pod_plan import plan_pods
from .repair import EMPTY, complete, down_learners, repair, short_partitions, targets

__all__ = [
    "CreatePod",
    "DeletePod",
    "Event",
    "MarkNotReady",
    "Memory",
    "OperatorDecision",
    "OperatorView",
    "Pod",
    "PodAction",
    "PodView",
    "Suspicion",
    "Timing",
    "operator_step",
    "remember",
]


def remember(view: OperatorView) -> Memory:
    """The memory for this view: what still is so keeps its time, what has just begun gets `now`, the rest goes."""
    old, now = view.memory, view.now
    # Unknown is not gone: a map that cannot be read may be read by others.
    gone = view.map_known and rebuild.is_due(view)
    unmapped = {pod.uid: old.unmapped.get(pod.uid, now) for pod in view.pods} if gone else {}
    if view.map is None:
        return Memory(unmapped=unmapped)
    ungated: dict[tuple[int, int], float] = {}
    lagging: dict[tuple[int, CopyId], float] = {}
    placed: dict[tuple[int, tuple[str, ...]], float] = {}
    for partition, facts in enumerate(_facts(view, view.map)):
        primary = facts.entry.primary
        if facts.entry.state in EMPTY and facts.entry.learners:
            place = partition, facts.entry.learners
            placed[place] = old.placed.get(place, now)
        if primary is None:
            continue
        if not election.has_open_gate(facts, primary):
            key = partition, facts.entry.term
            ungated[key] = old.ungated.get(key, now)
        report = facts.copy(primary.pod)
        for copy in report.lagging if report is not None else ():
            lagging[partition, copy] = old.lagging.get((partition, copy), now)
    short = {partition: old.short.get(partition, now) for partition in short_partitions(view)}
    idle = {pod: old.idle.get(pod, now) for pod in idle_pods(view)}
    down = {learner: old.down.get(learner, now) for learner in down_learners(view)}
    return Memory(ungated, lagging, short, placed, idle, down, unmapped)


def operator_step(view: OperatorView) -> OperatorDecision:
    """The next map, pod actions and events."""
    if not view.map_known:
        return OperatorDecision(waiting_for=("the API server to answer for the map",), wake_after=0.5)
    actions = plan_pods(view)
    if view.map is None:
        return _make_map(view, actions)
    decided, wakes = _decide_entries(view, view.map)
    # Placing all copies takes up to a second in a large cluster: a fail-over must not wait for it.
    entries = decided
    leaving = leaving_pods(view.map)
    if decided == view.map.entries:
        entries, more_wakes = _plan(view, decided, leaving)
        wakes += more_wakes
        leaving |= newly_leaving(view, decided, complete(view))
    _check_changes(view.map.entries, entries)
    ring = replace(view.map, members=_members(view, entries, leaving), entries=entries, settings=view.settings)
    ring.check()
    return OperatorDecision(
        map=ring if ring != view.map else None,
        pod_actions=actions,
        events=_events(view.map.entries, entries),
        wake_after=_wake_after(view, entries, wakes),
        waiting_for=_waiting_for(view, entries),
    )


def _make_map(view: OperatorView, actions: tuple[PodAction, ...]) -> OperatorDecision:
    """Bootstrap, or O8: never before every existing pod has told what it has seen."""
    missing = rebuild.waiting_for(view)
    if missing:
        waiting = tuple(f"{name} to tell which map it has seen" for name in missing)
        return OperatorDecision(pod_actions=actions, waiting_for=waiting, wake_after=0.5)
    entries = rebuild.rebuilt_entries(view)
    ring = HashRing(view.name, _members(view, entries), entries, view.settings)
    ring.check()
    was_there = [entry for entry in entries if entry.state is not State.VACANT]
    events: tuple[Event, ...] = ()
    if was_there:
        note = f"The map was gone; rebuilt {len(was_there)} partitions above the epochs that the pods have seen"
        events = (Event("MapRebuilt", note, warning=True),)
    return OperatorDecision(map=ring, pod_actions=actions, events=events)


def _plan(
    view: OperatorView, entries: tuple[Entry, ...], leaving: frozenset[str]
) -> tuple[tuple[Entry, ...], list[float]]:
    """What is not urgent, once nothing is: copies to their places, then primaries to theirs."""
    assert view.map is not None
    wanted = targets(view, entries)
    repaired = repair(view, entries, wanted)
    emptied = emptied_pods(view, leaving)
    balance = not view.paused and complete(view) and all(e.state in (State.STABLE, State.MOVING) for e in entries)
    facts = _facts(view, view.map)
    moved = begin_moves(view, facts, repaired, wanted, emptied, balance)
    return moved, [wake for item in facts for wake in item.wakes]


def _facts(view: OperatorView, ring: HashRing) -> list[election.Facts]:
    pods = {pod.uid: pod for pod in view.pods}
    return [election.Facts(view, partition, entry, pods) for partition, entry in enumerate(ring.entries)]


def _decide_entries(view: OperatorView, ring: HashRing) -> tuple[tuple[Entry, ...], list[float]]:
    wanted = cache(lambda: targets(view, ring.entries))

    def first_choice(partition: int) -> str:
        return next(iter(wanted()[partition]), "")

    entries: list[Entry] = []
    wakes: list[float] = []
    for facts in _facts(view, ring):
        entries.append(_next_entry(facts, partial(first_choice, facts.partition)))
        wakes += facts.wakes
    return tuple(entries), wakes


def _next_entry(facts: election.Facts, first_choice: Callable[[], str]) -> Entry:
    """At most one change of one entry."""
    rebuilt = rebuild.rebuilt_entry(facts.view, facts.partition)
    if rebuilt is not None:
        return rebuilt
    match facts.entry.state:
        case State.VACANT | State.LOST:
            return election.begun(facts, first_choice) or facts.entry
        case State.ELECTING:
            return election.promoted(facts, first_choice) or election.lost(facts) or facts.entry
        case State.STABLE:
            reason = election.elect_reason(facts)
            if reason is not None:
                return election.electing(facts, reason)
            return _next_members(facts) if not facts.view.is_blind(facts.entry) else facts.entry
        case State.MOVING:
            return next_moving(facts)


def _next_members(facts: election.Facts) -> Entry:
    """In-sync members that leave or join; those that leave become learners, or stay ones, when their pod is well."""
    entry = facts.entry
    leaving = dict(election.left(facts))
    if leaving:
        learners = {*entry.learners, *(copy.pod for copy in leaving if facts.usable(copy.pod))}
        return entry.changed(
            isr=tuple(copy for copy in entry.isr if copy not in leaving),
            learners=tuple(sorted(learners)),
            reason="; ".join(leaving.values()),
            since=facts.view.wall,
        )
    joining = election.joined(facts)
    if joining:
        pods = {copy.pod for copy in joining}
        return entry.changed(
            isr=tuple(sorted((*entry.isr, *joining))),
            learners=tuple(pod for pod in entry.learners if pod not in pods),
            reason="a replica is in sync",
            since=facts.view.wall,
        )
    return entry


def _check_changes(old: tuple[Entry, ...], new: tuple[Entry, ...]) -> None:
    """What no pass may ever do, whatever it was told (I3, I4)."""
    for before, after in zip(old, new, strict=True):
        role = (after.state, after.primary, after.isr, after.successor)
        if role != (before.state, before.primary, before.isr, before.successor):
            assert after.epoch > before.epoch, (before, after)
        if after.primary is not None and after.primary != before.primary:
            fresh = before.state in (State.VACANT, State.LOST) and after.primary.pod in before.learners
            elected = before.state is State.ELECTING and after.primary in before.isr
            handed_over = before.state is State.MOVING and after.primary == before.successor
            assert fresh or elected or handed_over, (before, after)
        if after.state is State.MOVING:
            assert before.state in (State.STABLE, State.MOVING) and after.primary == before.primary, (before, after)
        rebuilt = after.epoch > before.epoch + 1
        assert rebuilt or not (before.state is State.STABLE and after.state in (State.VACANT, State.LOST)), (
            before,
            after,
        )


def _members(
    view: OperatorView, entries: tuple[Entry, ...], leaving: frozenset[str] = frozenset()
) -> tuple[tuple[str, Member], ...]:
    """Pods with an address, and those gone whose copies the entries still name. One that ends is leaving too."""
    members: dict[str, Member] = {}
    named = {pod for entry in entries for pod in entry.pods()} | {
        copy.pod for entry in entries for copy in entry.former
    }
    if view.map is not None:
        members = {uid: member for uid, member in view.map.members if uid in named}
    for pod in view.pods:
        if (pod.host or pod.uid in leaving) and not pod.failed:
            going = pod.terminating or pod.uid in leaving
            members[pod.uid] = Member(pod.name, pod.host, pod.zone, pod.node, going)
    return tuple(sorted(members.items()))


def _events(old: tuple[Entry, ...], new: tuple[Entry, ...]) -> tuple[Event, ...]:
    """One event for all partitions that changed in the same way for the same reason."""
    groups: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    for partition, (before, after) in enumerate(zip(old, new, strict=True)):
        if before.epoch == after.epoch:
            continue
        if after.state is State.ELECTING:
            groups["ElectionStarted", after.reason, True].append(partition)
        elif after.state is State.LOST:
            groups["DataLost", after.reason, True].append(partition)
        elif after.state is State.MOVING:
            groups["HandoverStarted", after.reason, False].append(partition)
        elif before.state is State.MOVING:
            name = "HandedOver" if after.primary == before.successor else "HandoverGivenUp"
            groups[name, after.reason, False].append(partition)
        elif before.state is State.ELECTING:
            groups["PrimaryElected", after.reason, False].append(partition)
        elif before.state in (State.VACANT, State.LOST):
            groups["PartitionStarted", after.reason, False].append(partition)
        elif len(after.isr) < len(before.isr):
            groups["ReplicaLeft", after.reason, False].append(partition)
        elif len(after.isr) > len(before.isr):
            groups["ReplicaJoined", after.reason, False].append(partition)
    return tuple(
        Event(name, f"{_partitions(partitions)}: {reason}", warning)
        for (name, reason, warning), partitions in groups.items()
    )


def _partitions(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"Partition {numbers[0]}"
    shown = ", ".join(map(str, numbers[:16])) + (", ..." if len(numbers) > 16 else "")
    return f"{len(numbers)} partitions ({shown})"


def _wake_after(view: OperatorView, entries: tuple[Entry, ...], wakes: list[float]) -> float | None:
    """The next time at which waiting alone can change a decision; a second while anything is unfinished."""
    stable = all(entry.state is State.STABLE and not entry.learners for entry in entries)
    whole = complete(view) and stable and not view.memory.idle
    waits = [*wakes, *([] if whole else [1.0])]
    return max(0.01, min(waits)) if waits else None


def _is_blind(view: OperatorView, pod: Pod) -> bool:
    report = view.agents.get(pod.uid, PodView()).report
    return report is not None and report.blind


def _waiting_for(view: OperatorView, entries: tuple[Entry, ...]) -> tuple[str, ...]:
    """What keeps the cluster from being whole, and a roll from going on, for status."""
    texts = []
    staying = staying_pods(view)
    new = {pod.uid for pod in staying if not pod.outdated} if any(pod.outdated for pod in staying) else set()
    for pod in view.pods:
        if not pod.host:
            texts.append(f"{pod.name} to be scheduled and get an address")
        elif not view.agents.get(pod.uid, PodView()).reporting and not pod.terminating:
            texts.append(f"{pod.name} to report")
        elif _is_blind(view, pod):
            texts.append(f"{pod.name} to read the map: it cannot reach the API server")
        elif pod.uid in new and (needed := why_not_serving(view, pod)):
            texts.append(f"{pod.name} {needed}")
    if len([p for p in view.pods if not p.terminating]) < view.nodes:
        texts.append("pods to be created")
    states: dict[str, list[int]] = defaultdict(list)
    for partition, entry in enumerate(entries):
        if entry.state is not State.STABLE:
            states[entry.state].append(partition)
        elif entry.learners:
            states["syncing"].append(partition)
    for state, numbers in states.items():
        texts.append(f"{_partitions(numbers)} {'to sync a replica' if state == 'syncing' else f'in state {state}'}")
    return tuple(texts)
