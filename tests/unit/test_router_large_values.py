"""Large values pass with real engines: in bounded memory, whole, and without slowing others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_support import ENGINES, Cluster, Pod, running_cluster

pytestmark = pytest.mark.t1

VALUE_BYTES = 100_000_000
PIECE = bytes(range(256)) * 4096
MOST_MIB = 32


def _memory_mib(pod: Pod, field: str) -> float:
    status = Path(f"/proc/{pod.workers[0].pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def _forget_peak(pod: Pod) -> float:
    """Memory now; VmHWM is the most from here on."""
    Path(f"/proc/{pod.workers[0].pid}/clear_refs").write_text("5")
    return _memory_mib(pod, "VmRSS")


async def _store(cluster: Cluster, key: str) -> None:
    async with cluster.pods[0].copies[0].client() as engine:
        await engine.set(key, (PIECE * (VALUE_BYTES // len(PIECE) + 1))[:VALUE_BYTES])


async def _read(pod: Pod, key: str, pause_s: float = 0.0) -> None:
    reader, writer = await asyncio.open_connection(*pod.front, limit=1 << 20)
    writer.write(request("GET", key))
    assert await reader.readline() == b"$%d\r\n" % VALUE_BYTES
    await asyncio.sleep(pause_s)
    left = VALUE_BYTES
    while left:
        piece = await reader.readexactly(min(left, len(PIECE)))
        assert piece == PIECE[: len(piece)]
        left -= len(piece)
    assert await reader.readexactly(2) == b"\r\n"
    writer.close()


@contextlib.asynccontextmanager
async def _others_wait(pod: Pod, key: str) -> AsyncIterator[list[float]]:
    """How long another client waits for each of its small replies meanwhile, in seconds."""
    waits: list[float] = []
    reader, writer = await asyncio.open_connection(*pod.front)

    async def ask() -> None:
        while True:
            began = time.perf_counter()
            writer.write(request("GET", key))
            await reader.readline()
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(ask())
    yield waits
    task.cancel()
    writer.close()


@contextlib.asynccontextmanager
async def _in_bounded_memory(pods: list[Pod]) -> AsyncIterator[None]:
    base = [_forget_peak(pod) for pod in pods]
    yield
    grown = [round(_memory_mib(pod, "VmHWM") - before) for pod, before in zip(pods, base, strict=True)]
    assert max(grown) < MOST_MIB, f"MiB that the routers took: {grown}"


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
async def test_eight_clients_read_large_values_in_bounded_memory(tmp_path: Path, engine: str, hops: int) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=hops, partitions=1) as cluster:
        pod, (key, small) = cluster.pods[-1], cluster.keys(0, 2)
        await _store(cluster, key)
        async with _in_bounded_memory(cluster.pods), _others_wait(pod, small) as waits:
            await asyncio.gather(*[_read(pod, key) for _ in range(8)])
        assert len(waits) > 20, "others are served meanwhile"


@pytest.mark.parametrize("hops", [1, 2])
async def test_slow_readers_cost_the_routers_nothing(tmp_path: Path, hops: int) -> None:
    async with running_cluster(tmp_path, pods=hops, partitions=1) as cluster:
        pod, (key, small) = cluster.pods[-1], cluster.keys(0, 2)
        await _store(cluster, key)
        async with (
            _in_bounded_memory(cluster.pods),
            _others_wait(pod, small) as waits,
            asyncio.TaskGroup() as readers,
        ):
            for _ in range(4):
                readers.create_task(_read(pod, key, pause_s=1.0))
        assert len(waits) > 100


async def _write(pod: Pod, key: str, value: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*pod.front)
    writer.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key.encode(), VALUE_BYTES))
    for at in range(0, VALUE_BYTES, len(PIECE)):
        writer.write(value[at : at + len(PIECE)])
        await writer.drain()
    writer.write(b"\r\n")
    reply = await reader.readline()
    writer.close()
    return reply


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
async def test_eight_clients_write_large_values_in_bounded_memory(tmp_path: Path, engine: str, hops: int) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=hops, partitions=1) as cluster:
        pod, (small, *keys) = cluster.pods[-1], cluster.keys(0, 9)
        value = (PIECE * (VALUE_BYTES // len(PIECE) + 1))[:VALUE_BYTES]
        async with _in_bounded_memory(cluster.pods), _others_wait(pod, small) as waits:
            replies = await asyncio.gather(*[_write(pod, key, value) for key in keys])
        assert set(replies) == {b"+OK\r\n"}
        assert len(waits) > 20, "others are served meanwhile"
        async with cluster.pods[0].copies[0].client() as engine_client:
            for key in keys:
                assert await engine_client.get(key) == value


@pytest.mark.parametrize("hops", [1, 2])
async def test_a_client_that_goes_in_the_midst_of_a_large_write_changes_nothing(tmp_path: Path, hops: int) -> None:
    async with running_cluster(tmp_path, pods=hops, partitions=1) as cluster, cluster.pods[-1].client() as client:
        (key,) = cluster.keys(0)
        await client.set(key, "before")
        _, writer = await asyncio.open_connection(*cluster.pods[-1].front)
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key.encode(), VALUE_BYTES)
        writer.write(head + PIECE * 10)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await client.get(key) == b"before"
        await client.set(key, "after")
        assert await client.get(key) == b"after"
