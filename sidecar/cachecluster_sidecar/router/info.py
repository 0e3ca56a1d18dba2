"""INFO and CONFIG GET as far as clients and tools read them: of this router and its cluster, never of one engine."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import platform
import time
from typing import Any

from .core import Client, Router
from .resp import MAX_BULK_BYTES

STARTED = time.monotonic()
STARTED_AT = int(time.time())
"""Seconds since 1970: what LASTSAVE tells where nothing is ever saved, as the engines do."""
VALKEY_COMPATIBILITY = "7.2.4"
"""The redis_version that every Valkey reports, so that clients written for Redis know its features."""
LONGEST_PATTERN = 256
"""Of a name of CONFIG GET in bytes; longer ones match nothing."""
EVERYTHING = ("all", "everything", "default")


def config(router: Router, client: Client) -> dict[str, str]:
    """The settings that clients and tools ask for."""
    settings = _settings(router)
    return {
        "appendonly": "no",
        "client-output-buffer-limit": (
            f"normal {router.unread_replies_max} 0 0 slave 0 0 0 pubsub {router.unread_messages_max} 0 0"
        ),
        "client-query-buffer-limit": str(router.request_max),
        "cluster-enabled": "yes" if client.cluster else "no",
        "databases": "1",
        "maxclients": str(settings["maxClients"]),
        "maxmemory": str(settings["maxmemory"]),
        "maxmemory-policy": settings["evictionPolicy"],
        "proto-max-bulk-len": str(min(MAX_BULK_BYTES, router.request_max)),
        "save": "",
        "tcp-keepalive": "300",
        "timeout": str(round(router.idle_timeout)),
    }


def config_get(router: Router, client: Client, patterns: list[bytes]) -> dict[str, str]:
    """The settings whose names match any of the glob patterns."""
    values = config(router, client)
    wanted = [it.decode(errors="replace").lower() for it in dict.fromkeys(patterns) if len(it) <= LONGEST_PATTERN]
    found = {name for pattern in wanted for name in fnmatch.filter(values, pattern)}
    return {name: value for name, value in values.items() if name in found}


def info(router: Router, client: Client, sections: list[bytes]) -> str:
    """The text of INFO for the named sections; without any, all of them."""
    wanted = {section.decode(errors="replace").lower() for section in sections}
    everything = not wanted or wanted.intersection(EVERYTHING)
    parts = []
    for title, fields in _sections(router, client).items():
        if everything or title.lower() in wanted:
            parts.append(f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items()))
    return "\r\n".join(parts)


def name_and_version(router: Router) -> str:
    """The one line that LOLWUT ends with."""
    settings = _settings(router)
    return f"{settings['engine'].title()} ver. {settings['engineVersion']}\n"


def engine_version(router: Router) -> dict[str, str]:
    """The version fields of INFO: those of the cluster's engine."""
    settings = _settings(router)
    if settings["engine"] == "valkey":
        version = {"redis_version": VALKEY_COMPATIBILITY, "server_name": "valkey"}
        return {**version, "valkey_version": settings["engineVersion"]}
    return {"redis_version": settings["engineVersion"]}


def _settings(router: Router) -> dict[str, Any]:
    assert router.routes is not None, "the ports open after the first routes"
    settings: dict[str, Any] = router.routes["settings"]
    return settings


def _sections(router: Router, client: Client) -> dict[str, dict[str, object]]:
    settings = _settings(router)
    counters = router.metrics_kept()
    requests = sum(counters["requests"].values())
    cut = counters["disconnected"]
    return {
        "Server": {
            **engine_version(router),
            "redis_mode": "cluster" if client.cluster else "standalone",
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "arch_bits": 64,
            "multiplexing_api": "epoll",
            "process_id": os.getpid(),
            "run_id": hashlib.sha1(router.self_uid.encode()).hexdigest(),
            "tcp_port": client.transport.get_extra_info("sockname")[1],
            "uptime_in_seconds": int(time.monotonic() - STARTED),
        },
        "Clients": {
            "connected_clients": router.client_count,
            "maxclients": settings["maxClients"],
            "blocked_clients": 0,
        },
        "Memory": {"maxmemory": settings["maxmemory"], "maxmemory_policy": settings["evictionPolicy"]},
        "Persistence": {"loading": 0, "aof_enabled": 0},
        "Stats": {
            "total_connections_received": counters["connections"],
            "total_commands_processed": requests,
            "rejected_connections": counters["rejected"],
            "total_net_input_bytes": counters["bytesIn"],
            "total_net_output_bytes": counters["bytesOut"],
            "client_query_buffer_limit_disconnections": cut["request-size"],
            "client_output_buffer_limit_disconnections": cut["slow-reader"] + cut["messages"],
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Cluster": {"cluster_enabled": int(client.cluster)},
    }
