"""A map that is missing, or below what agents have seen: how it is made, and made anew (O8). Pure."""

from __future__ import annotations

from dataclasses import replace

from .election import lost_after
from .hashring import CopyId, Entry, State
from .operator_view import OperatorView, PodView
from .report import Process


def is_due(view: OperatorView) -> bool:
    """Is there no map, or is it below what some agent has seen?"""
    if view.map is None:
        return True
    entries, existing = view.map.entries, {pod.uid for pod in view.pods}
    reports = [it.report for uid, it in view.agents.items() if it.report is not None and uid in existing]
    seen = [(partition, copy.epoch) for report in reports for partition, copy in report.copies.items()]
    seen += [(partition, entry.epoch) for report in reports for partition, entry in report.entries.items()]
    return any(partition < len(entries) and epoch > entries[partition].epoch for partition, epoch in seen)


def waiting_for(view: OperatorView) -> tuple[str, ...]:
    """Names of existing pods that must still tell what they have seen, or stay silent for so long that they can
    have no authority any more: they may have read the old map until it went, whoever heard of them. One whose sidecar
    has never run has seen nothing.

    While the map is missing, a report made when its agent still acted on the old one does not count: it comes without
    the entries that the agent took.
    """
    patience = lost_after(view, view.settings.replication_factor)
    missing = []
    for pod in view.pods:
        agent = view.agents.get(pod.uid, PodView())
        told = agent.reporting and agent.report is not None and (view.map is not None or agent.report.version == "")
        unmapped = view.memory.unmapped.get(pod.uid, view.now)
        silent = agent.unreachable_since is not None and (view.now - max(agent.unreachable_since, unmapped) >= patience)
        # The kubelet's word may be older than a report.
        never_started = not agent.reporting and (not pod.host or (pod.unstarted and agent.report is None))
        if not (told or silent or never_started or pod.failed):
            missing.append(pod.name)
    return tuple(sorted(missing))


def rebuilt_entries(view: OperatorView) -> tuple[Entry, ...]:
    """Entries for a map that is missing: above everything that any agent has seen; Vacant only what none ever has."""
    return tuple(rebuilt_entry(view, partition) or Entry(since=view.wall) for partition in range(view.partitions))


def rebuilt_entry(view: OperatorView, partition: int) -> Entry | None:
    """The entry that must replace what the map says of a partition, None when no agent has seen more than it says.

    While the map is below that and pods have still to tell what they have seen, it is the map's own: nothing may be
    decided from what is known to be old.
    """
    current = view.map.entries[partition] if view.map else None
    floor, best = _highest_seen(view, partition)
    if floor == 0 or (current is not None and current.epoch >= floor):
        return None
    if current is not None and waiting_for(view):
        return current
    intact = _intact_copies(view, partition)
    if best is not None and best.epoch == floor:
        if best.state in (State.VACANT, State.LOST):
            learners = tuple(sorted({*best.learners, *(copy.pod for copy in intact)}))
            return replace(best, epoch=floor + 1, learners=learners, reason="the map was rebuilt", since=view.wall)
        isr = best.isr
    elif intact:
        isr = intact
    else:
        return Entry(floor + 1, State.LOST, reason="the map was rebuilt; no copy is left", since=view.wall)
    entry = Entry(
        epoch=floor + 1,
        state=State.ELECTING,
        isr=isr,
        former=(),  # another may have been promoted by a map that only its own agent saw: time alone proves silence
        term=0 if best is None else best.term,
        learners=() if best is None else tuple(pod for pod in best.learners if pod not in {c.pod for c in isr}),
        reason="the map was rebuilt from what the agents know",
        since=view.wall,
    )
    entry.check()
    return entry


def _highest_seen(view: OperatorView, partition: int) -> tuple[int, Entry | None]:
    """The highest epoch that any agent reports, and the highest entry one of them took."""
    floor, best = 0, None
    existing = {pod.uid for pod in view.pods}
    for uid, agent in view.agents.items():
        if agent.report is None or uid not in existing:
            continue
        copy = agent.report.copies.get(partition)
        entry = agent.report.entries.get(partition)
        if copy is not None:
            floor = max(floor, copy.epoch)
        if entry is not None:
            floor = max(floor, entry.epoch)
            if best is None or entry.epoch > best.epoch:
                best = entry
    return floor, best


def _intact_copies(view: OperatorView, partition: int) -> tuple[CopyId, ...]:
    found = []
    for uid, agent in view.agents.items():
        copy = agent.report.copies.get(partition) if agent.report is not None and agent.reporting else None
        if copy is not None and copy.process is Process.UP and copy.intact:
            found.append(CopyId(uid, copy.run_id))
    return tuple(sorted(found))
