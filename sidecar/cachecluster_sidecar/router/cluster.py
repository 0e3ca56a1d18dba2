"""What the CLUSTER commands tell, from the agent's routes: pods and their cluster ports."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cachecluster_core.slots import SLOTS, slot_of_key, slot_range

from .encode import encode, error

Routes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring partitions that have the same primary and replicas: one range of slots, both ends inclusive."""

    first: int
    last: int
    primary: str
    replicas: tuple[str, ...]


def node_id(uid: str) -> str:
    """The 40 hex digits that name a pod in cluster replies."""
    return hashlib.sha1(uid.encode()).hexdigest()


def runs(routes: Routes, served_only: bool = False) -> Iterator[Run]:
    """The slots as few ranges, in order, each at the pod where it is announced: one that leaves is not shown where
    another stands in for it. Without a primary they are shown as this pod's, or one's that stays, unless `served_only`.

    Clients give up on slots that nobody has; sent here, a command waits until the partition is served again, or is
    told where. A pod that leads partitions is not shown as a replica of others: clients give a node one role, and would
    leave a pod that they met as a replica out of what they ask every primary (DBSIZE, SCAN).
    """
    leading = set(routes["announced"])
    current: Run | None = None
    for partition, known in enumerate(routes["announced"]):
        primary = known if known in routes["members"] or served_only else _anybody(routes, partition)
        if primary not in routes["members"]:
            continue
        first, last = slot_range(partition, routes["partitions"])
        others = (uid for uid in routes["replicas"][partition] if uid in routes["members"] and uid != primary)
        replicas = tuple(uid for uid in others if uid not in leading)
        if current and (current.primary, current.replicas, current.last + 1) == (primary, replicas, first):
            current = Run(current.first, last, primary, replicas)
            continue
        if current:
            yield current
        current = Run(first, last, primary, replicas)
    if current:
        yield current


def _anybody(routes: Routes, partition: int) -> str:
    """This pod; when it leaves, one that stays and serves others."""
    own: str = routes["self"]
    serving = set(routes["announced"])
    staying = [uid for uid, member in routes["members"].items() if uid in serving and not member["leaving"]]
    return staying[partition % len(staying)] if staying and routes["members"][own]["leaving"] else own


def answer(routes: Routes, arguments: list[bytes], proto: int) -> bytes:
    """The reply to a CLUSTER command on the cluster port."""
    match arguments[1].upper():
        case b"SLOTS":
            return encode(_slots(routes), proto)
        case b"SHARDS":
            return encode(_shards(routes), proto)
        case b"NODES":
            return _text("".join(_nodes(routes)), proto)
        case b"INFO":
            return _text(_info(routes), proto)
        case b"MYID" | b"MYSHARDID":
            return encode(node_id(routes["self"]), proto)
        case b"LINKS":
            return encode([], proto)
        case b"REPLICAS" | b"SLAVES":
            if arguments[2].decode(errors="replace") not in map(node_id, routes["members"]):
                return error(f"ERR Unknown node {arguments[2].decode(errors='replace')}")
            return encode([], proto)
        case b"KEYSLOT":
            return encode(slot_of_key(arguments[2]), proto)
    return error(f"ERR 'cluster|{arguments[1].decode(errors='replace').lower()}' is not known to the router")


def _text(text: str, proto: int) -> bytes:
    """A text reply: verbatim in RESP3, as the engines do."""
    data = text.encode()
    return b"=%d\r\ntxt:%s\r\n" % (len(data) + 4, data) if proto == 3 else encode(data, proto)


def _slots(routes: Routes) -> list[object]:
    reply: list[object] = []
    for run in runs(routes):
        nodes = [_slots_node(routes, uid) for uid in (run.primary, *run.replicas)]
        reply.append([run.first, run.last, *nodes])
    return reply


def _slots_node(routes: Routes, uid: str) -> list[object]:
    member = routes["members"][uid]
    return [member["host"], member["port"], node_id(uid), {}]


def _shards(routes: Routes) -> list[object]:
    """One shard for each set of primary and replicas: a pod is in several, with the role it has there."""
    shards: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for run in runs(routes):
        shards.setdefault((run.primary, run.replicas), []).extend((run.first, run.last))
    return [
        {
            "slots": ranges,
            "nodes": [
                _shard_node(routes, primary, "master"),
                *(_shard_node(routes, uid, "replica") for uid in replicas),
            ],
        }
        for (primary, replicas), ranges in shards.items()
    ]


def _shard_node(routes: Routes, uid: str, role: str) -> dict[str, object]:
    member = routes["members"][uid]
    return {
        "id": node_id(uid),
        "port": member["port"],
        "ip": member["host"],
        "endpoint": member["host"],
        "role": role,
        "replication-offset": 0,
        "health": "online",
    }


def _nodes(routes: Routes) -> Iterator[str]:
    """One line a pod, without others that leave and are not announced. Each is primary of some partitions or of none;
    replicas of partitions have no line here."""
    ranges: dict[str, list[str]] = {}
    for run in runs(routes):
        ranges.setdefault(run.primary, []).append(f"{run.first}-{run.last}")
    epoch = max(routes["epochs"], default=0)
    for uid, member in routes["members"].items():
        if member["leaving"] and uid != routes["self"] and uid not in ranges:
            continue
        flags = "myself,master" if uid == routes["self"] else "master"
        address = f"{member['host']}:{member['port']}@{member['port']}"
        line = f"{node_id(uid)} {address} {flags} - 0 0 {epoch} connected {' '.join(ranges.get(uid, []))}"
        yield line.rstrip() + "\n"


def _info(routes: Routes) -> str:
    served = sum(run.last - run.first + 1 for run in runs(routes, served_only=True))
    primaries = {run.primary for run in runs(routes, served_only=True)}
    epoch = max(routes["epochs"], default=0)
    fields = {
        "cluster_state": "ok" if served == SLOTS else "fail",
        "cluster_slots_assigned": SLOTS,
        "cluster_slots_ok": served,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": SLOTS - served,
        "cluster_known_nodes": sum(1 for _ in _nodes(routes)),
        "cluster_size": len(primaries),
        "cluster_current_epoch": epoch,
        "cluster_my_epoch": epoch,
        "cluster_stats_messages_sent": 0,
        "cluster_stats_messages_received": 0,
        "total_cluster_links_buffer_limit_exceeded": 0,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in fields.items())
