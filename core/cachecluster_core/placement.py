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

NOBODY = -1
"""Stands for no pod among their numbers."""
NONE_SO_BAD = 1 << 20
"""More conflicts than any pod has."""


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


@lru_cache(maxsize=16)
def _preferences(names: tuple[str, ...], partitions: int) -> tuple[tuple[list[int], ...], tuple[list[int], ...]]:
    """For each partition these pods in the ring's order, and the place of each pod in it."""
    ring = Ring(names)
    number = {name: index for index, name in enumerate(names)}
    orders = tuple([number[name] for name in ring.walk(partition)] for partition in range(partitions))
    ranks = tuple([0] * len(names) for _ in orders)
    for order, rank in zip(orders, ranks, strict=True):
        for place, pod in enumerate(order):
            rank[pod] = place
    return orders, ranks


def _conflicts(places: tuple[Place, ...]) -> list[list[int]]:
    """How badly two pods stand beside each other: 2 for a shared node, 1 for a shared zone."""

    def between(one: Place, other: Place) -> int:
        shared = 2 * (one.node != "" and one.node == other.node) + (one.zone != "" and one.zone == other.zone)
        return shared if one is not other else 0

    return [[between(one, other) for other in places] for one in places]


class _Placer:
    """Pods are numbers here, in the order of `places`: this runs for large clusters while something waits for it."""

    def __init__(self, places: tuple[Place, ...], copies: int, current: tuple[Holding, ...], nodes: int) -> None:
        number = {place.pod: index for index, place in enumerate(places)}
        most = bounds(places, copies, len(current), max(nodes, len(places)))
        self.places = places
        self.copies = copies
        self.bound = [most[place.pod] for place in places]
        self.orders, self.ranks = _preferences(tuple(place.name for place in places), len(current))
        self.conflict = _conflicts(places)
        pairs = [row[other] for pod, row in enumerate(self.conflict) for other in range(pod)]
        self.least = min(pairs, default=0)  # conflicts that no two pods can do without, as where there is one zone
        self.had = [[number[pod] for pod in item.pods if pod in number and pod != item.primary] for item in current]
        self.leads = [number.get(item.primary, NOBODY) if item.primary is not None else NOBODY for item in current]
        self.barred = [frozenset(number[pod] for pod in item.barred if pod in number) for item in current]
        self.holds: list[list[int]] = [[] for _ in current]
        self.held: list[set[int]] = [set() for _ in places]
        self.excess = [-bound for bound in self.bound]
        self.strained: set[int] = set()

    def run(self) -> tuple[tuple[str, ...], ...]:
        for partition in range(len(self.holds)):
            self._keep(partition)
        for partition in range(len(self.holds)):
            self._fill(partition)
        self._level()
        self._spread()
        primary = self._order_primaries()
        return tuple(self._ordered(partition, first) for partition, first in enumerate(primary))

    def _ordered(self, partition: int, first: int) -> tuple[str, ...]:
        rank = self.ranks[partition]
        pods = sorted(self.holds[partition], key=lambda pod: -1 if pod == first else rank[pod])
        return tuple(self.places[pod].pod for pod in pods)

    def _add(self, partition: int, pod: int) -> None:
        self.holds[partition].append(pod)
        self.held[pod].add(partition)
        self.excess[pod] += 1

    def _move(self, partition: int, old: int, new: int) -> None:
        self.holds[partition][self.holds[partition].index(old)] = new
        self.held[old].remove(partition)
        self.held[new].add(partition)
        self.excess[old] -= 1
        self.excess[new] += 1

    def _conflicts(self, pod: int, others: list[int]) -> int:
        """How badly a pod stands beside others."""
        row, total = self.conflict[pod], 0
        for other in others:
            total += row[other]
        return total

    def _keep(self, partition: int) -> None:
        first = [self.leads[partition]] if self.leads[partition] != NOBODY else []
        for pod in [*first, *self.had[partition]][: self.copies]:
            self._add(partition, pod)

    def _fill(self, partition: int) -> None:
        holds, barred = self.holds[partition], self.barred[partition]
        while len(holds) < self.copies:
            best, found = (True, NONE_SO_BAD), NOBODY
            for pod in self.orders[partition]:
                if pod in holds or pod in barred:
                    continue
                key = (self.excess[pod] >= 0, self._conflicts(pod, holds))
                if key < best:
                    best, found = key, pod
                    if key == (False, self.least * len(holds)):
                        break
            if found == NOBODY:
                return
            self._add(partition, found)

    def _level(self) -> None:
        """Move copies from pods above their bound or far above others, until that ends."""
        pods = range(len(self.places))
        for _ in range(len(self.holds) * self.copies):
            low = min(self.excess)
            for donor in sorted(pods, key=lambda pod: (-self.excess[pod], self.places[pod].name)):
                if self.excess[donor] - low <= 1:
                    return
                if self._give_one(donor):
                    break
            else:
                return

    def _give_one(self, donor: int) -> bool:
        """Move the copy that another pod takes with the fewest conflicts; False when none can go."""
        takers = [(pod, excess) for pod, excess in enumerate(self.excess) if self.excess[donor] - excess > 1]
        best: tuple[int, bool, int, int, int, int] | None = None
        for partition in sorted(self.held[donor]):
            holds, rank, barred = self.holds[partition], self.ranks[partition], self.barred[partition]
            before, leads = self._conflicts(donor, holds), self.leads[partition] == donor
            rest = [other for other in holds if other != donor]
            for pod, excess in takers:
                if pod in rest or pod in barred:
                    continue
                key = (self._conflicts(pod, rest) - before, leads, excess, rank[pod], partition, pod)
                if best is None or key < best:
                    best = key
        if best is None:
            return False
        self._move(best[4], donor, best[5])
        return True

    def _spread(self) -> None:
        """Exchange copies between partitions where that separates zones or nodes without changing any load."""
        for partition in range(len(self.holds)):
            self._strain(partition)
        for partition, holds in enumerate(self.holds):
            for pod in list(holds):
                if self.leads[partition] != pod and self._conflicts(pod, holds):
                    self._exchange(partition, pod)

    def _strain(self, partition: int) -> None:
        """Note whether a partition could gain by an exchange that makes nothing better for the other one."""
        holds = self.holds[partition]
        least = self.least * (len(holds) - 1)
        strained = any(self._conflicts(pod, holds) > least for pod in holds)
        (self.strained.add if strained else self.strained.discard)(partition)

    def _exchange(self, partition: int, pod: int) -> None:
        rest = [other for other in self.holds[partition] if other != pod]
        before = self._conflicts(pod, rest)
        not_here = {*self.holds[partition], *self.barred[partition]}
        gains = {it: before - self._conflicts(it, rest) for it in range(len(self.places)) if it not in not_here}
        row, any_gains = self.conflict[pod], max(gains.values(), default=0) > 0
        for other in range(len(self.holds)) if any_gains else sorted(self.strained):
            holds = self.holds[other]
            if pod in holds or pod in self.barred[other]:
                continue
            beside = self._conflicts(pod, holds)
            for candidate in holds:
                gain = gains.get(candidate)
                if gain is None or self.leads[other] == candidate:
                    continue
                if gain > beside - row[candidate] - self._conflicts(candidate, holds):
                    self._move(partition, pod, candidate)
                    self._move(other, candidate, pod)
                    self._strain(partition)
                    self._strain(other)
                    return

    def _order_primaries(self) -> list[int]:
        """Who leads each partition; balanced to within one where the copies allow, by the fewest moves."""
        led: list[set[int]] = [set() for _ in self.places]
        primary = [now if now in holds else NOBODY for now, holds in zip(self.leads, self.holds, strict=True)]
        for partition, pod in enumerate(primary):
            if pod != NOBODY:
                led[pod].add(partition)
        for partition, holds in enumerate(self.holds):
            if holds and primary[partition] == NOBODY:
                rank = self.ranks[partition]
                pod = primary[partition] = min(holds, key=lambda pod: (len(led[pod]), rank[pod]))
                led[pod].add(partition)
        while self._shift_primary(primary, led):
            pass
        return primary

    def _shift_primary(self, primary: list[int], led: list[set[int]]) -> bool:
        """Pass primaries along a chain of pods from one that has two more than the last; False when none is left."""
        fewest = min(map(len, led))
        for start in sorted(range(len(led)), key=lambda pod: (-len(led[pod]), self.places[pod].name)):
            if len(led[start]) - fewest < 2:
                return False
            via = self._chain(start, led)
            if via is not None:
                for giver, taker, partition in via:
                    primary[partition] = taker
                    led[giver].remove(partition)
                    led[taker].add(partition)
                return True
        return False

    def _chain(self, start: int, led: list[set[int]]) -> list[tuple[int, int, int]] | None:
        """The shortest chain (giver, taker, partition) from a pod to one that leads two fewer."""
        via: dict[int, tuple[int, int]] = {}
        queue = deque([start])
        while queue:
            pod = queue.popleft()
            if len(led[start]) - len(led[pod]) >= 2:
                chain = []
                while pod != start:
                    giver, partition = via[pod]
                    chain.append((giver, pod, partition))
                    pod = giver
                return chain
            for partition in sorted(led[pod]):
                for other in self.holds[partition]:
                    if other not in via and other != start:
                        via[other] = (pod, partition)
                        queue.append(other)
        return None
