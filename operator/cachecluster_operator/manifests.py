"""Manifests of what a cluster has besides its pods and its map: pure builders, without a client or a clock.

All are owned by the CacheCluster. The Secret is made once and never changed, so its builder takes the values.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

from .cluster_key import ClusterKey
from .labels import CLIENT_PORT, CLUSTER_PORT, account_name, common_labels, owner_reference, pod_labels, secret_name

Json = dict[str, Any]

SECRET_KEYS = ("agent-password", "gate-password", "repl-password", "peer-token")
SECRET_BYTES = 32


def new_secret_values() -> dict[str, str]:
    """Fresh random passwords and the peer token, URL-safe text of 256 bits each."""
    return {name: secrets.token_urlsafe(SECRET_BYTES) for name in SECRET_KEYS}


def secret(key: ClusterKey, cluster: Json, values: dict[str, str]) -> Json:
    """The Secret that pods mount. Immutable: nothing that changed it could reach running engines in order."""
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    manifest = _child("v1", "Secret", secret_name(key, cluster), key, cluster)
    return manifest | {"type": "Opaque", "immutable": True, "data": encoded}


def secret_values(obj: Json) -> dict[str, str]:
    """The values of a Secret. ValueError names what is missing."""
    data = obj.get("data") or {}
    missing = [name for name in SECRET_KEYS if not data.get(name)]
    if missing:
        raise ValueError(f"the Secret {obj['metadata']['name']} lacks {', '.join(missing)}")
    return {name: base64.b64decode(data[name]).decode() for name in SECRET_KEYS}


def access_children(key: ClusterKey, cluster: Json) -> list[Json]:
    """ServiceAccount, Role and RoleBinding of the pods: they may read exactly their own map."""
    name = account_name(key)
    account = _child("v1", "ServiceAccount", name, key, cluster)
    account["automountServiceAccountToken"] = False
    role = _child("rbac.authorization.k8s.io/v1", "Role", name, key, cluster)
    role["rules"] = [
        {
            "apiGroups": ["cachecluster.io"],
            "resources": ["hashrings"],
            "resourceNames": [key.name],
            "verbs": ["get", "list", "watch"],
        }
    ]
    binding = _child("rbac.authorization.k8s.io/v1", "RoleBinding", name, key, cluster)
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    binding["subjects"] = [{"kind": "ServiceAccount", "name": name, "namespace": key.namespace}]
    return [account, role, binding]


def service_children(key: ClusterKey, cluster: Json) -> list[Json]:
    """The two Services: any client by the cluster's name, cluster-aware clients by `<name>-cluster`."""
    front = _service(key.name, key, cluster, CLIENT_PORT)
    aware = _service(f"{key.name}-cluster", key, cluster, CLUSTER_PORT)
    return [front, aware]


def disruption_budget(key: ClusterKey, cluster: Json, min_available: int) -> Json:
    """How many pods must stay ready while others are evicted. `maxUnavailable` would be counted from `spec.nodes`,
    although there are more pods in a roll and while a scale-in is refused: as many more could be evicted."""
    budget = _child("policy/v1", "PodDisruptionBudget", key.name, key, cluster)
    budget["spec"] = {"minAvailable": min_available, "selector": {"matchLabels": pod_labels(key)}}
    return budget


def _service(name: str, key: ClusterKey, cluster: Json, target_port: int) -> Json:
    service = _child("v1", "Service", name, key, cluster)
    port = {"name": "redis", "protocol": "TCP", "port": CLIENT_PORT, "targetPort": target_port}
    service["spec"] = {"type": "ClusterIP", "selector": pod_labels(key), "ports": [port]}
    return service


def _child(api_version: str, kind: str, name: str, key: ClusterKey, cluster: Json) -> Json:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": key.namespace,
            "labels": common_labels(key),
            "ownerReferences": [owner_reference(cluster)],
        },
    }
