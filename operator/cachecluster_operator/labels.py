"""Names, labels, annotations and ports of everything that belongs to a cluster: one place, so that they agree."""

from __future__ import annotations

from typing import Any

from .cluster_key import ClusterKey

CLUSTER_LABEL = "cachecluster.io/cluster"
NUMBER_LABEL = "cachecluster.io/number"
"""On pods: the number in their name."""
TEMPLATE_ANNOTATION = "cachecluster.io/template"
"""On pods: fingerprint of what the spec said about pods when this one was made."""
MEMORY_ANNOTATION = "cachecluster.io/memory"
"""On pods: `spec.memory` in bytes that this pod's containers were sized for."""
PARKED_ANNOTATION = "cachecluster.io/parked-size"
CLIENTS_ANNOTATION = "cachecluster.io/max-clients"
"""On pods: `spec.router.limits.parkedSize` in bytes and `spec.router.maxClients` that its sidecar was sized for."""
ENGINE_ANNOTATION = "cachecluster.io/engine"
"""On pods: the engine that this pod runs."""
PAUSED_ANNOTATION = "cachecluster.io/paused"
"""On CacheClusters: "true" holds back everything planned; failover and status go on."""
DATA_LOSS_SEEN_ANNOTATION = "cachecluster.io/data-loss-seen"
"""On CacheClusters: the time up to which a person has taken note of losses of data, as in `status.dataLoss.at`."""
APPLIED_ANNOTATION = "cachecluster.io/applied"
"""On children: fingerprint of the manifest as it was applied last."""

CLIENT_PORT = 6379
CLUSTER_PORT = 7379
AGENT_PORT = 7380
METRICS_PORT = 9121


def pod_labels(key: ClusterKey) -> dict[str, str]:
    """What selects the pods of a cluster, and nothing else."""
    return {"app.kubernetes.io/component": "cache", CLUSTER_LABEL: key.name}


def pod_selector(key: ClusterKey) -> str:
    """`pod_labels` as a label selector."""
    return ",".join(f"{label}={value}" for label, value in sorted(pod_labels(key).items()))


def common_labels(key: ClusterKey) -> dict[str, str]:
    """On everything that belongs to a cluster."""
    return {
        "app.kubernetes.io/name": "cachecluster",
        "app.kubernetes.io/instance": key.name,
        "app.kubernetes.io/managed-by": "cachecluster-operator",
        CLUSTER_LABEL: key.name,
    }


def owner_reference(cluster: dict[str, Any]) -> dict[str, Any]:
    """The reference by which garbage collection removes a child with this CacheCluster. It blocks nothing."""
    return {
        "apiVersion": cluster["apiVersion"],
        "kind": cluster["kind"],
        "name": cluster["metadata"]["name"],
        "uid": cluster["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }


def secret_name(key: ClusterKey, cluster: dict[str, Any]) -> str:
    """The Secret with the passwords of a cluster. Another cluster of the same name has another one: a kubelet hands
    the content of an immutable Secret that it knows to new pods for as long as old ones use it."""
    return f"{key.name}-auth-{cluster['metadata']['uid'][:8]}"


def account_name(key: ClusterKey) -> str:
    """The ServiceAccount of a cluster's pods, and its Role and RoleBinding."""
    return f"{key.name}-cache"
