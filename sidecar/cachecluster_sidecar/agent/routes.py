"""The `routes` message to the routers: what of the map they need, made from the map and the news since. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
            uid: {
                "name": member.name,
                "host": member.host,
                "port": cluster_port,
                "leaving": member.leaving,
                "zone": member.zone,
            }
            for uid, member in ring.members
        },
        "primaries": [copy.pod if copy is not None else None for copy in serving],
        "announced": _announced(ring, serving, leaving),
        "standsIn": [_stands_in(entry, copy, pod, leaving) for entry, copy in zip(ring.entries, serving, strict=True)],
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


def _announced(ring: HashRing, serving: Sequence[CopyId | None], leaving: frozenset[str]) -> list[str | None]:
    """Where cluster-aware clients are to look for each partition: at its primary's pod, unless that is leaving and an
    in-sync copy stays, whose pod stands in for it. Clients that read the slots before it is gone do not try it after.

    Pods that lead others already come first: clients that have read the slots before know them.
    """
    leading = {copy.pod for copy in serving if copy is not None}
    pods: list[str | None] = []
    for partition, (entry, copy) in enumerate(zip(ring.entries, serving, strict=True)):
        staying = _replicas(entry, copy, leaving) if copy is not None and copy.pod in leaving else []
        known = [pod for pod in staying if pod in leading] or staying
        pods.append(known[partition % len(known)] if known else copy.pod if copy is not None else None)
    return pods


def _stands_in(entry: Entry, serving: CopyId | None, pod: str, leaving: frozenset[str]) -> bool:
    """Whether this pod takes the partition's commands for a leaving one: with an in-sync copy, announced or not, so
    that routers of which one does not know the newest map do not send clients to and fro."""
    return serving is not None and serving.pod in leaving and any(copy.pod == pod for copy in entry.isr)


def _replicas(entry: Entry, serving: CopyId | None, leaving: frozenset[str]) -> list[str]:
    """Not those that will go: clients that learned of them now would try them when they are gone."""
    return [copy.pod for copy in entry.isr if copy != serving and copy.pod not in leaving]


def _settings(ring: HashRing, engine_version: str) -> dict[str, Any]:
    settings = ring.settings
    return {
        "maxClients": settings.max_clients,
        "parkTimeoutMs": round(settings.park_timeout_s * 1000),
        "parkMaxBytes": settings.park_max_bytes,
        "pipelinedCommands": settings.pipelined_commands,
        "requestMaxBytes": settings.request_max_bytes,
        "unreadRepliesBytes": settings.unread_replies_bytes,
        "unreadMessagesBytes": settings.unread_messages_bytes,
        "idleTimeoutMs": round(settings.idle_s * 1000),
        "sync": settings.sync,
        "minInSync": settings.min_in_sync,
        "ackTimeoutMs": round(settings.ack_timeout_s * 1000),
        "committedReads": settings.committed_reads,
        "readsFrom": settings.reads_from,
        "maxmemory": settings.maxmemory_cluster,
        "evictionPolicy": dict(settings.engine_config).get("maxmemory-policy", "noeviction"),
        "engine": settings.engine,
        "engineVersion": engine_version,
    }
