"""A whole agent with real routers and engines, under maps written by hand: it does what the map says, and only while
it may."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.agent_process import AGENT, CLUSTER, METRICS, TOKEN, UID, AgentProcess, running_agent
from tests.unit.agent_support import ENGINES
from tests.waiting import until

from cachecluster_core.hashring import CopyId, Entry, State
from cachecluster_core.report import Process
from cachecluster_local.processes import is_alive, send_signal

pytestmark = pytest.mark.t1


@pytest.fixture
def deaf_port() -> Iterator[Callable[[str], int]]:
    """A port that neither accepts nor refuses: its backlog is full."""
    with contextlib.ExitStack() as stack:

        def make(host: str) -> int:
            listener = stack.enter_context(socket.socket())
            listener.bind((host, 0))
            listener.listen(0)
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            return int(listener.getsockname()[1])

        yield make


@pytest.fixture(params=ENGINES)
async def agent(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    async with running_agent(request.param, tmp_path) as running:
        yield running


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[AgentProcess]:
    async with running_agent("valkey", tmp_path) as running:
        yield running


async def test_from_an_empty_pod_to_a_partition_that_answers(agent: AgentProcess) -> None:
    status, reason = await agent.get("/readyz")
    assert status == 503 and "no map" in reason
    await agent.serve()
    assert await agent.command("SET", "k", "v") == b"+OK"
    assert await agent.command("GET", "k") == b"v"
    await agent.reported(lambda copy: copy.required_epoch == 2)
    copy = agent.copy()
    assert copy.role == "master" and copy.intact and copy.term == 2 and copy.epoch == 2
    assert copy.required == (CopyId(UID, copy.run_id),)
    await until(lambda: agent.report is not None and agent.report.routers == 1)
    assert agent.report is not None and agent.report.authority_s > 0
    assert (await agent.get("/readyz"))[0] == 200
    assert (await agent.get("/healthz"))[0] == 200
    await until(lambda: agent.copy().keys == 1)
    page = (await agent.get("/metrics"))[1]
    assert "cachecluster_agent_quorum_read_seconds_count" in page and 'partition="0"' in page


async def test_electing_shuts_the_gate_and_seals_and_a_new_stable_opens_it_with_the_data(agent: AgentProcess) -> None:
    await agent.serve()
    await agent.command("SET", "k", "v")
    began = time.monotonic()
    await agent.write(agent.electing(3))
    await agent.reported(lambda copy: copy.sealed_epoch == 3)
    sealed_s = time.monotonic() - began
    copy = agent.copy()
    assert copy.shut_epoch == 3 and copy.gate_epoch == 0 and copy.term == 2 and copy.intact
    assert sealed_s < 4.0, sealed_s
    parked = asyncio.create_task(agent.command("GET", "k"))
    await agent.write(agent.stable(4, term=4))
    assert await parked == b"v"
    await agent.reported(lambda copy: copy.gate_epoch == 4)


async def test_a_killed_engine_is_reported_dead_or_new_and_its_gate_shut(agent: AgentProcess) -> None:
    await agent.serve()
    run_id = agent.copy().run_id
    pid = agent.engine_pid()
    began = time.monotonic()
    send_signal(pid, signal.SIGKILL)
    await agent.reported(lambda copy: copy.process is Process.DEAD or copy.run_id != run_id)
    assert time.monotonic() - began < 3.0
    await agent.reported(lambda copy: copy.process is Process.UP and copy.run_id not in ("", run_id))
    assert agent.copy().shut_epoch == 2 and not agent.copy().intact


async def test_a_killed_agent_leaves_engine_and_router_serving_and_the_next_one_goes_on(agent: AgentProcess) -> None:
    await agent.serve()
    await agent.command("SET", "k", "v")
    run_id, routers = agent.copy().run_id, agent.router_pids()
    agent.kill()
    assert await agent.command("GET", "k") == b"v"
    agent.report = None
    agent.start()
    await agent.reported(lambda copy: copy.gate_epoch == 2 and copy.required_epoch == 2)
    assert agent.copy().run_id == run_id and agent.router_pids() == routers
    assert agent.copy().intact and agent.copy().term == 2
    assert await agent.command("GET", "k") == b"v"


async def test_the_next_agent_acts_on_no_map_below_what_the_pod_has_seen_and_tells_the_highest_entry(
    valkey: AgentProcess,
) -> None:
    await valkey.serve()
    await valkey.write(valkey.stable(9))
    await valkey.reported(lambda copy: copy.gate_epoch == 9)
    valkey.kill()
    await valkey.write(valkey.stable(3))
    valkey.report = None
    valkey.start()
    await until(lambda: valkey.report is not None and valkey.report.entries, 10)
    assert valkey.report is not None and valkey.report.entries[0].epoch == 9
    assert valkey.copy().epoch == 9


async def test_a_deleted_map_ends_authority_and_its_entries_are_reported(valkey: AgentProcess) -> None:
    await valkey.serve()
    valkey.store.delete()
    await until(lambda: valkey.report is not None and 0 in valkey.report.entries)
    assert valkey.report is not None and valkey.report.version == ""
    await valkey.reported(lambda copy: copy.gate_epoch == 0, seconds=5)
    assert (await valkey.get("/readyz"))[0] == 503
    assert valkey.copy().process is Process.UP, "nothing is done to a copy while nothing is known"


async def test_without_quorum_reads_the_gate_is_shut_by_its_deadline_and_opens_again_with_them(
    valkey: AgentProcess,
) -> None:
    await valkey.serve()
    await valkey.command("SET", "k", "v")
    valkey.relay.cut()
    began = time.monotonic()
    await valkey.reported(lambda copy: copy.gate_epoch == 0, seconds=6)
    assert 1.5 < time.monotonic() - began < 8.0
    status, reason = await valkey.get("/readyz")
    assert status == 503 and "authority lapsed" in reason
    parked = asyncio.create_task(valkey.command("GET", "k"))
    await asyncio.sleep(0.1)
    assert not parked.done()
    valkey.relay.heal()
    assert await parked == b"v"


async def test_a_router_that_dies_comes_back_and_serves(valkey: AgentProcess) -> None:
    await valkey.serve()
    await valkey.command("SET", "k", "v")
    (router,) = valkey.router_pids()
    send_signal(router, signal.SIGKILL)
    await until(lambda: valkey.router_pids() not in ([], [router]))

    async def answers() -> bool:
        try:
            return await valkey.command("GET", "k") == b"v"
        except OSError:
            return False

    async with asyncio.timeout(10):
        while not await answers():  # noqa: ASYNC110 - the front port is bound when the new process has started
            await asyncio.sleep(0.02)


async def test_a_copy_that_the_map_no_longer_wants_is_removed(valkey: AgentProcess) -> None:
    await valkey.write(Entry(learners=(UID,)))
    await valkey.reported(lambda copy: copy.process is Process.UP)
    elsewhere = CopyId("pod-z", "r")
    await valkey.write(Entry(epoch=2, state=State.STABLE, primary=elsewhere, isr=(elsewhere,), term=2))
    await valkey.reported(lambda copy: copy.process is Process.ABSENT)
    await until(lambda: not (valkey.directory / "run" / "scan" / "p0").exists())


async def test_engine_settings_are_applied_live(valkey: AgentProcess) -> None:
    await valkey.write(Entry(learners=(UID,)), engine_config=(("maxmemory", "20000000"),))
    await valkey.reported(lambda copy: copy.process is Process.UP)
    await valkey.write(Entry(learners=(UID,)), engine_config=(("maxmemory", "30000000"),))
    conf = valkey.directory / "run" / "conf" / "p0.conf"
    assert "maxmemory" in conf.read_text() and "20000000" in conf.read_text()

    def applied() -> bool:
        client = ["redis-cli", "-s", str(valkey.directory / "run/sock/p0.sock"), "--user", "agent", "--no-auth-warning"]
        found = subprocess.run([*client, "-a", "a", "CONFIG", "GET", "maxmemory"], capture_output=True, check=True)
        return b"30000000" in found.stdout

    await until(applied)


async def test_the_ports_are_for_those_who_have_the_token(valkey: AgentProcess) -> None:
    assert (await valkey.get("/v1/gates", AGENT))[0] == 401
    assert (await valkey.get("/v1/gates", AGENT, Authorization="Bearer wrong"))[0] == 401
    assert (await valkey.get("/v1/stream", AGENT))[0] == 401
    await valkey.serve()
    status, text = await valkey.get("/v1/gates", AGENT, Authorization=f"Bearer {TOKEN}")
    assert status == 200 and '"uid": "pod-a"' in text and '"0": [2, ' in text


async def test_a_probe_tells_open_gates_refused_ports_and_another_pod_at_the_address(
    valkey: AgentProcess, deaf_port: Callable[[str], int]
) -> None:
    await valkey.serve()
    assert valkey.socket is not None
    deaf = deaf_port(valkey.host)
    here = {"host": valkey.host, "clusterPort": CLUSTER, "agentPort": AGENT}
    asked = [
        {"id": 1, "uid": UID, **here},
        {"id": 2, "uid": "pod-b", **here},
        {"id": 3, "uid": "pod-c", "host": valkey.host, "clusterPort": 1, "agentPort": 2},
        {"id": 4, "uid": "pod-d", "host": valkey.host, "clusterPort": deaf, "agentPort": deaf},
    ]
    began = time.monotonic()
    for probe in asked:
        await valkey.socket.send_json({"probe": probe})
    await until(lambda: len(valkey.probed) == 4)
    assert time.monotonic() - began < 3.0
    own, other, nobody, away = sorted(valkey.probed, key=lambda found: found["id"])
    assert own["clusterPort"] == own["agentPort"] == "answered"
    epoch, left_ms = own["gates"]["0"]
    assert epoch == 2 and 0 < left_ms <= 3000
    assert other["clusterPort"] == "answered" and other["gates"] is None
    assert nobody["clusterPort"] == nobody["agentPort"] == "refused" and nobody["gates"] is None
    assert away["clusterPort"] == away["agentPort"] == "timeout"


@pytest.fixture
async def leaving(tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """An agent that takes clients for half a second after SIGTERM."""
    async with running_agent("valkey", tmp_path, "--drain-accept", "0.5") as running:
        yield running


async def test_term_keeps_serving_until_the_map_names_another_then_ends_everything(leaving: AgentProcess) -> None:
    valkey = leaving
    await valkey.serve()
    await valkey.command("SET", "k", "v")
    assert valkey.process is not None
    valkey.process.send_signal(signal.SIGTERM)
    await until(lambda: valkey.report is not None and valkey.report.draining)
    assert await valkey.command("GET", "k") == b"v"
    assert (await valkey.get("/readyz", METRICS))[0] == 503
    routers = valkey.router_pids()
    await valkey.write(valkey.electing(3))
    await until(lambda: valkey.process is not None and valkey.process.poll() is not None, 10)
    assert valkey.process.returncode == 0
    for pid in routers:
        assert not is_alive(pid)


async def test_term_without_a_way_to_the_map_ends_soon_after_authority(valkey: AgentProcess) -> None:
    await valkey.serve()
    assert valkey.process is not None
    valkey.relay.cut()
    valkey.process.send_signal(signal.SIGTERM)
    await until(lambda: valkey.process is not None and valkey.process.poll() is not None, 10)
    assert valkey.process.returncode == 0


async def test_one_agent_and_its_router_are_small(valkey: AgentProcess) -> None:
    await valkey.serve()
    assert valkey.process is not None

    def pss_mb(pid: int) -> float:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    agent_mb, router_mb = pss_mb(valkey.process.pid), pss_mb(valkey.router_pids()[0])
    assert agent_mb <= 45 and agent_mb + router_mb <= 80, (agent_mb, router_mb)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--name"], "--name"),
        (["--client-port", "0"], "--client-port"),
        (["--engine", "memcached"], "--engine"),
        (["--secrets-dir", "/nonexistent"], "--secrets-dir"),
        (["--run-dir", "/" + "x" * 120], "--run-dir"),
        (["--router-workers", "0"], "--router-workers"),
    ],
)
def test_bad_flags_exit_64_and_name_the_flag(tmp_path: Path, flags: list[str], named: str) -> None:
    for name in ("agent-password", "gate-password", "repl-password", "peer-token"):
        (tmp_path / name).write_text("x")
    good = ["--name", "n", "--namespace", "ns", "--pod-name", "p", "--pod-uid", "u", "--host", "127.0.0.1"]
    good += ["--api-server", "http://127.0.0.1:1", "--engine-binary", "/bin/true", "--secrets-dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "cachecluster_sidecar.agent.main", *good, *flags]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 64 and named in ended.stderr.splitlines()[-1], ended.stderr
