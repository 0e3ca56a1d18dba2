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


@pytest.mark.parametrize("engine", ENGINES)
async def test_eight_clients_read_large_values_in_bounded_memory(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=1, partitions=1) as cluster:
        pod, (key, small) = cluster.pods[0], cluster.keys(0, 2)
        await _store(cluster, key)
        base = _forget_peak(pod)
        async with _others_wait(pod, small) as waits:
            await asyncio.gather(*[_read(pod, key) for _ in range(8)])
        assert _memory_mib(pod, "VmHWM") < base + MOST_MIB
        assert len(waits) > 20, "others are served meanwhile"


async def test_slow_readers_cost_the_router_nothing(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=1, partitions=1) as cluster:
        pod, (key, small) = cluster.pods[0], cluster.keys(0, 2)
        await _store(cluster, key)
        base = _forget_peak(pod)
        async with _others_wait(pod, small) as waits, asyncio.TaskGroup() as readers:
            for _ in range(4):
                readers.create_task(_read(pod, key, pause_s=1.0))
        assert _memory_mib(pod, "VmHWM") < base + MOST_MIB
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


@pytest.mark.parametrize("engine", ENGINES)
async def test_eight_clients_write_large_values_in_bounded_memory(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=1, partitions=1) as cluster:
        pod, (small, *keys) = cluster.pods[0], cluster.keys(0, 9)
        value = (PIECE * (VALUE_BYTES // len(PIECE) + 1))[:VALUE_BYTES]
        base = _forget_peak(pod)
        async with _others_wait(pod, small) as waits:
            replies = await asyncio.gather(*[_write(pod, key, value) for key in keys])
        assert set(replies) == {b"+OK\r\n"}
        assert _memory_mib(pod, "VmHWM") < base + MOST_MIB
        assert len(waits) > 20, "others are served meanwhile"
        async with pod.copies[0].client() as engine_client:
            for key in keys:
                assert await engine_client.get(key) == value


async def test_a_client_that_goes_in_the_midst_of_a_large_write_changes_nothing(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=1, partitions=1) as cluster, cluster.pods[0].client() as client:
        (key,) = cluster.keys(0)
        await client.set(key, "before")
        _, writer = await asyncio.open_connection(*cluster.pods[0].front)
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key.encode(), VALUE_BYTES)
        writer.write(head + PIECE * 10)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await client.get(key) == b"before"
        await client.set(key, "after")
        assert await client.get(key) == b"after"
