"""The operator's metrics page: clusters as their control loops saw them last, and counters of what happened to them.

What happened is read off consecutive maps (`map_changes`), so that it does not matter who caused it. docs/metrics.md
lists the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cachecluster_core.hashring import Entry, State
from cachecluster_core.leaving import leaving_pods
from cachecluster_core.quantity import MIB

from .map_changes import MapChanges, map_changes
from .remaining_work import remaining_work
from .snapshot import ClusterSnapshot

CLUSTER = ("cluster_namespace", "cluster")
FAILOVER_SECONDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0)
RECONCILE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Key = tuple[str, str]


@dataclass(slots=True)
class _Counts:
    """What has happened to one cluster in this operator's life."""

    failovers: int = 0
    partitions_lost: int = 0
    repairs: int = 0
    moves: int = 0


@dataclass(slots=True)
class _Seen:
    """A cluster as it was observed last. `electing` holds when a partition lost its primary, by the loop's clock;
    `stage` is what the planned change that is under way has got to (None: there is none), `stage_at` since when."""

    snapshot: ClusterSnapshot
    counts: _Counts = field(default_factory=_Counts)
    electing: dict[int, float] = field(default_factory=dict)
    stage: object = None
    stage_at: float = 0.0

    @property
    def idle_s(self) -> float:
        """Seconds for which the planned change that is under way has not got on."""
        return self.snapshot.now - self.stage_at if self.stage is not None else 0.0


no_created_series: Callable[[], None] = disable_created_metrics
"""For the whole process: no second series with the time of birth of every counter."""


class OperatorMetrics:
    """Fed by the election, the reconciles and the control loops; rendered when somebody asks."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._clusters: dict[Key, _Seen] = {}
        no_created_series()
        self._registry = CollectorRegistry()
        ProcessCollector(namespace="cachecluster_operator", registry=self._registry)
        self._registry.register(_Clusters(self._clusters))
        self._leader = Gauge(
            "cachecluster_operator_leader", "1 in the operator that is the leader.", registry=self._registry
        )
        self._reconciles = Histogram(
            "cachecluster_operator_reconcile_seconds",
            "Duration of reconciles.",
            registry=self._registry,
            buckets=RECONCILE_SECONDS,
        )
        self._reconcile_errors = Counter(
            "cachecluster_operator_reconcile_errors",
            "Reconciles that failed and are tried again.",
            registry=self._registry,
        )
        self._failovers = Histogram(
            "cachecluster_failover_seconds",
            "Time from the map's word that a partition has no primary to the word that it has one.",
            CLUSTER,
            registry=self._registry,
            buckets=FAILOVER_SECONDS,
        )

    def leader(self, is_leader: bool) -> None:
        """Whether this process is the leader now."""
        self._leader.set(is_leader)

    def reconciled(self, seconds: float, ok: bool) -> None:
        """A reconcile ended after `seconds`."""
        self._reconciles.observe(seconds)
        if not ok:
            self._reconcile_errors.inc()

    def observe(self, namespace: str, snapshot: ClusterSnapshot) -> None:
        """A control loop's newest snapshot. The first of a cluster counts nothing: its past is not known."""
        key = (namespace, snapshot.name)
        seen = self._clusters.get(key)
        if seen is None:
            seen = self._clusters[key] = _Seen(snapshot)
        self._count(key, seen, map_changes(seen.snapshot.map, snapshot.map), snapshot.now)
        seen.snapshot = snapshot
        stage = _stage(snapshot)
        if stage != seen.stage:
            seen.stage, seen.stage_at = stage, snapshot.now

    def forget(self, namespace: str, name: str) -> None:
        """The cluster is gone, or this operator no longer looks after it."""
        if self._clusters.pop((namespace, name), None) is not None:
            self._failovers.remove(namespace, name)

    def render(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)

    def _count(self, key: Key, seen: _Seen, changes: MapChanges, now: float) -> None:
        failovers = self._failovers.labels(*key)
        seen.counts.failovers += len(changes.failed_over)
        seen.counts.partitions_lost += len(changes.lost)
        seen.counts.repairs += changes.repaired
        seen.counts.moves += changes.moved
        for partition in changes.failed_over:
            failovers.observe(now - seen.electing.get(partition, now))
        for partition in (*changes.failed_over, *changes.lost):
            seen.electing.pop(partition, None)
        for partition in changes.electing:
            seen.electing.setdefault(partition, now)


class _Clusters(Collector):
    """Families of all clusters as they were observed last."""

    def __init__(self, clusters: dict[Key, _Seen]) -> None:
        self._clusters = clusters

    def collect(self) -> Iterator[Metric]:
        yield from self._nodes()
        yield from self._partitions()
        yield from self._memory()
        yield from self._counters()

    def _gauge(
        self, name: str, text: str, samples: Iterable[tuple[Key, tuple[str, ...], float]], *labels: str
    ) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[*CLUSTER, *labels])
        for key, values, value in samples:
            family.add_metric([*key, *values], value)
        return family

    def _nodes(self) -> Iterator[Metric]:
        each = [(key, seen.snapshot) for key, seen in self._clusters.items()]
        yield self._gauge(
            "cachecluster_nodes_desired", "spec.nodes", [(key, (), cluster.desired.nodes) for key, cluster in each]
        )
        yield self._gauge(
            "cachecluster_nodes_ready",
            "Pods that the kubelet calls ready and that are not being deleted.",
            [(key, (), sum(p.ready and not p.terminating for p in cluster.pods)) for key, cluster in each],
        )
        yield self._gauge(
            "cachecluster_nodes_reporting",
            "Pods whose agents report.",
            [(key, (), sum(view.reporting for view in cluster.agents.values())) for key, cluster in each],
        )
        yield self._gauge(
            "cachecluster_nodes_leaving",
            "Pods that are being emptied.",
            [(key, (), len(leaving_pods(cluster.map))) for key, cluster in each],
        )
        yield self._gauge(
            "cachecluster_nodes_outdated",
            "Pods that were made from another template than the spec's.",
            [(key, (), sum(pod.outdated for pod in cluster.pods)) for key, cluster in each],
        )
        yield self._gauge(
            "cachecluster_change_idle_seconds",
            "For how long a roll, a scale-in or a hand-over has not got on; 0 while none is under way or paused.",
            [(key, (), seen.idle_s) for key, seen in self._clusters.items()],
        )
        yield self._gauge(
            "cachecluster_map_known",
            "1 while the map can be read.",
            [(key, (), float(cluster.map_known)) for key, cluster in each],
        )

    def _partitions(self) -> Iterator[Metric]:
        each = [(key, seen.snapshot.map) for key, seen in self._clusters.items()]
        maps = [(key, ring) for key, ring in each if ring is not None]
        yield self._gauge(
            "cachecluster_partitions",
            "Partitions by their state in the map.",
            [
                (key, (str(state),), sum(entry.state is state for entry in ring.entries))
                for key, ring in maps
                for state in State
            ],
            "state",
        )
        yield self._gauge(
            "cachecluster_partitions_short",
            "Partitions with fewer in-sync copies than replicationFactor.",
            [
                (key, (), sum(len(entry.isr) < ring.settings.replication_factor for entry in ring.entries))
                for key, ring in maps
            ],
        )
        per_partition = [(key, str(index), entry) for key, ring in maps for index, entry in enumerate(ring.entries)]
        for name, text, value in _PARTITION_GAUGES:
            samples = [(key, (partition,), float(value(entry))) for key, partition, entry in per_partition]
            yield self._gauge(f"cachecluster_partition_{name}", text, samples, "partition")

    def _memory(self) -> Iterator[Metric]:
        yield self._gauge(
            "cachecluster_memory_usable_bytes",
            "Data that all partitions may hold together.",
            [(key, (), seen.snapshot.desired.settings.maxmemory_cluster) for key, seen in self._clusters.items()],
        )

    def _counters(self) -> Iterator[Metric]:
        for name, text, value in _CLUSTER_COUNTERS:
            family = CounterMetricFamily(f"cachecluster_{name}", text, labels=list(CLUSTER))
            for key, seen in self._clusters.items():
                family.add_metric(list(key), float(value(seen)))
            yield family


def _stage(snapshot: ClusterSnapshot) -> object:
    """What changes whenever a planned change gets on; None while none is under way, or it is held back."""
    work = remaining_work(snapshot)
    if snapshot.desired.paused or not (work.leaving or work.outdated or work.moving):
        return None
    entries = snapshot.map.entries if snapshot.map is not None else ()
    roles = tuple((entry.primary, entry.isr, entry.learners) for entry in entries)
    return roles, snapshot.pods, work.bytes_left // MIB


def _serving(entry: Entry) -> bool:
    return entry.primary is not None


_PARTITION_GAUGES: tuple[tuple[str, str, Callable[[Entry], float]], ...] = (
    ("served", "1 while the map names a primary.", _serving),
    ("in_sync_copies", "In-sync copies, the primary among them.", lambda entry: len(entry.isr)),
    ("learners", "Copies that are being filled.", lambda entry: len(entry.learners)),
    ("map_epoch", "Epoch of the partition in the map.", lambda entry: entry.epoch),
)

_CLUSTER_COUNTERS: tuple[tuple[str, str, Callable[[_Seen], float]], ...] = (
    ("failovers", "Partitions that got another primary without a planned move.", lambda seen: seen.counts.failovers),
    (
        "partitions_lost",
        "Partitions given up: served by a copy not in sync, or empty.",
        lambda seen: seen.counts.partitions_lost,
    ),
    ("moves", "Partitions that were handed over to another pod as planned.", lambda seen: seen.counts.moves),
    ("repairs", "Copies that were filled and came in sync.", lambda seen: seen.counts.repairs),
    ("map_writes", "Writes of the map.", lambda seen: seen.snapshot.map_writes),
    (
        "map_conflicts",
        "Writes of the map that somebody else had forestalled.",
        lambda seen: seen.snapshot.map_conflicts,
    ),
    ("map_failures", "Reads and writes of the map that failed.", lambda seen: seen.snapshot.store_failures),
    ("step_errors", "Decisions of the operator that ended in an error.", lambda seen: seen.snapshot.step_errors),
)
