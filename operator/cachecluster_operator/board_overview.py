"""The dashboard of all CacheClusters and the operator, as data."""

from __future__ import annotations

from .panels import (
    OF_NAMESPACE,
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

_CLUSTER = ("cluster_namespace", "cluster")
_NAME = "{{cluster_namespace}}/{{cluster}}"
_DESIRED = of_operator("cachecluster_nodes_desired", OF_NAMESPACE)
_READY = of_operator("cachecluster_nodes_ready", OF_NAMESPACE)
_SERVED = of_operator("cachecluster_partition_served", OF_NAMESPACE, "partition")
_SHORT = of_operator("cachecluster_partitions_short", OF_NAMESPACE)
_USABLE = of_operator("cachecluster_memory_usable_bytes", OF_NAMESPACE)
_USED = f"sum by (cluster_namespace, cluster) ({memory_of_primaries(OF_NAMESPACE)})"
_REQUESTS = rate("cachecluster_router_requests_total", OF_NAMESPACE, *_CLUSTER)


def _per_second(metric: str) -> str:
    return f"sum(rate({metric}{{{OF_NAMESPACE}}}[$__rate_interval]))"


_CLUSTERS = Row(
    "Clusters",
    (
        stat("Clusters", f"count({_DESIRED})", "CacheClusters that are served."),
        stat("Nodes missing", f"sum({_DESIRED} - {_READY})", "Pods asked for that are not ready.", bad_from=1),
        stat(
            "Partitions not served",
            f"sum(1 - {_SERVED})",
            "Partitions for which the map names no primary: their keys do not answer.",
            bad_from=1,
        ),
        stat(
            "Partitions short of copies",
            f"sum({_SHORT})",
            "Partitions with fewer in-sync copies than asked for.",
            bad_from=1,
        ),
        stat(
            "Failovers, 24 h",
            increase("cachecluster_failovers_total", OF_NAMESPACE, "24h"),
            "Partitions that got another primary without a planned move.",
        ),
        stat(
            "Partitions lost, 24 h",
            increase("cachecluster_partitions_lost_total", OF_NAMESPACE, "24h"),
            "Partitions that were given up: served from a copy that was not in sync, or empty.",
            bad_from=0.5,
        ),
        Panel(
            "Each cluster",
            (
                Query(_DESIRED, "Nodes asked for"),
                Query(_READY, "Nodes ready"),
                Query(f"sum by (cluster_namespace, cluster) ({_SERVED})", "Partitions served"),
                Query(_SHORT, "Partitions short of copies"),
                Query(_REQUESTS, "Requests/s"),
                Query(_USED, "Memory used"),
                Query(_USABLE, "Memory usable"),
            ),
            "One line for each cluster.",
            Kind.TABLE,
            width=24,
        ),
    ),
)

_LOAD = Row(
    "Load",
    (
        series("Requests", _REQUESTS, _NAME, "Requests per second that clients sent.", "reqps"),
        series(
            "Refused or indeterminate",
            rate("cachecluster_router_errors_total", OF_NAMESPACE, *_CLUSTER),
            _NAME,
            "Requests per second that routers refused or could not vouch for.",
            "reqps",
        ),
        series(
            "Memory used of usable",
            f"{_USED} / {_USABLE}",
            _NAME,
            "Memory of the primaries against what all partitions may hold. Near 1, keys are evicted.",
            "percentunit",
        ),
    ),
)

_OPERATOR = Row(
    "Operator",
    (
        series(
            "Leaders", "sum(cachecluster_operator_leader)", "leaders", "Operators that lead: one, or for a moment none."
        ),
        series(
            "Reconcile, 99 %",
            quantile(0.99, "cachecluster_operator_reconcile_seconds", ""),
            "99 %",
            "Duration of reconciles. Failover never waits for one.",
            "s",
        ),
        series(
            "Reconciles that failed",
            "sum(rate(cachecluster_operator_reconcile_errors_total[$__rate_interval]))",
            "failed",
            "Per second; they are tried again.",
        ),
        Panel(
            "Maps",
            (
                Query(_per_second("cachecluster_map_writes_total"), "writes"),
                Query(_per_second("cachecluster_map_conflicts_total"), "conflicts"),
                Query(_per_second("cachecluster_map_failures_total"), "failures"),
                Query(_per_second("cachecluster_step_errors_total"), "errors in decisions"),
            ),
            "Writes of the maps per second, and what went wrong.",
        ),
        series(
            "CPU",
            "sum by (instance) (rate(cachecluster_operator_process_cpu_seconds_total[$__rate_interval]))",
            "{{instance}}",
            "CPUs that operators use.",
        ),
        series(
            "Memory",
            "max by (instance) (cachecluster_operator_process_resident_memory_bytes)",
            "{{instance}}",
            "Resident memory of operators.",
            "bytes",
        ),
    ),
)

OVERVIEW = Board(
    name="cachecluster-overview",
    title="CacheCluster / Overview",
    described="All CacheClusters, and the operator.",
    variables=(Variable("namespace", "Namespace", "label_values(cachecluster_nodes_desired, cluster_namespace)"),),
    all_values=True,
    rows=(_CLUSTERS, _LOAD, _OPERATOR),
)
