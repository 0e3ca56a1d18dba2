"""The sidecar's metrics page: the agent's own counters, its report, and its routers' counters, as Prometheus text.

Nothing is measured here. A page is made when it is asked for, from plain values; docs/metrics.md lists the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from cachecluster_core.report import CopyReport, Process, Report

IDENTITY = ("cluster_namespace", "cluster", "pod")
READ_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
HANDOVER_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
MARGIN_SECONDS = (0.0, 0.25, 0.5, 1.0, 1.5, 1.8, 1.9, 1.95, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What one page is made of."""

    report: Report
    maxmemory: int
    routers: Mapping[int, Mapping[str, Any]]
    replica_lag: Mapping[int, int] = field(default_factory=dict)


no_created_series: Callable[[], None] = disable_created_metrics
"""For the whole process: no second series with the time of birth of every counter."""


class SidecarMetrics:
    """Counters of one agent process, and pages of everything in its pod."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self, namespace: str, cluster: str, pod: str) -> None:
        self._identity = (namespace, cluster, pod)
        no_created_series()
        self._registry = CollectorRegistry()
        self._process = ProcessCollector(namespace="cachecluster_agent", registry=None)
        self._reads = self._histogram(
            "cachecluster_agent_quorum_read_seconds", "Duration of quorum reads of the map.", READ_SECONDS
        )
        self._margin = self._histogram(
            "cachecluster_agent_authority_margin_seconds",
            "Authority that was left when a quorum read renewed it; at 0 it had lapsed.",
            MARGIN_SECONDS,
        )
        self._failures = self._counter(
            "cachecluster_agent_quorum_read_failures", "Quorum reads of the map that failed."
        )
        self._engine_starts = self._counter("cachecluster_agent_engine_starts", "Engine processes started.")
        self._engine_deaths = self._counter("cachecluster_agent_engine_deaths", "Engine processes that died.")
        self._router_starts = self._counter("cachecluster_agent_router_starts", "Router processes started.")

        handovers = Counter(
            "cachecluster_handovers",
            "Hand-overs of partitions that this pod was primary of, by result: done, given_up.",
            (*IDENTITY, "result"),
            registry=self._registry,
        )
        self._handovers_done = handovers.labels(*self._identity, "done")
        self._handovers_given_up = handovers.labels(*self._identity, "given_up")
        self._handover_seconds = self._histogram(
            "cachecluster_handover_seconds",
            "From shutting the primary's gate for a hand-over until its successor said that it serves.",
            HANDOVER_SECONDS,
        )

    def quorum_read(self, seconds: float, ok: bool, margin_s: float) -> None:
        """A quorum read ended after `seconds`; `margin_s` is the authority left just before it was renewed."""
        if not ok:
            self._failures.inc()
            return
        self._reads.observe(seconds)
        self._margin.observe(max(0.0, margin_s))

    def engine_started(self) -> None:
        """An engine process was started."""
        self._engine_starts.inc()

    def engine_died(self) -> None:
        """An engine process ended without having been told to."""
        self._engine_deaths.inc()

    def router_started(self) -> None:
        """A router process was started."""
        self._router_starts.inc()

    def handover_done(self, shut_s: float) -> None:
        """A partition was handed over; its gate had been shut for so long when the successor's word came."""
        self._handovers_done.inc()
        self._handover_seconds.observe(shut_s)

    def handover_given_up(self) -> None:
        """A hand-over was given up before its token was sent."""
        self._handovers_given_up.inc()

    def render(
        self,
        report: Report,
        maxmemory: int,
        routers: Mapping[int, Mapping[str, Any]],
        replica_lag: Mapping[int, int] | None = None,
    ) -> bytes:
        """The page. `maxmemory` is of one copy, in bytes; `routers` the counters of each worker that answered;
        `replica_lag` by partition that is primary here: bytes that its slowest attached replica is behind."""
        snapshot = _Snapshot(report, maxmemory, routers, replica_lag or {})
        page = CollectorRegistry()
        page.register(self._registry)
        page.register(_Page(self._identity, snapshot, self._process))
        return generate_latest(page)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, IDENTITY, registry=self._registry).labels(*self._identity)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(name, text, IDENTITY, registry=self._registry, buckets=tuple(buckets)).labels(*self._identity)


class _Page(Collector):
    """Families of one snapshot."""

    def __init__(self, identity: tuple[str, str, str], snapshot: _Snapshot, process: Collector) -> None:
        self._identity = identity
        self._snapshot = snapshot
        self._process = process

    def collect(self) -> Iterator[Metric]:
        yield from self._own_process()
        yield from self._agent()
        yield from self._copies()
        yield from self._routers()

    def _gauge(self, name: str, text: str, samples: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[*IDENTITY, *labels])
        for values, value in samples:
            family.add_metric([*self._identity, *values], value)
        return family

    def _counter(self, name: str, text: str, samples: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=[*IDENTITY, *labels])
        for values, value in samples:
            family.add_metric([*self._identity, *values], value)
        return family

    def _own_process(self) -> Iterator[Metric]:
        """CPU, memory and files of the agent's process, under the pod's identity as everything else."""
        labels = dict(zip(IDENTITY, self._identity, strict=True))
        for family in self._process.collect():
            family.samples = [sample._replace(labels={**sample.labels, **labels}) for sample in family.samples]
            yield family

    def _agent(self) -> Iterator[Metric]:
        report = self._snapshot.report
        yield self._gauge(
            "cachecluster_agent_authority_seconds",
            "Authority that is left; negative since when it has lapsed.",
            [((), report.authority_s)],
        )
        yield self._gauge(
            "cachecluster_agent_routers", "Router processes that are connected to the agent.", [((), report.routers)]
        )

    def _copies(self) -> Iterator[Metric]:
        copies = {partition: copy for partition, copy in self._snapshot.report.copies.items() if _exists(copy)}
        for name, text, value in _COPY_GAUGES:
            samples = [((str(partition),), float(value(copy))) for partition, copy in copies.items()]
            yield self._gauge(f"cachecluster_copy_{name}", text, samples, "partition")
        yield self._gauge(
            "cachecluster_copy_maxmemory_bytes",
            "Memory that the engine may use for a copy before it evicts, backlog included.",
            [((str(partition),), self._snapshot.maxmemory) for partition in copies],
            "partition",
        )
        yield self._gauge(
            "cachecluster_copy_replica_lag_bytes",
            "On the primary: bytes of the replication stream that its slowest attached replica has not acknowledged.",
            [((str(partition),), lag) for partition, lag in self._snapshot.replica_lag.items()],
            "partition",
        )

    def _routers(self) -> Iterator[Metric]:
        routers = {str(worker): counters for worker, counters in self._snapshot.routers.items()}
        for name, key, text in _ROUTER_GAUGES:
            samples = [((worker,), float(counters.get(key, 0))) for worker, counters in routers.items()]
            yield self._gauge(f"cachecluster_router_{name}", text, samples, "worker")
        for name, key, text in _ROUTER_COUNTERS:
            samples = [((worker,), float(counters.get(key, 0))) for worker, counters in routers.items()]
            yield self._counter(f"cachecluster_router_{name}", text, samples, "worker")
        for name, key, label, text in _ROUTER_COUNTERS_BY:
            by_kind = [
                ((worker, kind), float(count))
                for worker, counters in routers.items()
                for kind, count in counters.get(key, {}).items()
            ]
            yield self._counter(f"cachecluster_router_{name}", text, by_kind, "worker", label)
        yield self._gauge(
            "cachecluster_router_loop_lag_seconds",
            "Longest delay of the event loop since the page before.",
            [((worker,), counters.get("loopLagMs", 0.0) / 1000) for worker, counters in routers.items()],
            "worker",
        )
        yield self._partition_requests(routers)
        latencies = {worker: counters.get("latency", {}) for worker, counters in routers.items()}
        yield self._durations(
            "cachecluster_router_request_seconds",
            "Time from reading a client's request to the reply of the partitions, of a sample of the requests.",
            [
                ((worker, family), counts)
                for worker, latency in latencies.items()
                for family, counts in latency.get("families", {}).items()
            ],
            "family",
        )
        yield self._partition_latency(latencies)
        yield self._durations(
            "cachecluster_router_held_seconds",
            "How long replies waited for acknowledgements (durability: sync).",
            [((worker,), counters["heldFor"]) for worker, counters in routers.items() if "heldFor" in counters],
        )

    def _partition_requests(self, routers: Mapping[str, Mapping[str, Any]]) -> Metric:
        total: dict[int, int] = {}
        for counters in routers.values():
            for partition, count in enumerate(counters.get("partitions", ())):
                total[partition] = total.get(partition, 0) + count
        return self._counter(
            "cachecluster_router_partition_requests",
            "Requests of each partition that this pod's routers took.",
            [((str(partition),), count) for partition, count in total.items()],
            "partition",
        )

    def _partition_latency(self, latencies: Mapping[str, Mapping[str, Any]]) -> Metric:
        family = SummaryMetricFamily(
            "cachecluster_router_partition_latency_seconds",
            "The same time by partition; of a request that was split, of each piece until its own reply.",
            labels=[*IDENTITY, "partition"],
        )
        total: dict[int, tuple[int, float]] = {}
        for latency in latencies.values():
            for partition, (count, seconds) in enumerate(latency.get("partitions", ())):
                counted, summed = total.get(partition, (0, 0.0))
                total[partition] = counted + count, summed + seconds
        for partition, (count, seconds) in total.items():
            family.add_metric([*self._identity, str(partition)], count_value=count, sum_value=seconds)
        return family

    def _durations(
        self, name: str, text: str, samples: Iterable[tuple[tuple[str, ...], Sequence[int]]], *labels: str
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=[*IDENTITY, "worker", *labels])
        for values, counts in samples:
            family.add_metric([*self._identity, *values], _cumulated(counts), sum_value=None)
        return family


def _cumulated(counts: Iterable[int]) -> list[tuple[str, float]]:
    """Bucket i of a router holds requests below 2**i microseconds; Prometheus wants each bucket with all below it."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for power, count in enumerate(counts):
        total += count
        buckets.append((repr(2**power / 1e6), float(total)))
    return [*buckets[:-1], ("+Inf", float(total))]


def _exists(copy: CopyReport) -> bool:
    return copy.process is not Process.ABSENT


_COPY_GAUGES: tuple[tuple[str, str, Callable[[CopyReport], float]], ...] = (
    ("up", "1 while the engine process of the copy answers.", lambda copy: copy.process is Process.UP),
    ("gate_open", "1 while the copy's gate is open: it is primary and serves.", lambda copy: copy.gate_epoch > 0),
    ("epoch", "Highest epoch of the partition that this pod has seen.", lambda copy: copy.epoch),
    ("link_up", "1 while a replica's link to its primary is up.", lambda copy: copy.link_up),
    ("syncing", "1 while the copy is in a full resync.", lambda copy: copy.syncing),
    ("offset_bytes", "Offset of the copy in the replication stream.", lambda copy: copy.offset),
    ("lagging_members", "On the primary: in-sync members behind by too much.", lambda copy: len(copy.lagging)),
    ("used_memory_bytes", "Memory that the engine uses for the copy.", lambda copy: copy.used_memory),
    ("keys", "Keys in the copy.", lambda copy: copy.keys),
)

_ROUTER_GAUGES = (
    ("clients", "clients", "Connected clients."),
    ("peers", "peers", "Connected peer routers."),
    ("parked_commands", "parked", "Commands that wait for a partition without an open gate."),
    ("parked_bytes", "parkedBytes", "Bytes of those commands."),
    ("held_replies", "held", "Replies that wait until every required copy has acknowledged what they tell."),
    (
        "private_connections",
        "private",
        "Connections to engines of this pod that are one client's: it waits there, or watches.",
    ),
    ("waiting_commands", "waiting", "Commands in flight on them."),
    (
        "subscriptions",
        "subscriptions",
        "Channels and patterns that are listened to, for clients here and on other pods.",
    ),
)

_ROUTER_COUNTERS = (
    ("connections", "connections", "Connections accepted."),
    ("connections_rejected", "rejected", "Connections refused because of router.maxClients."),
    (
        "client_pauses",
        "pauses",
        "Times that a client was not read from, because of its commands in flight or its unread replies.",
    ),
    ("received_bytes", "bytesIn", "Bytes read from clients, peers and engines."),
    ("sent_bytes", "bytesOut", "Bytes written to clients, peers and engines."),
    ("relayed", "relayed", "Requests of peer routers, which took them from clients and count them as forwarded."),
    ("parked", "parkedTotal", "Commands that ever had to wait."),
    ("retried", "retried", "Reads that were sent again after a connection was lost."),
    ("replica_reads", "replicaReads", "Reads that a replica answered in its primary's place."),
    ("messages", "messages", "Published messages passed on to clients and peers."),
    ("commits", "commits", "Rounds that asked an engine what its replicas have acknowledged."),
)

_ROUTER_COUNTERS_BY = (
    ("requests", "requests", "kind", "Requests, by how they were served: local, forwarded, split, answered."),
    ("errors", "errors", "kind", "Requests that the router itself refused or could not vouch for, by the reason."),
    (
        "disconnected",
        "disconnected",
        "reason",
        "Clients disconnected by router.limits: slow-reader (unreadReplies), messages, request-size, idle.",
    ),
)
