"""Engines and peers that die, hang or go silent: no blind retry, no client left hanging, order kept."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest
from tests.unit.router_conversation import conversation
from tests.unit.router_support import Cluster, running_cluster

pytestmark = pytest.mark.t1


async def in_flight(cluster: Cluster, pod: int, key: str) -> None:
    """Everything sent before on other connections of this pod has left its router."""
    async with conversation(cluster.pods[pod].front) as other:
        for _ in range(3):
            await other.ask("GET", key)


async def test_an_engine_killed_with_commands_in_flight(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        assert await client.ask("SET", key, "1") == b"+OK\r\n"
        pod.copies[0].signal(signal.SIGSTOP)
        async with conversation(pod.front) as reader:
            reader.send(("GET", key), ("TTL", key))
            client.send(("GET", key), ("INCR", key), ("GET", key))
            await in_flight(cluster, 0, cluster.keys(2)[0])
            pod.copies[0].kill()
            frames = client.frames(3)
            await pod.start_copy(0)
            first, second, third = await frames
            assert first.startswith(b"-INDETERMINATE"), "a read in front of a write of the same client is not retried"
            assert second.startswith(b"-INDETERMINATE partition 0: the connection to the engine of partition 0 ended")
            assert third == b"$-1\r\n", "a read with no write behind it is asked again"
            assert await reader.frames(2) == [b"$-1\r\n", b":-2\r\n"]
        metrics = await pod.metrics()
        assert metrics["errors"]["indeterminate"] == 2 and metrics["retried"] == 3


async def test_an_engine_of_another_pod_killed_with_commands_in_flight(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[1], cluster.keys(1)[0]
        assert await client.ask("SET", key, "1") == b"+OK\r\n"
        pod.copies[1].signal(signal.SIGSTOP)
        client.send(("INCR", key), ("GET", key))
        await in_flight(cluster, 0, cluster.keys(0)[0])
        pod.copies[1].kill()
        frames = client.frames(2)
        await pod.start_copy(1)
        first, second = await frames
        assert first.startswith(b"-INDETERMINATE") and second == b"$-1\r\n"


async def test_a_peer_router_killed_with_commands_in_flight(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[1], cluster.keys(1)[0]
        assert await client.ask("SET", key, "1") == b"+OK\r\n"
        pod.workers[0].send_signal(signal.SIGSTOP)
        client.send(("INCR", key), ("GET", key))
        await in_flight(cluster, 0, cluster.keys(0)[0])
        pod.workers[0].kill()
        pod.workers[0].wait()
        pod.start_router()
        first, second = await client.frames(2)
        assert first.startswith(b"-INDETERMINATE partition 1: the connection to demo-1 ended")
        assert second in (b"$1\r\n1\r\n", b"$1\r\n2\r\n")


async def test_a_silent_peer_does_not_hold_up_what_has_moved_away_from_it(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=3) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(1)[0]
        assert await client.ask("SET", key, "1") == b"+OK\r\n"
        cluster.pods[1].workers[0].send_signal(signal.SIGSTOP)
        client.send(("INCR", key), ("PING",))
        await in_flight(cluster, 0, cluster.keys(0)[0])
        await cluster.pods[2].start_copy(1)
        cluster.primaries[1] = cluster.pods[2].uid
        cluster.pods[2].agent.set_gate(1, epoch=2)
        cluster.publish()
        started = time.monotonic()
        client.send(("GET", key))
        first, pong, got = await client.frames(3)
        assert first.startswith(b"-INDETERMINATE") and b"it was silent" in first
        assert pong == b"+PONG\r\n" and got == b"$-1\r\n"
        assert 0.5 < time.monotonic() - started < 12


async def test_a_peer_that_hangs_is_given_up(tmp_path: Path) -> None:
    settings = {"parkTimeoutMs": 700, "silenceMs": 700}
    async with running_cluster(tmp_path, **settings) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(1)[0]
        assert await client.ask("SET", key, "1") == b"+OK\r\n"
        cluster.pods[1].workers[0].send_signal(signal.SIGSTOP)
        client.send(("INCR", key), ("GET", key))
        first, second = await client.frames(2)
        assert first.startswith(b"-INDETERMINATE") and second.startswith(b"-TRYAGAIN")


async def test_what_a_peer_that_was_given_up_has_not_received_yet_never_reaches_it(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, silenceMs=700) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(1)[0]
        other = f"{{{key}}}other"
        assert await client.ask("SET", key, "1") == b"+OK\r\n"
        cluster.pods[1].workers[0].send_signal(signal.SIGSTOP)
        client.send(("SET", key, "x" * 16_000_000))  # more than a socket takes whose reader does not read
        assert (await client.frame()).startswith(b"-INDETERMINATE")
        cluster.pods[1].workers[0].send_signal(signal.SIGCONT)
        assert await client.ask("SET", other, "2") == b"+OK\r\n"
        assert await client.ask("GET", key) == b"$1\r\n1\r\n"


async def test_a_hanging_engine_of_one_partition_does_not_slow_others(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        pod = cluster.pods[1]
        pod.copies[1].signal(signal.SIGSTOP)
        async with conversation(cluster.pods[1].front) as stuck, conversation(cluster.pods[1].front) as client:
            stuck.send(("GET", cluster.keys(1)[0]))
            for partition in (0, 2, 3):
                assert await client.ask("SET", cluster.keys(partition)[0], "x") == b"+OK\r\n"
            pod.copies[1].signal(signal.SIGCONT)
            assert await stuck.frame() == b"$-1\r\n"


async def test_writes_are_executed_at_most_once_through_any_death(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        key = cluster.keys(1)[0]
        counts = {"ok": 0, "unknown": 0}
        stop = asyncio.Event()

        async def load() -> None:
            async with conversation(cluster.pods[0].front) as client:
                while not stop.is_set():
                    client.send(*[("INCR", key) for _ in range(5)])
                    for reply in await client.frames(5):
                        assert reply.startswith((b":", b"-INDETERMINATE")), reply
                        counts["ok" if reply.startswith(b":") else "unknown"] += 1

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for _ in range(3):
            await asyncio.sleep(0.15)
            pod = cluster.pods[1]
            pod.workers[0].send_signal(signal.SIGSTOP)
            await in_flight(cluster, 0, cluster.keys(0)[0])
            pod.workers[0].kill()
            pod.workers[0].wait()
            pod.start_router()
            await pod.listening()
        await asyncio.sleep(0.15)
        stop.set()
        await asyncio.gather(*loads)
        async with conversation(cluster.pods[0].front) as client:
            value = int((await client.ask("GET", key)).split(b"\r\n")[1])
        assert counts["ok"] <= value <= counts["ok"] + counts["unknown"]
        assert counts["unknown"] > 0
