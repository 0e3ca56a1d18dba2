"""`ClusterKey`: which CacheCluster. Its one job; no other module builds key strings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ClusterKey:
    """Namespace and name of a CacheCluster. A cluster that was deleted and made again has the same key, another UID."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
