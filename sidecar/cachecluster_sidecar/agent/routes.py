"""The `routes` message to the routers: what of the map they need, made from the map. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cachecluster_core.hashring import Entry, HashRing, State


def build_routes(
    ring: HashRing, pod: str, cluster_port: int, sockets: Mapping[int, str], engine_version: str
) -> dict[str, Any]:
    """`sockets` are those of the copies on this pod, by partition."""
    return {
        "version": ring.version,
        "name": ring.name,
        "self": pod,
        "partitions": len(ring.entries),
        "members": {
            uid: {"name": member.name, "host": member.host, "port": cluster_port} for uid, member in ring.members
        },
        "primaries": [_primary(entry) for entry in ring.entries],
        "replicas": [_replicas(entry) for entry in ring.entries],
        "epochs": [entry.epoch for entry in ring.entries],
        "local": {str(partition): {"socket": sockets[partition]} for partition in sorted(sockets)},
        "settings": _settings(ring, engine_version),
    }


def local_partitions(ring: HashRing, pod: str) -> Iterable[int]:
    """Partitions of which the map wants a copy on this pod."""
    return (partition for partition, entry in enumerate(ring.entries) if pod in entry.pods())


def _primary(entry: Entry) -> str | None:
    serving = entry.state in (State.STABLE, State.MOVING)
    return entry.primary.pod if serving and entry.primary is not None else None


def _replicas(entry: Entry) -> list[str]:
    return [copy.pod for copy in entry.isr if copy != entry.primary]


def _settings(ring: HashRing, engine_version: str) -> dict[str, Any]:
    settings = ring.settings
    return {
        "maxClients": settings.max_clients,
        "parkTimeoutMs": round(settings.park_timeout_s * 1000),
        "parkMaxBytes": settings.park_max_bytes,
        "maxmemory": settings.maxmemory_cluster,
        "evictionPolicy": dict(settings.engine_config).get("maxmemory-policy", "noeviction"),
        "engine": settings.engine,
        "engineVersion": engine_version,
    }
