"""Hand-overs, the operator's half (O6): which primaries should be elsewhere, what becomes of a `Moving` entry. Pure.

A primary moves because its pod is to be emptied (it is leaving or ending), or, gently and only while all is well,
because its place is elsewhere. Either way only to an in-sync copy that can lead now.
"""

from __future__ import annotations

from .election import Facts, can_lead, electing, has_open_gate, is_dead, pod_name
from .engines import Engines
from .hashring import CopyId, Entry, State
from .operator_view import OperatorView, Pod, Suspicion

RETRY_S = 1.0
"""Seconds after any change of an entry before its primary is (again) moved off a pod that is to be emptied."""


def next_moving(facts: Facts) -> Entry:
    """What follows a `Moving` entry: the successor after its take-over, the primary after it gave up, or an election.

    Never the old primary on its silence: only its own recorded word that no token was and will be sent.
    """
    entry = facts.entry
    primary, successor = entry.primary, entry.successor
    assert primary is not None and successor is not None
    taken = facts.copy(successor.pod)
    if taken is not None and taken.run_id == successor.run_id and taken.taken_over_epoch == entry.epoch:
        return entry.changed(
            state=State.STABLE,
            primary=successor,
            successor=None,
            term=entry.epoch + 1,
            reason=f"{pod_name(facts, primary.pod)} handed over to {pod_name(facts, successor.pod)}",
            since=facts.view.wall,
        )
    report = facts.copy(primary.pod)
    gave_up = report is not None and report.run_id == primary.run_id and report.gave_up_epoch == entry.epoch
    if gave_up and has_open_gate(facts, primary):
        reason = f"{pod_name(facts, successor.pod)} was not ready to take over"
        return entry.changed(state=State.STABLE, successor=None, reason=reason, since=facts.view.wall)
    trouble = _trouble(facts, primary, successor)
    if trouble is None:
        return entry
    hopeless = all(is_dead(facts, copy) for copy in entry.isr)
    if hopeless or any(can_lead(facts, copy) for copy in entry.isr):
        return electing(facts, trouble)
    return electing(facts, trouble) if facts.passed(facts.ungated_since, facts.view.timing.repair_delay) else entry


def _trouble(facts: Facts, primary: CopyId, successor: CopyId) -> str | None:
    for copy in (primary, successor):
        if is_dead(facts, copy):
            return f"the redis process on {pod_name(facts, copy.pod)} ended during a hand-over"
        if facts.agent(copy.pod).suspicion is Suspicion.CONFIRMED:
            return f"{pod_name(facts, copy.pod)} does not answer during a hand-over"
    if facts.entry_older_than(facts.view.timing.move_limit):
        return f"a hand-over took longer than {facts.view.timing.move_limit:g} s"
    return None


def begin_moves(
    view: OperatorView,
    facts: list[Facts],
    entries: tuple[Entry, ...],
    wanted: tuple[tuple[str, ...], ...],
    emptied: frozenset[str],
    balance: bool,
) -> tuple[Entry, ...]:
    """The same entries with hand-overs begun, within the limit of concurrent ones.

    `wanted` are the pods that each partition belongs on, the primary's first; `emptied` the pods that are to have
    no primary. `balance`: the cluster is whole, so that primaries may go to their places too.
    """
    result = list(entries)
    room = view.timing.max_concurrent_moves - sum(entry.state is State.MOVING for entry in entries)
    urgent = [p for p, e in enumerate(entries) if e.primary is not None and e.primary.pod in emptied]
    for partition in urgent or (range(len(entries)) if balance else ()):
        if room > 0 and entries[partition] == facts[partition].entry and entries[partition].state is State.STABLE:
            result[partition] = _begin(facts[partition], wanted[partition], emptied)
            room -= result[partition].state is State.MOVING
    return tuple(result)


def _begin(facts: Facts, wanted: tuple[str, ...], emptied: frozenset[str]) -> Entry:
    """The `Moving` entry that follows a Stable one, or the same when its primary is to stay for now."""
    entry, primary = facts.entry, facts.entry.primary
    assert primary is not None
    urgent = primary.pod in emptied
    displaced = urgent or primary.pod not in wanted
    successor = _successor(facts, wanted, emptied, any_place=urgent)
    if successor is None or not has_open_gate(facts, primary) or facts.view.is_blind(entry):
        return entry
    if not facts.entry_older_than(RETRY_S if displaced else facts.view.timing.balance_delay):
        return entry
    why = "is to be emptied" if urgent else "is not its place on the ring"
    return entry.changed(
        state=State.MOVING,
        successor=successor,
        reason=f"moves to {pod_name(facts, successor.pod)}: {pod_name(facts, primary.pod)} {why}",
        since=facts.view.wall,
    )


def _successor(facts: Facts, wanted: tuple[str, ...], emptied: frozenset[str], any_place: bool) -> CopyId | None:
    """The in-sync copy that should lead; with `any_place` the next best if that one cannot, else none.

    Where pods run two engines, one that could fill all copies that stay is better than its place; without `any_place`
    no other will do.
    """
    entry = facts.entry
    assert entry.primary is not None
    report = facts.copy(entry.primary.pod)
    ready = [
        copy
        for copy in entry.isr
        if copy != entry.primary
        and copy.pod not in emptied
        and can_lead(facts, copy)
        and _follows(facts, copy)
        and facts.usable(copy.pod)
        and facts.has_router(copy.pod)
        and not facts.is_blind(copy.pod)
        and (report is None or copy not in report.lagging)
    ]
    if not ready or (not any_place and (not wanted or wanted[0] == entry.primary.pod)):
        return None
    engines = Engines(facts.view.agents, facts.view.pods)
    staying = [copy.pod for copy in entry.isr if copy.pod not in emptied]
    if not any_place:
        return next((c for c in ready if c.pod == wanted[0] and engines.fills_all(c.pod, staying)), None)
    order = {pod: place for place, pod in enumerate(wanted)}

    def rank(copy: CopyId) -> tuple[bool, int, CopyId]:
        return not engines.fills_all(copy.pod, staying), order.get(copy.pod, len(order)), copy

    return min(ready, key=rank, default=None)


def _follows(facts: Facts, copy: CopyId) -> bool:
    report = facts.copy(copy.pod)
    return report is not None and report.link_up and not report.syncing


def emptied_pods(view: OperatorView, leaving: frozenset[str]) -> frozenset[str]:
    """Pods that are to have no primary: leaving by the map, or ending by their object or their agent's word."""

    def ending(pod: Pod) -> bool:
        agent = view.agents.get(pod.uid)
        return pod.terminating or (agent is not None and agent.report is not None and agent.report.draining)

    return leaving | {pod.uid for pod in view.pods if ending(pod)}
