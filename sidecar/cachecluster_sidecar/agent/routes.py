"""The `routes` message to the routers: what of the map they need, made from the map and the news since. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cachecluster_core.agent_view import TakenOver
from cachecluster_core.hashring import CopyId, Entry, HashRing, State
from cachecluster_core.leaving import leaving_pods


def build_routes(
    ring: HashRing,
    pod: str,
    cluster_port: int,
    sockets: Mapping[int, str],
    engine_version: str,
    taken_over: Mapping[int, TakenOver],
) -> dict[str, Any]:
    """`sockets` are those of the copies on this pod, `taken_over` the last news, both by partition."""
    leaving = leaving_pods(ring)
    serving = [serving_copy(entry, taken_over.get(partition)) for partition, entry in enumerate(ring.entries)]
    return {
        "version": ring.version,
        "name": ring.name,
        "self": pod,
        "partitions": len(ring.entries),
        "members": {
            uid: {"name": member.name, "host": member.host, "port": cluster_port, "leaving": member.leaving}
            for uid, member in ring.members
        },
        "primaries": [copy.pod if copy is not None else None for copy in serving],
        "announced": [_announced(entry, copy, leaving) for entry, copy in zip(ring.entries, serving, strict=True)],
        "serving": [str(copy) if copy is not None else None for copy in serving],
        "replicas": [_replicas(entry, copy, leaving) for entry, copy in zip(ring.entries, serving, strict=True)],
        "inSync": [len(entry.isr) for entry in ring.entries],
        "epochs": [entry.epoch for entry in ring.entries],
        "local": {str(partition): {"socket": sockets[partition]} for partition in sorted(sockets)},
        "settings": _settings(ring, engine_version),
    }


def local_partitions(ring: HashRing, pod: str) -> Iterable[int]:
    """Partitions of which the map wants a copy on this pod."""
    return (partition for partition, entry in enumerate(ring.entries) if pod in entry.pods())


def serving_copy(entry: Entry, news: TakenOver | None) -> CopyId | None:
    """Whose gate is or will be open: the map's primary, unless a successor has taken over since; None for nobody."""
    if news is not None and news.epoch >= entry.epoch:
        return news.copy
    return entry.primary if entry.state in (State.STABLE, State.MOVING) else None


def _announced(entry: Entry, serving: CopyId | None, leaving: frozenset[str]) -> str | None:
    """The pod where cluster-aware clients are to look for the slots: the primary's, unless that is leaving and an
    in-sync copy stays, whose pod stands in for it. Clients that read the slots before it is gone do not try it after.
    """
    if serving is None or serving.pod not in leaving:
        return serving.pod if serving is not None else None
    staying = (copy.pod for copy in (entry.successor, *entry.isr) if copy is not None and copy.pod not in leaving)
    return next(staying, serving.pod)


def _replicas(entry: Entry, serving: CopyId | None, leaving: frozenset[str]) -> list[str]:
    """Not those that will go: clients that learned of them now would try them when they are gone."""
    return [copy.pod for copy in entry.isr if copy != serving and copy.pod not in leaving]


def _settings(ring: HashRing, engine_version: str) -> dict[str, Any]:
    settings = ring.settings
    return {
        "maxClients": settings.max_clients,
        "parkTimeoutMs": round(settings.park_timeout_s * 1000),
        "parkMaxBytes": settings.park_max_bytes,
        "sync": settings.sync,
        "minInSync": settings.min_in_sync,
        "ackTimeoutMs": round(settings.ack_timeout_s * 1000),
        "committedReads": settings.committed_reads,
        "maxmemory": settings.maxmemory_cluster,
        "evictionPolicy": dict(settings.engine_config).get("maxmemory-policy", "noeviction"),
        "engine": settings.engine,
        "engineVersion": engine_version,
    }
