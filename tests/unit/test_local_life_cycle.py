"""`cachecluster-local` starts, tells about itself, and leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.datapath import plain_client
from tests.local_process import LocalProcess
from tests.waiting import wait_until

from cachecluster_local.processes import processes_under

pytestmark = [pytest.mark.t1, pytest.mark.timeout(120)]

SMALL = ("--partitions", "4")


@pytest.fixture
def local(tmp_path: Path) -> LocalProcess:
    """Stopped by the test itself."""
    return LocalProcess.start(tmp_path / "run", "valkey", 2, *SMALL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(local: LocalProcess, number: signal.Signals) -> None:
    state = local.state()
    directory = Path(state["stateDir"])
    assert len(processes_under(directory)) > 10
    local.process.send_signal(number)
    code = local.process.wait(20)
    wait_until(lambda: not directory.exists(), 20, "the state directory is removed")
    assert not processes_under(directory)
    local.stop()
    if number is not signal.SIGKILL:
        assert code == 0
        assert not (local.directory / "state.json").exists()


def test_the_state_file_tells_addresses_and_processes_and_follows_them(local: LocalProcess) -> None:
    try:
        state = local.state()
        first, second = (node["address"] for node in state["nodes"])
        assert state["plain"] == [[first, 6379], [second, 6379]]
        assert state["cluster"] == [[first, 7379], [second, 7379]]
        assert state["metrics"] == [[first, 9121], [second, 9121]]
        assert [node["name"] for node in state["nodes"]] == ["local-0", "local-1"]
        assert {p for node in state["nodes"] for p in node["pids"]["engines"]} == {"0", "1", "2", "3"}
        assert len(state["pids"]["engine"]) == 8
        assert len(state["pids"]["agent"]) == len(state["pids"]["router"]) == 2
        for kind, name in (("engine", "valkey-server"), ("agent", "python"), ("router", "python")):
            for pid in state["pids"][kind]:
                assert name in Path(f"/proc/{pid}/cmdline").read_text()
        router = state["nodes"][0]["pids"]["routers"][0]
        local.signal([router])
        wait_until(lambda: _routers(local) and router not in _routers(local), 10, "the new router is in the state file")
    finally:
        local.stop()


def _routers(local: LocalProcess) -> list[int]:
    routers: list[int] = local.state()["pids"]["router"]
    return routers


def test_metrics_and_health_are_served_on_every_node(local: LocalProcess) -> None:
    try:
        for host, port in local.state()["metrics"]:
            for path, text in (("metrics", "cachecluster_"), ("healthz", ""), ("readyz", "")):
                with urllib.request.urlopen(f"http://{host}:{port}/{path}", timeout=5) as answer:
                    assert answer.status == 200
                    assert text in answer.read().decode()
    finally:
        local.stop()


def test_a_single_node_serves_alone_and_its_agent_and_redis_come_back(tmp_path: Path) -> None:
    local = LocalProcess.start(tmp_path / "run", "valkey", 1, *SMALL)
    try:
        with plain_client(local.endpoints().plain[0]) as client:
            assert client.mset({f"key-{n}": n for n in range(50)})
            agent = local.state()["pids"]["agent"][0]
            local.signal([agent])
            wait_until(lambda: local.state()["pids"]["agent"] not in ([], [agent]), 15, "the agent is back")
            assert client.get("key-7") == b"7"
    finally:
        local.stop()


def test_two_router_processes_a_node(tmp_path: Path) -> None:
    local = LocalProcess.start(tmp_path / "run", "redis", 2, *SMALL, "--router-workers", "2")
    try:
        assert len(local.state()["pids"]["router"]) == 4
        for _ in range(8):
            with plain_client(local.endpoints().plain[0]) as client:
                assert client.incr("counter")
    finally:
        local.stop()


def test_a_port_that_is_taken_is_named_and_nothing_is_left(local: LocalProcess, short_dir: Path) -> None:
    try:
        address = local.state()["nodes"][0]["address"]
        command = [sys.executable, "-m", "cachecluster_local.main", "--nodes", "1", "--first-address", address]
        environment = os.environ | {"TMPDIR": str(short_dir)}
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
        assert second.returncode == 1
        assert f"{address}:6379" in second.stderr and "Traceback" not in second.stderr
        assert not list(short_dir.iterdir())
    finally:
        local.stop()


def test_the_api_shows_the_map_as_an_object(local: LocalProcess) -> None:
    try:
        url = f"{local.state()['api']}/apis/cachecluster.io/v1alpha1/namespaces/local/hashrings/local"
        with urllib.request.urlopen(url, timeout=5) as answer:
            shown = json.load(answer)
        assert (shown["kind"], shown["metadata"]["name"]) == ("HashRing", "local")
        assert len(shown["spec"]["entries"]) == 4
    finally:
        local.stop()
