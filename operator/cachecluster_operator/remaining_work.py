"""What planned changes and repair still have to do, by one snapshot: pods to empty, copies to fill, bytes. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cachecluster_core.hashring import Entry, State
from cachecluster_core.leaving import leaving_pods
from cachecluster_core.operator_view import Pod
from cachecluster_core.report import CopyReport

from .snapshot import ClusterSnapshot

HAS_DATA = (State.STABLE, State.MOVING, State.ELECTING)


@dataclass(frozen=True, slots=True)
class RemainingWork:
    """`staying` pods are those that are to go on; `leaving` and `outdated` are existing pods by UID, the former with
    how many partitions have a copy on them. `filling` copies are being filled, `unfilled` others still have to be, to
    replace those that are missing or on leaving pods; `uneven` of pods that joined would still take copies for balance.
    `bytes_left` is how much data all these copies still have to get, `moving` are partitions that are handed over."""

    staying: tuple[Pod, ...] = ()
    leaving: tuple[tuple[Pod, int], ...] = ()
    outdated: tuple[Pod, ...] = ()
    filling: int = 0
    unfilled: int = 0
    uneven: int = 0
    bytes_left: int = 0
    moving: tuple[int, ...] = ()

    @property
    def copies_left(self) -> int:
        """Copies that still have to be filled."""
        return self.filling + max(self.unfilled, self.uneven)


def is_staying(pod: Pod, leaving: frozenset[str]) -> bool:
    """Whether a pod is to go on: it neither ends nor is emptied."""
    return not pod.terminating and not pod.failed and pod.uid not in leaving


def remaining_work(snapshot: ClusterSnapshot) -> RemainingWork:
    """All of it; nothing but pods as long as there is no map."""
    leaving = leaving_pods(snapshot.map)
    staying = tuple(pod for pod in snapshot.pods if is_staying(pod, leaving))
    outdated = tuple(pod for pod in snapshot.pods if pod.outdated)
    if snapshot.map is None:
        return RemainingWork(staying, outdated=outdated)
    entries = snapshot.map.entries
    held = Counter(uid for entry in entries for uid in entry.pods())
    copies = _Copies(snapshot, frozenset(pod.uid for pod in staying))
    for partition, entry in enumerate(entries):
        if entry.state in HAS_DATA:
            copies.add(partition, entry)
    uneven = 0
    if len(staying) >= snapshot.desired.nodes:
        fair = len(entries) * min(snapshot.map.settings.replication_factor, len(staying)) // max(1, len(staying))
        uneven = sum(max(0, fair - held[pod.uid]) for pod in staying)
    more = max(copies.unfilled, uneven) - copies.unfilled
    return RemainingWork(
        staying=staying,
        leaving=tuple((pod, held[pod.uid]) for pod in snapshot.pods if pod.uid in leaving),
        outdated=outdated,
        filling=copies.filling,
        unfilled=copies.unfilled,
        uneven=uneven,
        bytes_left=copies.bytes_left + more * copies.bytes_of_all // max(1, len(entries)),
        moving=tuple(p for p, entry in enumerate(entries) if entry.state is State.MOVING),
    )


class _Copies:
    """Counts copies that are being filled or missing on pods that stay, and what they still have to get."""

    def __init__(self, snapshot: ClusterSnapshot, staying: frozenset[str]) -> None:
        assert snapshot.map is not None
        self._snapshot = snapshot
        self._staying = staying
        self._wanted = min(snapshot.map.settings.replication_factor, len(staying))
        self.filling = self.unfilled = self.bytes_left = self.bytes_of_all = 0

    def add(self, partition: int, entry: Entry) -> None:
        size = max((copy.used_memory for uid in entry.pods() if (copy := self._report(uid, partition))), default=0)
        learners = [uid for uid in entry.learners if uid in self._staying]
        in_sync = sum(copy.pod in self._staying for copy in entry.isr)
        unfilled = max(0, self._wanted - in_sync - len(learners))
        self.filling += len(learners)
        self.unfilled += unfilled
        self.bytes_of_all += size
        self.bytes_left += unfilled * size
        for uid in learners:
            copy = self._report(uid, partition)
            self.bytes_left += max(0, size - (copy.used_memory if copy is not None else 0))

    def _report(self, uid: str, partition: int) -> CopyReport | None:
        view = self._snapshot.agents.get(uid)
        report = view.report if view is not None and view.reporting else None
        return report.copies.get(partition) if report is not None else None
