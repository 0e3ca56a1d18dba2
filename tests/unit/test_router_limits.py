"""Limits: clients, pipelines, slow readers, bad input, big values; stopping; what an idle router costs."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.unit.router_conversation import conversation, request
from tests.unit.router_support import running_cluster, until

pytestmark = pytest.mark.t1


async def test_clients_beyond_the_limit_are_told(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, maxClients=2) as cluster:
        host = cluster.pods[0].front
        for _ in range(1000):
            if not (await cluster.pods[0].metrics())["clients"]:
                break
        async with conversation(host) as one, conversation(host) as two:
            assert await one.ask("PING") == await two.ask("PING") == b"+PONG\r\n"
            async with conversation(host) as three:
                assert await three.frame() == b"-ERR max number of clients reached\r\n"
                assert await three.frame() == b""
            async with conversation(cluster.pods[0].cluster_port) as four:
                assert await four.ask("PING") == b"-ERR max number of clients reached\r\n"
            assert await one.ask("GET", cluster.keys(1)[0]) == b"$-1\r\n"
        async with conversation(cluster.pods[1].front) as other:
            assert await other.ask("GET", cluster.keys(0)[0]) == b"$-1\r\n", "peers are not shut out by clients"


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"*x\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n:4\r\n", b"-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n$536870913\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (b'set a "b\r\n', b"-ERR Protocol error: unbalanced quotes in request\r\n"),
        (b"x" * 70000, b"-ERR Protocol error: too big inline request\r\n"),
    ],
)
async def test_protocol_errors_are_answered_in_order_and_end_the_connection(
    tmp_path: Path, data: bytes, reply: bytes
) -> None:
    async with running_cluster(tmp_path, pods=1, partitions=1) as cluster:
        async with conversation(cluster.pods[0].front) as client:
            client.send(("SET", "a", "1"), ("GET", "a"), data, ("SET", "a", "2"))
            assert await client.frames(3) == [b"+OK\r\n", b"$1\r\n1\r\n", reply]
            assert await client.frame() == b""
        async with conversation(cluster.pods[0].front) as client:
            assert await client.ask("GET", "a") == b"$1\r\n1\r\n"
        assert (await cluster.pods[0].metrics())["errors"]["protocol"] == 1


async def test_big_values_pass_on_every_way(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        value = b"0123456789abcdef" * 1_000_000
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            client.send(("SET", key, value), ("GET", key), ("STRLEN", key))
            ok, got, length = await client.frames(3)
            assert ok == b"+OK\r\n" and length == b":16000000\r\n"
            assert got == b"$16000000\r\n" + value + b"\r\n"


async def test_a_request_of_many_arguments(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        words = [str(number) for number in range(50_000)]
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            assert await client.ask("RPUSH", key, *words) == b":50000\r\n"
            assert len((await client.ask("LRANGE", key, "0", "-1")).split(b"\r\n")) == 100_002


async def test_a_long_pipeline_is_read_piece_by_piece(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(1)[0]
        sender = asyncio.create_task(send_slowly(client.writer, request("INCR", key), 20_000))
        frames = await client.frames(20_000)
        await sender
        assert frames[-1] == b":20000\r\n"


async def send_slowly(writer: asyncio.StreamWriter, frame: bytes, count: int) -> None:
    for _ in range(count // 100):
        writer.write(frame * 100)
        await writer.drain()


async def test_a_client_that_does_not_read_is_not_read_either(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=1, partitions=1) as cluster:
        async with conversation(cluster.pods[0].front) as client:
            await client.ask("SET", "big", b"x" * 100_000)
            await client.ask("SET", "n", "0")
        with socket.create_connection(cluster.pods[0].front) as lazy:
            lazy.setblocking(False)
            sent = 0
            frame = request("GET", "big") * 10
            deadline = time.monotonic() + 20
            stuck_since = time.monotonic()
            while time.monotonic() < deadline and time.monotonic() - stuck_since < 1:
                try:
                    sent += lazy.send(frame)
                    stuck_since = time.monotonic()
                except BlockingIOError:
                    await asyncio.sleep(0.01)
            assert time.monotonic() < deadline, "the router kept on reading"
            async with conversation(cluster.pods[0].front) as client:
                assert await client.ask("INCR", "n") == b":1\r\n"
            pid = cluster.pods[0].workers[0].pid
            assert pss_mib(pid) < 300


async def test_a_time_out_for_idle_clients_is_set_while_they_are_connected(tmp_path: Path) -> None:
    """It ends neither one that waits in an engine, nor one that listens, nor the connections between pods."""
    async with running_cluster(tmp_path) as cluster, AsyncExitStack() as stack:
        pod, other = cluster.pods
        key = cluster.keys(1)[0]
        idle, waiting, listening = [await stack.enter_async_context(conversation(pod.front)) for _ in range(3)]
        assert await idle.ask("CONFIG", "GET", "timeout") == request("timeout", "0")
        waiting.send(("BLPOP", key, "0"))
        assert await listening.ask("SUBSCRIBE", "news") == b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"
        async with conversation(other.front) as client:
            assert await client.ask("EXISTS", key) == b":0\r\n"
        peers = (await pod.metrics())["peers"]
        cluster.change_settings(idleTimeoutMs=1000)
        assert await idle.frame() == b""
        async with conversation(other.front) as client:
            assert await client.ask("CONFIG", "GET", "timeout") == request("timeout", "1")
            client.send(("RPUSH", key, "x"), ("PUBLISH", "news", "y"))
            await client.frames(2)
        assert await waiting.frame() == request(key, "x")
        assert await listening.frame() == request("message", "news", "y")
        counters = await pod.metrics()
        assert counters["disconnected"]["idle"] == 1 and counters["peers"] == peers > 0


def pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


async def test_an_idle_router_is_small(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, partitions=16, pods=1) as cluster:
        assert pss_mib(cluster.pods[0].workers[0].pid) < 30


@pytest.mark.t0
def test_a_router_imports_nothing_large() -> None:
    modules = subprocess.run(
        [sys.executable, "-c", "import sys, cachecluster_sidecar.router.main; print(*sys.modules)"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"aiohttp", "pydantic", "redis"} & set(modules)


async def test_a_stopped_router_answers_what_it_took_and_ends_in_time(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        waits = cluster.keys(1)[0]
        await cluster.pods[1].agent.confirmed(1, cluster.pods[1].agent.set_gate(1, epoch=0))
        client.send(("SET", key, "1"), ("GET", key), ("GET", waits))
        assert await client.frames(2) == [b"+OK\r\n", b"$1\r\n1\r\n"]
        started = time.monotonic()
        pod.workers[0].send_signal(signal.SIGTERM)
        assert (await client.frame()).startswith(b"-TRYAGAIN")
        assert await client.frame() == b""
        await asyncio.to_thread(pod.workers[0].wait)
        assert pod.workers[0].returncode == 0
        assert time.monotonic() - started < 8


@pytest.mark.t0
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--nonsense"],
        ["--run-dir", "/x", "--secrets-dir", "/y", "--client-address", "nowhere", "--cluster-address", "a:1"],
    ],
)
def test_bad_flags_end_with_64_and_the_usage(flags: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cachecluster_sidecar.router.main", *flags],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 64
    assert "usage: cachecluster-router" in result.stderr


async def test_a_router_takes_as_many_files_as_it_may_have(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        async with running_cluster(tmp_path, pods=1, partitions=1) as cluster:
            limits = resource.prlimit(cluster.pods[0].workers[0].pid, resource.RLIMIT_NOFILE)
            assert limits == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_clients_cost_little_memory_and_give_it_back_when_many_have_left(tmp_path: Path) -> None:
    count = 2000
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    async with running_cluster(tmp_path, pods=1, partitions=1) as cluster:
        pod, (key,) = cluster.pods[0], cluster.keys(0)
        status = Path(f"/proc/{pod.workers[0].pid}/status")

        def kib() -> int:
            return int(status.read_text().partition("VmRSS:")[2].split()[0])

        before = kib()
        async with AsyncExitStack() as stack:
            for _ in range(count):
                client = await stack.enter_async_context(conversation(pod.front))
                assert await client.ask("GET", key) == b"$-1\r\n"
            taken = kib() - before
            assert taken < 20 * count
        await until(lambda: kib() < before + 0.75 * taken)
