"""Waits until every in-sync copy of a `cachecluster-local` has what was written: the engines themselves are asked."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import redis
from tests.local_process import LocalProcess
from tests.waiting import wait_until

from cachecluster_core.hashring import CopyId

ANSWER_S = 2.0


def wait_replicated(local: LocalProcess, seconds: float = 20.0) -> None:
    """Until each partition's replicas have all that its primary had, at some instant after this call began.

    With `durability: async` only that survives an unplanned fault.
    """
    ring = local.ring()
    assert ring is not None
    pending = set(range(len(ring.entries)))

    def replicated() -> bool:
        pending.difference_update([partition for partition in pending if _is_replicated(local, partition)])
        return not pending

    wait_until(replicated, seconds, "all that was written is on every in-sync copy")


def _is_replicated(local: LocalProcess, partition: int) -> bool:
    ring = local.ring()
    entry = ring.entries[partition] if ring is not None else None
    if entry is None or entry.primary is None:
        return False
    primary = _replication(local, entry.primary, partition)
    if primary is None or primary["role"] != "master":
        return False
    return all(_has(_replication(local, copy, partition), primary) for copy in entry.isr if copy != entry.primary)


def _has(replica: dict[str, Any] | None, primary: dict[str, Any]) -> bool:
    """The replica follows the primary's history and has come at least as far."""
    return (
        replica is not None
        and replica.get("master_link_status") == "up"
        and replica["master_replid"] == primary["master_replid"]
        and replica["slave_repl_offset"] >= primary["master_repl_offset"]
    )


def _replication(local: LocalProcess, copy: CopyId, partition: int) -> dict[str, Any] | None:
    """INFO replication of a copy's engine; None when it does not answer."""
    nodes = [node for node in local.state()["nodes"] if node["uid"] == copy.pod]
    with contextlib.suppress(redis.RedisError, OSError):
        for node in nodes:
            directory = Path(local.state()["stateDir"]) / f"node-{node['name'].rpartition('-')[2]}"
            password = (directory / "secrets" / "agent-password").read_text().strip()
            where = str(directory / "run" / "sock" / f"p{partition}.sock")
            options: dict[str, Any] = {"socket_timeout": ANSWER_S, "username": "agent", "password": password}
            with redis.Redis(unix_socket_path=where, **options) as engine:
                info: dict[str, Any] = engine.info("replication")
                return info
    return None
