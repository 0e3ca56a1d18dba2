"""`ChangeTrack`: follows a planned change from snapshot to snapshot: how far it got, how fast, and what is an event.

Only what this operator has seen itself counts: after a change of the operator counting begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from cachecluster_core.hashring import HashRing, State
from cachecluster_core.operator_view import Event

from .remaining_work import RemainingWork, remaining_work
from .snapshot import ClusterSnapshot

RATE_WINDOW_S = 30.0
"""The rate of copying is that of so many seconds."""
RATE_LEAST_S = 3.0
"""... and not told before so many."""
GUESS_FROM = 0.05
"""How much must have been copied, of what is left, before a guess is made from it."""
QUIET_S = 15.0
"""Copies that could be spread more evenly are not waited for when nothing has changed for so long after the pause
that moves for balance make."""


class Change(StrEnum):
    """What is being done as planned; the value is the reason in the condition Progressing."""

    NONE = ""
    SCALING_OUT = "ScalingOut"
    SCALING_IN = "ScalingIn"
    ROLLING = "Rolling"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the change is. `taken_off` is by pod UID how many partitions had a copy there when it began to leave;
    `copied` bytes were copied since something was to be copied; `rate` is in bytes a second (0: not known);
    `replaced` pods were replaced in this roll."""

    change: Change = Change.NONE
    work: RemainingWork = field(default_factory=RemainingWork)
    taken_off: dict[str, int] = field(default_factory=dict)
    copied: int = 0
    rate: float = 0.0
    replaced: int = 0

    @property
    def seconds_left(self) -> float | None:
        """An estimate for the copying, None while there is too little to go by."""
        left = self.work.bytes_left
        return left / self.rate if self.rate > 0 and left > 0 and self.copied >= GUESS_FROM * left else None


class ChangeTrack:
    """`observe` every snapshot of one cluster, in order; `progress` is what is known after it."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._before: ClusterSnapshot | None = None
        self._samples: deque[tuple[float, int]] = deque()
        self._changed_at = 0.0

    def observe(self, snapshot: ClusterSnapshot) -> tuple[Event, ...]:
        """Take the snapshot in; returns what is worth an event. The first one tells no event: nobody knows since when
        things are as they are."""
        before, old = self._before, self.progress
        work = remaining_work(snapshot)
        self._before = snapshot
        if before is None or before.map != snapshot.map or before.pods != snapshot.pods:
            self._changed_at = snapshot.now
        change = self._change(before, snapshot, work)
        copied, rate = self._copied(snapshot.now, work)
        self.progress = Progress(
            change=change,
            work=work,
            taken_off={pod.uid: max(held, old.taken_off.get(pod.uid, 0)) for pod, held in work.leaving},
            copied=copied,
            rate=rate,
            replaced=_replaced(before, snapshot, old.replaced) if change is Change.ROLLING else 0,
        )
        if before is None:
            return ()
        return tuple(_events(before, snapshot, old, self.progress))

    def _change(self, before: ClusterSnapshot | None, snapshot: ClusterSnapshot, work: RemainingWork) -> Change:
        """What is evident, or else what has begun and is not finished."""
        if work.outdated:
            return Change.ROLLING
        nodes = snapshot.desired.nodes
        if before is not None and nodes > before.desired.nodes:
            return Change.SCALING_OUT
        pods = {pod.uid for pod, _ in work.leaving if not pod.terminating}
        if len(work.staying) > nodes or (pods and self.progress.change is Change.NONE):
            return Change.SCALING_IN
        return Change.NONE if self._at_rest(snapshot, work) else self.progress.change

    def _at_rest(self, snapshot: ClusterSnapshot, work: RemainingWork) -> bool:
        if work.leaving or work.filling or work.unfilled or work.moving or snapshot.map is None:
            return False
        quiet = snapshot.now - self._changed_at > snapshot.desired.timing.balance_delay + QUIET_S
        all_there = len(work.staying) == snapshot.desired.nodes == len(snapshot.pods)
        return all_there and (not work.uneven or quiet) and _all_stable(snapshot.map)

    def _copied(self, now: float, work: RemainingWork) -> tuple[int, float]:
        """Bytes copied since there was something to copy, and how many a second lately. What is left may also grow,
        with the data or with the plan: then nothing was copied."""
        if not work.copies_left:
            self._samples.clear()
            return 0, 0.0
        old = self.progress
        less = old.work.bytes_left - work.bytes_left if self._samples else 0
        copied = old.copied + max(0, less) if self._samples else 0
        self._samples.append((now, copied))
        while now - self._samples[0][0] > RATE_WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()
        since, at_first = self._samples[0]
        rate = (copied - at_first) / (now - since) if now - since >= RATE_LEAST_S else 0.0
        return copied, rate


def _all_stable(ring: HashRing) -> bool:
    return all(entry.state is State.STABLE for entry in ring.entries)


def _replaced(before: ClusterSnapshot | None, snapshot: ClusterSnapshot, so_far: int) -> int:
    return so_far + len(_newly_ready(before, snapshot))


def _newly_ready(before: ClusterSnapshot | None, snapshot: ClusterSnapshot) -> list[str]:
    """Pods by today's template that are ready now and were not there, or not ready."""
    if before is None:
        return []
    ready = {pod.uid for pod in before.pods if pod.ready and not pod.outdated}
    known = {pod.uid for pod in before.pods if pod.ready}
    return [pod.name for pod in snapshot.pods if pod.ready and not pod.outdated and pod.uid not in ready | known]


def _events(before: ClusterSnapshot, snapshot: ClusterSnapshot, old: Progress, new: Progress) -> Iterator[Event]:
    wanted, was = snapshot.desired.nodes, before.desired.nodes
    if wanted != was and snapshot.map is not None:
        yield Event("ScalingOut" if wanted > was else "ScalingIn", f"{wanted} nodes are wanted, {was} were")
    if new.change is Change.ROLLING and old.change is not Change.ROLLING:
        names = ", ".join(pod.name for pod in new.work.outdated)
        yield Event("RollStarted", f"Made from another template and to be replaced one at a time: {names}")
    had = {pod.uid: held for pod, held in old.work.leaving}
    for pod, held in new.work.leaving:
        if not held and had.get(pod.uid):
            yield Event("PodEmptied", f"{pod.name} holds no copy any more")
    if Change.ROLLING in (old.change, new.change):
        for name in _newly_ready(before, snapshot):
            yield Event("PodReplaced", f"{name} is ready; {len(new.work.outdated)} pods are still to be replaced")
    if new.change is Change.NONE and old.change is not Change.NONE:
        reason = "RollCompleted" if old.change is Change.ROLLING else "ScalingCompleted"
        yield Event(reason, f"{len(new.work.staying)} nodes; every partition has its copies")
