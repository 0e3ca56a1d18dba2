"""What goes into and comes out of a control loop: the desired cluster, and snapshots for status, events and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cachecluster_core.hashring import HashRing, Settings
from cachecluster_core.operator_view import Event, Pod, PodView, Timing


@dataclass(frozen=True, slots=True)
class Desired:
    """What the spec of a CacheCluster asks of its control loop. `partitions` never changes during a cluster's life.
    While `paused` nothing that is planned is begun: the map keeps its settings, pods are neither made nor deleted."""

    nodes: int
    partitions: int
    settings: Settings
    timing: Timing = field(default_factory=Timing)
    trust_connection_refused: bool = True
    paused: bool = False


@dataclass(frozen=True, slots=True)
class ClusterSnapshot:
    """A cluster as its control loop saw it at `now` (seconds of the loop's monotonic clock).

    `map_known` is False while the store does not answer: `map` is then the last one known. `events` are those since
    the snapshot before; the counters count in this operator's life. `waiting_for` is for people, most urgent first, and
    so is `refusal`: why pods that are missing are not allowed to be made ('' for no such reason).
    """

    name: str
    now: float
    desired: Desired
    map: HashRing | None = None
    map_known: bool = False
    pods: tuple[Pod, ...] = ()
    agents: Mapping[str, PodView] = field(default_factory=dict)
    seen_at: Mapping[int, float] = field(default_factory=dict)
    waiting_for: tuple[str, ...] = ()
    refusal: str = ""
    events: tuple[Event, ...] = ()
    map_writes: int = 0
    map_conflicts: int = 0
    store_failures: int = 0
    step_errors: int = 0
