"""The kinds of objects that the operator touches, and their paths on the API server. Nothing is discovered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: `api_version` as in manifests ("v1", "apps/v1")."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection (no name) or of an object; `namespace` None means all namespaces."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [root + self.api_version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/".join(parts)


GROUP_VERSION = "cachecluster.io/v1alpha1"
MONITORING = "monitoring.coreos.com/v1"

CACHE_CLUSTER = Resource(GROUP_VERSION, "cacheclusters", "CacheCluster")
HASH_RING = Resource(GROUP_VERSION, "hashrings", "HashRing")
POD = Resource("v1", "pods", "Pod")
NODE = Resource("v1", "nodes", "Node", namespaced=False)
SECRET = Resource("v1", "secrets", "Secret")
SERVICE = Resource("v1", "services", "Service")
SERVICE_ACCOUNT = Resource("v1", "serviceaccounts", "ServiceAccount")
CONFIG_MAP = Resource("v1", "configmaps", "ConfigMap")
ROLE = Resource("rbac.authorization.k8s.io/v1", "roles", "Role")
ROLE_BINDING = Resource("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")
PDB = Resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget")
LEASE = Resource("coordination.k8s.io/v1", "leases", "Lease")
EVENT = Resource("events.k8s.io/v1", "events", "Event")
POD_MONITOR = Resource(MONITORING, "podmonitors", "PodMonitor")
PROMETHEUS_RULE = Resource(MONITORING, "prometheusrules", "PrometheusRule")

_BY_KIND = {
    (resource.api_version, resource.kind): resource
    for resource in (
        CACHE_CLUSTER, HASH_RING, POD, SECRET, SERVICE, SERVICE_ACCOUNT, CONFIG_MAP, ROLE, ROLE_BINDING, PDB, LEASE,
        EVENT, POD_MONITOR, PROMETHEUS_RULE,
    )
}  # fmt: skip


def resource_of(manifest: dict[str, object]) -> Resource:
    """The resource of a manifest by its apiVersion and kind. KeyError for a kind that the operator does not know."""
    return _BY_KIND[str(manifest["apiVersion"]), str(manifest["kind"])]
