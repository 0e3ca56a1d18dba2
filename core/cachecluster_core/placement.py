"""`place`: which pods hold the copies of each partition. Pure and deterministic.

What is there already stays as far as balance and spreading allow, so that a pod that joins or leaves moves close to
the least possible number of copies; the rest goes where the ring says, with bounded load (Mirrokni et al., "Consistent
Hashing with Bounded Loads", 2016): at most ceil(partitions * copies / pods) copies a pod. Only where a zone has more
than its part of the pods, as after nodes were drained, pods of the other zones take more: copies of a partition in two
zones are worth that, up to what a pod is sized for when another one is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from .ring import Ring
from .sizing import copies_per_node


@dataclass(frozen=True, slots=True)
class Place:
    """A pod that may hold copies, and where it stands ('' when unknown)."""

    pod: str
    name: str
    zone: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a partition has now: the pods that hold it, best first, and the primary's pod. `barred` pods are given no
    copy of it, unless they have one."""

    pods: tuple[str, ...] = ()
    primary: str | None = None
    barred: frozenset[str] = frozenset()


@lru_cache(maxsize=16)
def place(
    places: tuple[Place, ...], replication_factor: int, current: tuple[Holding, ...], nodes: int = 0
) -> tuple[tuple[str, ...], ...]:
    """For each partition the pods that shall hold it, the primary's first.

    `current` has one item per partition; `nodes` is how many pods there are to be, if more than `places`. Fewer pods
    than `replication_factor` (barred ones do not count) give as many copies as there are pods. Primaries stay where
    they are as far as they are balanced; copies of primaries are the last to move.
    """
    if not places:
        return tuple(() for _ in current)
    return _Placer(places, min(replication_factor, len(places)), current, nodes).run()


def bounds(places: Collection[Place], copies: int, partitions: int, nodes: int) -> dict[str, int]:
    """How many copies each pod takes at most while `nodes` are wanted: the same number, unless a zone's pods would get
    more copies than there are partitions. Those are given to other zones, up to what a pod of `nodes` takes when one is
    lost."""
    even = copies_per_node(partitions, copies, len(places))
    zones = Counter(place.zone or place.pod for place in places)
    left, pods = partitions * copies, len(places)
    crowded: set[str] = set()
    if len(zones) >= copies:
        while more := {z for z, count in zones.items() if z not in crowded and left * count > partitions * pods}:
            crowded |= more
            left -= partitions * len(more)
            pods -= sum(zones[zone] for zone in more)
    if not crowded:
        return dict.fromkeys((place.pod for place in places), even)
    other = min(max(even, copies_per_node(partitions, copies, nodes - 1)), -(-left // pods))
    per_zone = max(partitions, -(-(partitions * copies - other * pods) // len(crowded)))

    def bound(place: Place) -> int:
        zone = place.zone or place.pod
        return -(-per_zone // zones[zone]) if zone in crowded else other

    return {place.pod: bound(place) for place in places}


class _Placer:
    def __init__(self, places: tuple[Place, ...], copies: int, current: tuple[Holding, ...], nodes: int) -> None:
        self.places = {place.pod: place for place in places}
        self.copies = copies
        self.current = current
        self.bound = bounds(places, copies, len(current), max(nodes, len(places)))
        by_name = {place.name: place.pod for place in places}
        ring = Ring(by_name)
        self.preference = [[by_name[name] for name in ring.walk(partition)] for partition in range(len(current))]
        self.holds: list[list[str]] = [[] for _ in current]
        self.load = dict.fromkeys(self.places, 0)

    def run(self) -> tuple[tuple[str, ...], ...]:
        for partition in range(len(self.current)):
            self._keep(partition)
        for partition in range(len(self.current)):
            self._fill(partition)
        self._level()
        self._spread()
        return self._order_primaries()

    def _primary(self, partition: int) -> str | None:
        primary = self.current[partition].primary
        return primary if primary in self.places else None

    def _add(self, partition: int, pod: str) -> None:
        self.holds[partition].append(pod)
        self.load[pod] += 1

    def _move(self, partition: int, old: str, new: str) -> None:
        self.holds[partition][self.holds[partition].index(old)] = new
        self.load[old] -= 1
        self.load[new] += 1

    def _excess(self, pod: str) -> int:
        """How many copies a pod has beyond its bound."""
        return self.load[pod] - self.bound[pod]

    def _conflicts(self, pod: str, others: list[str]) -> int:
        """How badly a pod stands beside others: 2 for each shared node, 1 for each shared zone."""
        here = self.places[pod]
        return sum(
            2 * (here.node != "" and here.node == self.places[other].node)
            + (here.zone != "" and here.zone == self.places[other].zone)
            for other in others
            if other != pod
        )

    def _keep(self, partition: int) -> None:
        holding = self.current[partition]
        pods = [pod for pod in holding.pods if pod in self.places and pod != holding.primary]
        first = [holding.primary] if holding.primary in self.places else []
        for pod in [*first, *pods]:
            if pod is not None and len(self.holds[partition]) < self.copies:
                self._add(partition, pod)

    def _fill(self, partition: int) -> None:
        while len(self.holds[partition]) < self.copies:
            holds = self.holds[partition]
            order = self.preference[partition]
            free = [pod for pod in order if pod not in holds and pod not in self.current[partition].barred]
            if not free:
                return
            best = min(free, key=lambda pod: (self._excess(pod) >= 0, self._conflicts(pod, holds), order.index(pod)))
            self._add(partition, best)

    def _level(self) -> None:
        """Move copies from pods above their bound or far above others, until that ends."""
        for _ in range(len(self.current) * self.copies):
            low = min(map(self._excess, self.load))
            for donor in sorted(self.load, key=lambda pod: (-self._excess(pod), self.places[pod].name)):
                if self._excess(donor) - low <= 1:
                    return
                if self._give_one(donor):
                    break
            else:
                return

    def _give_one(self, donor: str) -> bool:
        """Move the copy that another pod takes with the fewest conflicts; False when none can go."""
        best: tuple[tuple[int, bool, int, int], int, str] | None = None
        for partition, holds in enumerate(self.holds):
            if donor not in holds:
                continue
            leads = self._primary(partition) == donor
            before = self._conflicts(donor, holds)
            barred = self.current[partition].barred
            for pod in self.places:
                if pod in holds or pod in barred or self._excess(donor) - self._excess(pod) <= 1:
                    continue
                rest = [other for other in holds if other != donor]
                worse = self._conflicts(pod, rest) - before
                key = (worse, leads, self._excess(pod), self.preference[partition].index(pod))
                if best is None or key < best[0]:
                    best = (key, partition, pod)
        if best is None:
            return False
        self._move(best[1], donor, best[2])
        return True

    def _spread(self) -> None:
        """Exchange copies between partitions where that separates zones or nodes without changing any load."""
        for partition, holds in enumerate(self.holds):
            for pod in list(holds):
                if self._primary(partition) != pod and self._conflicts(pod, holds):
                    self._exchange(partition, pod)

    def _exchange(self, partition: int, pod: str) -> None:
        rest = [other for other in self.holds[partition] if other != pod]
        before = self._conflicts(pod, rest)
        not_here = {*self.holds[partition], *self.current[partition].barred}
        for other, holds in enumerate(self.holds):
            if other == partition or pod in holds or pod in self.current[other].barred:
                continue
            for candidate in holds:
                if candidate in not_here or self._primary(other) == candidate:
                    continue
                gain = before - self._conflicts(candidate, rest)
                others = [item for item in holds if item != candidate]
                loss = self._conflicts(pod, others) - self._conflicts(candidate, others)
                if gain > loss:
                    self._move(partition, pod, candidate)
                    self._move(other, candidate, pod)
                    return

    def _order_primaries(self) -> tuple[tuple[str, ...], ...]:
        """The primary first in each partition; balanced to within one where the copies allow, by the fewest moves."""
        count = dict.fromkeys(self.places, 0)
        primary: list[str] = []
        for partition, holds in enumerate(self.holds):
            now = self._primary(partition)
            primary.append(now if now is not None and now in holds else "")
            if primary[partition]:
                count[primary[partition]] += 1
        for partition, holds in enumerate(self.holds):
            if holds and not primary[partition]:
                order = self.preference[partition].index
                primary[partition] = min(holds, key=lambda pod: (count[pod], order(pod)))
                count[primary[partition]] += 1
        while self._shift_primary(primary, count):
            pass
        return tuple(
            (first, *sorted((pod for pod in holds if pod != first), key=self.preference[partition].index))
            if holds
            else ()
            for partition, (first, holds) in enumerate(zip(primary, self.holds, strict=True))
        )

    def _shift_primary(self, primary: list[str], count: dict[str, int]) -> bool:
        """Pass primaries along a chain of pods from one that has two more than the last; False when none is left."""
        for start in sorted(count, key=lambda pod: (-count[pod], self.places[pod].name)):
            via: dict[str, tuple[str, int]] = {}
            queue = deque([start])
            while queue:
                pod = queue.popleft()
                if count[start] - count[pod] >= 2:
                    while pod != start:
                        previous, partition = via[pod]
                        primary[partition] = pod
                        count[pod] += 1
                        count[previous] -= 1
                        pod = previous
                    return True
                for partition, holds in enumerate(self.holds):
                    if primary[partition] != pod:
                        continue
                    for other in holds:
                        if other not in via and other != start:
                            via[other] = (pod, partition)
                            queue.append(other)
        return False
