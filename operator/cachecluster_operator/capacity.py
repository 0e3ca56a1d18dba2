"""What copies may hold, and whether what they hold fits: pure. By the map's own figures, so that nothing is remembered.

A change that lets a copy hold less is decided once, against what copies hold at that moment; from then on the map says
so, and the change goes on. A change that lets a copy hold more waits until no pod has more copies than its share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cachecluster_core.engines import Engines
from cachecluster_core.hashring import HashRing
from cachecluster_core.leaving import leaving_pods
from cachecluster_core.operator_view import PodView
from cachecluster_core.placement import Place, bounds
from cachecluster_core.sizing import Sizing, copies_per_node, size_copies

EVICTION_SLACK = 5
"""Per cent by which a full copy may use more than it may: buffers of replicas, and what a replica has yet to evict."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a cluster holds. Bytes of one copy: `maxmemory` is what the map allows (0: there is no map), `largest_used`
    the most that a reported one uses. `most_copies` is the most copies that one pod has by the map; `spread_over` is
    how many pods that stay hold them, each no more than its place allows (0: one holds more); `unreported` are
    partitions whose primary does not report, so that nobody knows what they hold; `leaving` are the UIDs of pods that
    are being emptied. `unfit` are UIDs of pods that hold nothing and whose engine cannot load what some primary sends,
    with both engines. `park_max_bytes` and `max_clients` are what the map tells each router process."""

    maxmemory: int = 0
    replication_factor: int = 0
    most_copies: int = 0
    spread_over: int = 0
    largest_used: int = 0
    unreported: tuple[int, ...] = ()
    leaving: frozenset[str] = frozenset()
    unfit: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    park_max_bytes: int = 0
    max_clients: int = 0

    @property
    def known(self) -> bool:
        """Whether there is a map to go by."""
        return self.maxmemory > 0


def holdings_of(ring: HashRing | None, agents: Mapping[str, PodView]) -> Holdings:
    """What is held by the map (None: there is none, or it is not known) and the agents' reports."""
    if ring is None:
        return Holdings()
    copies: dict[str, int] = {}
    unreported: list[int] = []
    largest = 0
    for partition, entry in enumerate(ring.entries):
        for uid in entry.pods():
            copies[uid] = copies.get(uid, 0) + 1
        heard = False
        for copy in entry.isr:
            view = agents.get(copy.pod)
            report = view.report if view is not None and view.reporting else None
            found = report.copies.get(partition) if report is not None else None
            if found is not None and found.run_id == copy.run_id:
                largest = max(largest, found.used_memory)
                heard = heard or copy == entry.primary
        if entry.isr and not heard:
            unreported.append(partition)
    return Holdings(
        maxmemory=int(dict(ring.settings.engine_config).get("maxmemory", 0)),
        replication_factor=ring.settings.replication_factor,
        most_copies=max(copies.values(), default=0),
        spread_over=_spread_over(ring, copies),
        largest_used=largest,
        unreported=tuple(unreported),
        leaving=leaving_pods(ring),
        unfit=_unfit(ring, agents),
        park_max_bytes=ring.settings.park_max_bytes,
        max_clients=ring.settings.max_clients,
    )


def _spread_over(ring: HashRing, held: Mapping[str, int]) -> int:
    """By the bounds of the placement: where zones are uneven some pods hold more copies than others for good."""
    allowed = places_of(ring)
    return len(allowed) if all(count <= allowed.get(uid, 0) for uid, count in held.items()) else 0


def places_of(ring: HashRing) -> dict[str, int]:
    """How many copies each pod that stays may hold, by UID."""
    places = [Place(uid, it.name, it.zone, it.node) for uid, it in ring.members if not it.leaving]
    factor = min(ring.settings.replication_factor, len(places))
    return bounds(places, factor, len(ring.entries), len(places)) if places else {}


def _unfit(ring: HashRing, agents: Mapping[str, PodView]) -> dict[str, tuple[str, str]]:
    engines = Engines(agents)
    sources = ((uid, engines.unfit(ring.entries, uid)) for uid in agents)
    return {uid: (engines.name(uid), source) for uid, source in sources if source is not None}


def fits(sizing: Sizing, held: Holdings) -> bool:
    """Whether every copy holds no more than `sizing` allows; without a map there is nothing to hold."""
    return sizing.maxmemory >= held.maxmemory or (not held.unreported and held.largest_used <= sizing.maxmemory)


def has_evicted(sizing: Sizing, held: Holdings) -> bool:
    """Whether copies that were allowed no more than `sizing` hold no more, but for what a busy engine is over for a
    moment; not known while some primary does not report."""
    return not held.unreported and held.largest_used * 100 <= sizing.maxmemory * (100 + EVICTION_SLACK)


def sized_nodes(memory: int, partitions: int, factor: int, held: Holdings) -> int:
    """The least number of nodes of `memory` bytes that gives copies what the map allows them; 0 without a map."""
    if not held.known:
        return 0
    counts = range(1, partitions + 1)
    enough = (n for n in counts if size_copies(memory, partitions, factor, n).maxmemory >= held.maxmemory)
    return next(enough, 0)


def nodes_to_size_for(memory: int, partitions: int, factor: int, nodes: int, held: Holdings) -> int:
    """By how many nodes copies are sized while `nodes` are wanted.

    That is `nodes`, unless copies could then hold more than now while a pod still has more of them than it is to have
    in the end. What a copy may hold now is never taken away by this.
    """
    more = size_copies(memory, partitions, factor, nodes).maxmemory > held.maxmemory
    if not more or not held.known or held.spread_over >= nodes:
        return nodes
    room = (n for n in range(nodes, 0, -1) if copies_per_node(partitions, factor, n) >= held.most_copies)
    granted = next(room, 1)
    return max(granted, min(nodes, sized_nodes(memory, partitions, factor, held)))
