"""Alert rules, and the manifests by which Prometheus gets them and finds what to scrape.

The rules come as a ConfigMap for any Prometheus, and as a PrometheusRule and PodMonitors where those kinds exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

NAME = "cachecluster-alerts"
LABELS = {"app.kubernetes.io/name": "cachecluster-operator"}
SCRAPE_INTERVAL = "15s"

_BY = "by (cluster_namespace, cluster)"
_BY_POD = "by (cluster_namespace, cluster, pod)"
_CLUSTER = "{{ $labels.cluster_namespace }}/{{ $labels.cluster }}"
_POD = "Pod {{ $labels.cluster_namespace }}/{{ $labels.pod }}"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule: it fires when `expr` holds for `hold` (a Prometheus duration, '' at once)."""

    name: str
    severity: str
    expr: str
    hold: str
    summary: str
    description: str


CLUSTER_ALERTS = (
    Alert(
        "CacheClusterPartitionsNotServed",
        "critical",
        f"sum {_BY} (1 - max by (cluster_namespace, cluster, partition) (cachecluster_partition_served)) > 0",
        "30s",
        f"{_CLUSTER} does not serve {{{{ $value }}}} partitions",
        "The map names no primary for them, so their keys do not answer. `kubectl describe cc` says what it waits for.",
    ),
    Alert(
        "CacheClusterPartitionsLost",
        "critical",
        f"sum {_BY} (increase(cachecluster_partitions_lost_total[15m])) > 0",
        "",
        f"{_CLUSTER} lost the data of partitions",
        "All in-sync copies were dead, or unreachable for lostAfterSeconds or apiOutageSeconds; they are served from"
        " a copy that was not in sync, or empty.",
    ),
    Alert(
        "CacheClusterShortOfCopies",
        "warning",
        f"max {_BY} (cachecluster_partitions_short) > 0",
        "10m",
        f"{_CLUSTER} has {{{{ $value }}}} partitions with too few copies",
        "Another failure may lose their data. Repair needs a ready pod that does not hold a copy yet.",
    ),
    Alert(
        "CacheClusterNodesMissing",
        "warning",
        f"max {_BY} (cachecluster_nodes_desired) - max {_BY} (cachecluster_nodes_ready) > 0",
        "10m",
        f"{_CLUSTER} misses {{{{ $value }}}} nodes",
        "Pods cannot be scheduled, do not start, or are not ready. `kubectl describe cc` lists them.",
    ),
    Alert(
        "CacheClusterAgentsSilent",
        "warning",
        f"max {_BY} (cachecluster_nodes_ready) - max {_BY} (cachecluster_nodes_reporting) > 0",
        "1m",
        f"{_CLUSTER} has {{{{ $value }}}} ready pods whose agents do not report",
        "The operator cannot reach them on port 7380: look at the network between the operator and the pods.",
    ),
    Alert(
        "CacheClusterChangeHeldUp",
        "warning",
        f"max {_BY} (cachecluster_change_idle_seconds) > 900",
        "",
        f"A planned change of {_CLUSTER} does not get on",
        "A roll, scale-in or hand-over has not got on for 15 minutes. `kubectl describe cc` says what it waits for.",
    ),
    Alert(
        "CacheClusterFailedOver",
        "info",
        f"sum {_BY} (increase(cachecluster_failovers_total[10m])) > 0",
        "",
        f"{_CLUSTER} failed over",
        "Partitions got another primary because theirs failed. `kubectl get events` tells why.",
    ),
    Alert(
        "CacheClusterNearlyFull",
        "info",
        f"sum {_BY} (cachecluster_copy_used_memory_bytes * on (cluster_namespace, cluster, pod, partition)"
        f" cachecluster_copy_gate_open) / max {_BY} (cachecluster_memory_usable_bytes) > 0.9",
        "30m",
        f"{_CLUSTER} is filled to {{{{ $value | humanizePercentage }}}}",
        "Keys are evicted, or writes refused with eviction noeviction. Add nodes or memory.",
    ),
    Alert(
        "CacheClusterMapUnknown",
        "warning",
        f"max {_BY} (cachecluster_map_known) == 0",
        "1m",
        f"The map of {_CLUSTER} cannot be read",
        "Partitions are served by promises for apiOutageSeconds, sole copies for lostAfterSeconds; nothing fails over.",
    ),
)

POD_ALERTS = (
    Alert(
        "CacheClusterAuthorityNearLapse",
        "warning",
        f'sum {_BY_POD} (rate(cachecluster_agent_authority_margin_seconds_bucket{{le="0.5"}}[5m]))'
        f' / sum {_BY_POD} (rate(cachecluster_agent_authority_margin_seconds_bucket{{le="+Inf"}}[5m])) > 0.01',
        "5m",
        f"Authority of {_POD} comes close to lapsing",
        "Its quorum reads are late by more than a second: a starved node or a slow API server.",
    ),
    Alert(
        "CacheClusterQuorumReadsFail",
        "warning",
        f"sum {_BY_POD} (rate(cachecluster_agent_quorum_read_failures_total[5m])) > 0.1",
        "5m",
        f"{_POD} cannot read the map",
        "The API server is unreachable or refuses. The pod serves by the promises of other copies' agents, for"
        " apiOutageSeconds at most.",
    ),
    Alert(
        "CacheClusterEnginesDie",
        "warning",
        f"sum {_BY_POD} (increase(cachecluster_agent_engine_deaths_total[15m])) >= 3",
        "",
        f"Engine processes of {_POD} die",
        "Look at the container's memory limit and its log. Their partitions fail over each time.",
    ),
    Alert(
        "CacheClusterRoutersDie",
        "warning",
        f"sum {_BY_POD} (increase(cachecluster_agent_router_starts_total[15m]))"
        f" - max {_BY_POD} (cachecluster_agent_routers) >= 3",
        "",
        f"Router processes of {_POD} are started again and again",
        "Look at the sidecar's memory limit and its log. Clients lose their connections each time.",
    ),
    Alert(
        "CacheClusterReplicasLag",
        "warning",
        f"sum {_BY_POD} (cachecluster_copy_lagging_members) > 0",
        "2m",
        f"Replicas of partitions of {_POD} lag behind",
        "They leave the in-sync set and are filled again: the network or their node is too slow.",
    ),
    Alert(
        "CacheClusterCommandsRefused",
        "warning",
        f'sum {_BY} (rate(cachecluster_router_errors_total{{kind="tryagain"}}[2m])) > 0',
        "1m",
        f"Routers of {_CLUSTER} refuse commands",
        "Commands waited as long as they may for a partition without an open gate and were answered -TRYAGAIN.",
    ),
    Alert(
        "CacheClusterIndeterminateReplies",
        "warning",
        f'sum {_BY} (rate(cachecluster_router_errors_total{{kind="indeterminate"}}[5m])) > 0',
        "5m",
        f"Routers of {_CLUSTER} keep losing replies",
        "Commands were sent to an engine whose answer never came; clients were told that the outcome is unknown.",
    ),
    Alert(
        "CacheClusterConnectionsRejected",
        "warning",
        f"sum {_BY_POD} (rate(cachecluster_router_connections_rejected_total[5m])) > 0",
        "1m",
        f"{_POD} refuses connections",
        "It has router.maxClients clients. Raise it, add router.workers, or look for clients that leak connections.",
    ),
)

OPERATOR_ALERTS = (
    Alert(
        "CacheClusterNoOperator",
        "critical",
        "absent(cachecluster_operator_leader == 1)",
        "1m",
        "No operator of CacheClusters leads",
        "Nothing fails over or is repaired. Caches go on serving where their pods are well.",
    ),
    Alert(
        "CacheClusterOperatorErrors",
        "warning",
        f"sum {_BY} (increase(cachecluster_step_errors_total[10m])) > 0",
        "",
        f"The operator cannot decide about {_CLUSTER}",
        "A decision ended in an error: look at the operator's log and report it.",
    ),
    Alert(
        "CacheClusterReconcilesFail",
        "warning",
        "sum(rate(cachecluster_operator_reconcile_errors_total[5m])) > 0",
        "15m",
        "Reconciles of CacheClusters fail",
        "They are tried again. The operator's log and `kubectl describe cc` say why.",
    ),
)

GROUPS = {"cachecluster": CLUSTER_ALERTS, "cachecluster-pods": POD_ALERTS, "cachecluster-operator": OPERATOR_ALERTS}


def alert_groups() -> Manifest:
    """The rules as Prometheus reads them: `{"groups": [...]}`."""
    return {"groups": [{"name": name, "rules": [_rule(alert) for alert in alerts]} for name, alerts in GROUPS.items()]}


def _rule(alert: Alert) -> Manifest:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        **({"for": alert.hold} if alert.hold else {}),
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.description},
    }


def alert_config_map(namespace: str) -> Manifest:
    """The rules as a file in a ConfigMap, for a Prometheus that mounts it."""
    text = yaml.safe_dump(alert_groups(), sort_keys=False, width=1000)
    return _manifest("v1", "ConfigMap", NAME, namespace) | {"data": {"cachecluster-alerts.yaml": text}}


def prometheus_rule(namespace: str) -> Manifest:
    """The rules for the Prometheus operator."""
    return _manifest("monitoring.coreos.com/v1", "PrometheusRule", NAME, namespace) | {"spec": alert_groups()}


def pod_monitors(namespace: str) -> list[Manifest]:
    """What the Prometheus operator scrapes: the pods of all clusters in all namespaces, and the operator's own."""
    cache = {"app.kubernetes.io/name": "cachecluster", "app.kubernetes.io/component": "cache"}
    return [
        _pod_monitor("cachecluster-pods", namespace, cache, {"any": True}),
        _pod_monitor("cachecluster-operator", namespace, dict(LABELS), {"matchNames": [namespace]}),
    ]


def _pod_monitor(name: str, namespace: str, labels: dict[str, str], namespaces: Manifest) -> Manifest:
    spec = {
        "namespaceSelector": namespaces,
        "selector": {"matchLabels": labels},
        "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": SCRAPE_INTERVAL}],
    }
    return _manifest("monitoring.coreos.com/v1", "PodMonitor", name, namespace) | {"spec": spec}


def _manifest(version: str, kind: str, name: str, namespace: str) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": dict(LABELS)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}
