"""The dashboard of one CacheCluster, with its clients, nodes and partitions, as data."""

from __future__ import annotations

from .panels import (
    OF_CLUSTER,
    Board,
    Kind,
    Panel,
    Query,
    Row,
    Variable,
    increase,
    memory_of_primaries,
    of_operator,
    quantile,
    rate,
    series,
    stat,
)

_SERVED = of_operator("cachecluster_partition_served", OF_CLUSTER, "partition")
_COPY = "cluster_namespace, cluster, pod, partition"
_REQUESTS = "cachecluster_router_requests_total"
_FORWARDED = rate(_REQUESTS, f'{OF_CLUSTER},kind="forwarded"')
_LOCAL = rate(_REQUESTS, f'{OF_CLUSTER},kind="local"')
_LATENCY = "cachecluster_router_partition_latency_seconds"
_SLOWEST = 5


def _by_pod(metric: str) -> str:
    return f"sum by (pod) ({metric}{{{OF_CLUSTER}}})"


_STATE = Row(
    "State",
    (
        stat("Nodes ready", of_operator("cachecluster_nodes_ready", OF_CLUSTER), "Pods that are ready."),
        stat(
            "Partitions not served",
            f"sum(1 - {_SERVED})",
            "Partitions for which the map names no primary: their keys do not answer.",
            bad_from=1,
        ),
        stat(
            "Partitions short of copies",
            of_operator("cachecluster_partitions_short", OF_CLUSTER),
            "Partitions with fewer in-sync copies than asked for.",
            bad_from=1,
        ),
        stat(
            "Failovers, 24 h",
            increase("cachecluster_failovers_total", OF_CLUSTER, "24h"),
            "Partitions that got another primary without a planned move.",
        ),
        stat(
            "Partitions lost, 24 h",
            increase("cachecluster_partitions_lost_total", OF_CLUSTER, "24h"),
            "Partitions that were given up: served from a copy that was not in sync, or empty.",
            bad_from=0.5,
        ),
        stat(
            "Memory usable",
            of_operator("cachecluster_memory_usable_bytes", OF_CLUSTER),
            "Data that all partitions may hold together.",
            "bytes",
        ),
        series(
            "Partitions by state",
            of_operator("cachecluster_partitions", OF_CLUSTER, "state"),
            "{{state}}",
            "By the map.",
            kind=Kind.STACK,
        ),
        series(
            "Failover, 95 %",
            quantile(0.95, "cachecluster_failover_seconds", OF_CLUSTER, span="1h"),
            "95 %",
            "From the map's word that a partition has no primary to the word that it has one; of the last hour.",
            "s",
        ),
        Panel(
            "Failovers and repairs",
            (
                Query(increase("cachecluster_failovers_total", OF_CLUSTER, "5m"), "failovers"),
                Query(increase("cachecluster_repairs_total", OF_CLUSTER, "5m"), "copies filled"),
            ),
            "In the last 5 minutes.",
        ),
        Panel(
            "Planned changes",
            (
                Query(of_operator("cachecluster_nodes_leaving", OF_CLUSTER), "pods being emptied"),
                Query(of_operator("cachecluster_nodes_outdated", OF_CLUSTER), "pods to be replaced"),
                Query(increase("cachecluster_moves_total", OF_CLUSTER, "5m"), "partitions handed over in 5 min"),
            ),
            "Scale-in, rolls, drains, and primaries that go to their places.",
        ),
        series(
            "Planned change not getting on",
            of_operator("cachecluster_change_idle_seconds", OF_CLUSTER),
            "idle",
            "How long a roll, a scale-in or a hand-over has stood still; an alert fires after 15 minutes.",
            "s",
        ),
    ),
)

_CLIENTS = Row(
    "Clients",
    (
        series(
            "Requests",
            rate(_REQUESTS, OF_CLUSTER, "kind"),
            "{{kind}}",
            "Per second: served by the pod that took them, forwarded to another, split over partitions, or answered"
            " by the router itself.",
            "reqps",
            Kind.STACK,
        ),
        series(
            "Refused or indeterminate",
            rate("cachecluster_router_errors_total", OF_CLUSTER, "kind"),
            "{{kind}}",
            "Per second, by the reason. `moved` is how cluster-aware clients learn.",
            "reqps",
        ),
        Panel(
            "Latency in the router",
            (
                Query(quantile(0.5, "cachecluster_router_request_seconds", OF_CLUSTER), "50 %"),
                Query(quantile(0.99, "cachecluster_router_request_seconds", OF_CLUSTER), "99 %"),
                Query(quantile(0.999, "cachecluster_router_request_seconds", OF_CLUSTER), "99.9 %"),
            ),
            "From reading a request to its reply, of a sample of the requests.",
            unit="s",
        ),
        series(
            "Latency by family, 99 %",
            quantile(0.99, "cachecluster_router_request_seconds", OF_CLUSTER, "family"),
            "{{family}}",
            "The same by what the commands are about.",
            "s",
        ),
        series(
            "Share that crossed nodes",
            f"{_FORWARDED} / ({_FORWARDED} + {_LOCAL})",
            "forwarded",
            "Requests for one partition whose primary is on another pod than the one that took them: 0 with"
            " cluster-aware clients.",
            "percentunit",
        ),
        series("Connected clients", _by_pod("cachecluster_router_clients"), "{{pod}}", "By pod."),
        Panel(
            "Traffic",
            (
                Query(rate("cachecluster_router_received_bytes_total", OF_CLUSTER, "pod"), "{{pod}} in"),
                Query(rate("cachecluster_router_sent_bytes_total", OF_CLUSTER, "pod"), "{{pod}} out"),
            ),
            "Bytes per second of clients, peers and engines.",
            unit="Bps",
        ),
        series(
            "Parked commands",
            _by_pod("cachecluster_router_parked_commands"),
            "{{pod}}",
            "Commands that wait for a partition without an open gate.",
        ),
        Panel(
            "Clients at their limits",
            (
                Query(rate("cachecluster_router_client_pauses_total", OF_CLUSTER), "not read from"),
                Query(rate("cachecluster_router_disconnected_total", OF_CLUSTER, "reason"), "{{reason}}"),
            ),
            "Per second: clients that were not read from for a while, and those disconnected, by the reason.",
        ),
    ),
)

_NODES = Row(
    "Nodes",
    (
        series("Primaries", _by_pod("cachecluster_copy_gate_open"), "{{pod}}", "Open gates."),
        series("Copies", _by_pod("cachecluster_copy_up"), "{{pod}}", "Engine processes that answer."),
        series(
            "Memory of the copies",
            _by_pod("cachecluster_copy_used_memory_bytes"),
            "{{pod}}",
            "As the engines count it.",
            "bytes",
        ),
        series(
            "Authority left",
            f"min by (pod) (cachecluster_agent_authority_seconds{{{OF_CLUSTER}}})",
            "{{pod}}",
            "Seconds that an agent may still act on its map. At 0 its gates are shut.",
            "s",
        ),
        series(
            "Authority left at renewal, worst 1 %",
            quantile(0.01, "cachecluster_agent_authority_margin_seconds", OF_CLUSTER, "pod"),
            "{{pod}}",
            "How close authority came to lapsing: a starved node or a slow API server shows here first.",
            "s",
        ),
        series(
            "Quorum read, 99 %",
            quantile(0.99, "cachecluster_agent_quorum_read_seconds", OF_CLUSTER, "pod"),
            "{{pod}}",
            "Duration of the agents' reads of the map.",
            "s",
        ),
        Panel(
            "Processes that died or were started",
            (
                Query(increase("cachecluster_agent_engine_deaths_total", OF_CLUSTER, "5m"), "engines died"),
                Query(increase("cachecluster_agent_engine_starts_total", OF_CLUSTER, "5m"), "engines started"),
                Query(increase("cachecluster_agent_router_starts_total", OF_CLUSTER, "5m"), "routers started"),
                Query(increase("cachecluster_agent_quorum_read_failures_total", OF_CLUSTER, "5m"), "reads failed"),
            ),
            "In the last 5 minutes; failed reads are the agents' quorum reads of the map.",
        ),
        series(
            "CPU of the agent",
            rate("cachecluster_agent_process_cpu_seconds_total", OF_CLUSTER, "pod"),
            "{{pod}}",
            "CPUs that agents use.",
        ),
        series(
            "Event loop lag of the routers",
            f"max by (pod) (cachecluster_router_loop_lag_seconds{{{OF_CLUSTER}}})",
            "{{pod}}",
            "Longest delay since the scrape before.",
            "s",
        ),
    ),
)

_PARTITIONS = Row(
    "Partitions",
    (
        series(
            "In-sync copies",
            of_operator("cachecluster_partition_in_sync_copies", OF_CLUSTER, "partition"),
            "{{partition}}",
            "The primary among them; 0 is a partition without data.",
            kind=Kind.TIMELINE,
        ),
        series(
            "Requests",
            rate("cachecluster_router_partition_requests_total", OF_CLUSTER, "partition"),
            "{{partition}}",
            "Per second: one line far above the others is a hot partition.",
            "reqps",
        ),
        series(
            "Slowest partitions, mean latency",
            f"topk({_SLOWEST}, {rate(f'{_LATENCY}_sum', OF_CLUSTER, 'partition')}"
            f" / ({rate(f'{_LATENCY}_count', OF_CLUSTER, 'partition')} > 0))",
            "{{partition}}",
            f"From reading a request to the partition's reply, of a sample of the requests; the {_SLOWEST} slowest.",
            "s",
        ),
        series(
            "Memory of the primary, of its maximum",
            f"max by (partition) ({memory_of_primaries(OF_CLUSTER)}"
            f" / on ({_COPY}) cachecluster_copy_maxmemory_bytes{{{OF_CLUSTER}}})",
            "{{partition}}",
            "At 1 its keys are evicted.",
            "percentunit",
        ),
        series(
            "Keys",
            f"max by (partition) (cachecluster_copy_keys{{{OF_CLUSTER}}})",
            "{{partition}}",
            "In the copy that has most.",
        ),
        series(
            "Replica lag",
            f"max by (partition) (cachecluster_copy_replica_lag_bytes{{{OF_CLUSTER}}})",
            "{{partition}}",
            "Bytes that the slowest attached replica has not acknowledged. Replicas acknowledge once a second.",
            "bytes",
        ),
        Panel(
            "Copies being filled",
            (
                Query(f"sum({of_operator('cachecluster_partition_learners', OF_CLUSTER, 'partition')})", "learners"),
                Query(f"sum(cachecluster_copy_syncing{{{OF_CLUSTER}}})", "in a full resync"),
            ),
            "Learners of the map, and copies that receive a full resync now.",
        ),
        series(
            "Changes of the map",
            f"max by (partition) (changes(cachecluster_partition_map_epoch{{{OF_CLUSTER}}}[$__rate_interval]))",
            "{{partition}}",
            "Times that the state, the primary or the in-sync set of a partition changed.",
        ),
    ),
)

_NAMESPACES = "label_values(cachecluster_nodes_desired, cluster_namespace)"
_NAMES = 'label_values(cachecluster_nodes_desired{cluster_namespace="$namespace"}, cluster)'

CLUSTER = Board(
    name="cachecluster-cluster",
    title="CacheCluster / Cluster",
    described="One CacheCluster: its state, clients, nodes and partitions.",
    variables=(Variable("namespace", "Namespace", _NAMESPACES), Variable("cluster", "Cluster", _NAMES)),
    all_values=False,
    rows=(_STATE, _CLIENTS, _NODES, _PARTITIONS),
)
