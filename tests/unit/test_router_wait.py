"""WAIT: how many copies have what this client has written, through any pod and beside moves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.router_conversation import Conversation, conversation, conversations
from tests.unit.router_support import ENGINES, Cluster, EngineServer, running_cluster, until
from tests.unit.test_router_moves_and_parking import move
from tests.unit.test_router_private_connections import waiting, ways
from tests.unit.test_router_sync import REPLICA, follow, stopped

pytestmark = pytest.mark.t1


@contextlib.asynccontextmanager
async def replicated(root: Path, engine: str = "valkey") -> AsyncIterator[tuple[Cluster, EngineServer]]:
    """Two pods and four partitions; partition 0 has a replica, the others have none."""
    async with running_cluster(root, engine=engine) as cluster:
        directory = root / "replica"
        directory.mkdir()
        replica = await follow(cluster, directory, "r", REPLICA)
        try:
            yield cluster, replica
        finally:
            with contextlib.suppress(ProcessLookupError):
                replica.signal(signal.SIGCONT)
            replica.kill()


async def timed(client: Conversation, *arguments: str) -> tuple[bytes, float]:
    began = time.monotonic()
    return await client.ask(*arguments), time.monotonic() - began


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_copies_of_what_this_client_has_written_are_counted(tmp_path: Path, engine: str) -> None:
    async with replicated(tmp_path, engine) as (cluster, replica), ways(cluster, 0) as clients:
        key = cluster.keys(0)[0]
        for number, client in enumerate(clients):
            client.send(("SET", key, str(number)), ("WAIT", "1", "0"), ("GET", key))
            assert await client.frames(3) == [b"+OK\r\n", b":1\r\n", b"$1\r\n%d\r\n" % number]
        with stopped(replica):
            for client in clients:
                assert await client.ask("SET", key, "unheard") == b"+OK\r\n"
                reply, seconds = await timed(client, "WAIT", "1", "300")
                assert reply == b":0\r\n" and 0.25 < seconds < 5
                client.send(("INCR", f"{{{key}}}n"), ("WAIT", "1", "0"))
                assert (await client.frame()).startswith(b":")
            await waiting(cluster.pods[0], 0, len(clients))
        assert [await client.frame() for client in clients] == [b":1\r\n"] * 3


async def test_what_was_counted_is_asked_again_when_there_is_more_or_too_few_copies_had_it(tmp_path: Path) -> None:
    async with replicated(tmp_path) as (cluster, replica), ways(cluster, 0) as clients:
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        for client in clients:
            client.send(("SET", a, "1"), ("WAIT", "1", "0"))
            assert await client.frames(2) == [b"+OK\r\n", b":1\r\n"]
        with stopped(replica):
            for client in clients:
                assert await client.ask("WAIT", "1", "0") == b":1\r\n"
                assert await client.ask("WAIT", "2", "50") == b":1\r\n"
            for client in clients[:2]:
                client.send(("SET", b, "1"), ("WAIT", "1", "50"), ("SET", a, "1"), ("WAIT", "0", "0"))
                assert await client.frames(4) == [b"+OK\r\n", b":0\r\n"] * 2


async def test_of_several_partitions_the_least_count_is_told_however_they_were_written(tmp_path: Path) -> None:
    async with (
        replicated(tmp_path) as (cluster, _),
        conversations([pod.front for pod in cluster.pods]) as clients,
    ):
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        writes: list[tuple[tuple[str, ...], ...]] = [
            (("MSET", a, "1", b, "1"),),
            (("SET", b, "1"),),
            (("MULTI",), ("SET", b, "2"), ("EXEC",)),
            (("EVAL", "return redis.call('SET', KEYS[1], '3')", "1", b),),
        ]
        for write in writes:
            for pod in cluster.pods:
                async with conversation(pod.front) as client:
                    assert await client.ask("SET", a, "0") == b"+OK\r\n"
                    assert await client.ask("WAIT", "1", "0") == b":1\r\n"
                    for command in write:
                        assert not (await client.ask(*command)).startswith(b"-")
                    assert await client.ask("WAIT", "1", "50") == b":0\r\n"
        for client in clients:
            assert await client.ask("GET", b) == b"$1\r\n3\r\n"
            assert (await client.ask("WAIT", "0", "0")) in (b":0\r\n", b":1\r\n")


async def test_the_engines_words_for_what_is_wrong_and_at_once_in_a_transaction(tmp_path: Path) -> None:
    async with replicated(tmp_path) as (cluster, replica), ways(cluster, 0) as clients:
        async with cluster.pods[0].copies[0].client() as engine:
            for client in clients:
                await client.ask("SET", cluster.keys(0)[0], "1")
                for wrong in (("x", "0"), ("1", "x"), ("1", "-1")):
                    with pytest.raises(Exception) as caught:
                        await engine.execute_command("WAIT", *wrong)
                    assert (await client.ask("WAIT", *wrong)).endswith(str(caught.value).encode() + b"\r\n")
        with stopped(replica):
            for client in clients:
                client.send(("MULTI",), ("SET", cluster.keys(0)[0], "1"), ("WAIT", "1", "0"), ("EXEC",))
                assert (await client.frames(4))[-1] == b"*2\r\n+OK\r\n:0\r\n"


@pytest.mark.parametrize("how", ["TIMEOUT", "ERROR"])
async def test_client_unblock_ends_it_in_every_partition(tmp_path: Path, how: str) -> None:
    async with replicated(tmp_path) as (cluster, replica), conversation(cluster.pods[0].front) as other:
        for pod in cluster.pods:
            async with conversation(pod.front) as client:
                number = (await client.ask("CLIENT", "ID"))[1:-2].decode()
                await client.ask("MSET", *[word for index in range(4) for word in (cluster.keys(index)[0], "1")])
                with stopped(replica):
                    client.send(("WAIT", "1", "0"), ("ECHO", "behind"))
                    for index in range(4):
                        await waiting(cluster.pod_of(index), index)
                    async with conversation(pod.front) as same:
                        assert await same.ask("CLIENT", "UNBLOCK", number, how) == b":1\r\n"
                    reply = await client.frame()
                    assert reply == b":0\r\n" if how == "TIMEOUT" else reply.startswith(b"-UNBLOCKED ")
                    assert await client.frame() == b"$6\r\nbehind\r\n"
        assert await other.ask("PING") == b"+PONG\r\n"


async def test_through_moves_it_asks_the_primary_of_the_moment_for_the_time_that_is_left(tmp_path: Path) -> None:
    async with replicated(tmp_path) as (cluster, replica), ways(cluster, 0) as clients, asyncio.timeout(30):
        for client in clients:
            await client.ask("SET", cluster.keys(0)[0], "1")
        with stopped(replica):
            began = time.monotonic()
            for client in clients:
                await client.ask("INCR", f"{{{cluster.keys(0)[0]}}}n")
                client.send(("WAIT", "1", "2000"))
            await waiting(cluster.pods[0], 0, 3)
            await move(cluster, 0, 1)
            await waiting(cluster.pods[1], 0, 3)
            assert [await client.frame() for client in clients] == [b":0\r\n"] * 3
            assert 1.9 < time.monotonic() - began < 8


async def test_at_a_shut_gate_it_counts_nobody_when_its_time_is_over(tmp_path: Path) -> None:
    async with replicated(tmp_path) as (cluster, _), conversation(cluster.pods[1].front) as client:
        pod = cluster.pods[0]
        await client.ask("SET", cluster.keys(0)[0], "1")
        await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
        reply, seconds = await timed(client, "WAIT", "1", "200")
        assert reply == b":0\r\n" and seconds < 5
        client.send(("WAIT", "1", "0"))
        pod.agent.set_gate(0, epoch=2)
        assert await client.frame() == b":1\r\n"


async def test_a_client_that_goes_leaves_nobody_waiting(tmp_path: Path) -> None:
    async with replicated(tmp_path) as (cluster, replica):
        with stopped(replica):
            for pod in cluster.pods:
                async with conversation(pod.front) as client:
                    await client.ask("SET", cluster.keys(0)[0], "1")
                    client.send(("WAIT", "1", "0"))
                    await waiting(cluster.pods[0], 0)
                await waiting(cluster.pods[0], 0, 0)


async def test_monitor_shows_what_clients_of_the_pod_send_but_no_passwords(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversations([cluster.pods[0].front] * 2) as (watcher, client):
        assert await watcher.ask("MONITOR") == b"+OK\r\n"
        key = cluster.keys(1)[0]
        client.send(("AUTH", "default", "secret"), ("set", key, b'\x00"\r\n\xff'), b"GET " + key.encode() + b"\r\n")
        client.send(("MULTI",), ("GET", key), ("CONFIG", "SET", "a", "b"), ("EXEC",), ("nosuch",), ("GET", "a", "b"))
        client.send(("MIGRATE", "h", "1", "k", "0", "9", "AUTH", "secret"), ("ECHO", "x" * 1_000_000))
        client.send(("DEL", *[f"{{{key}}}{n}" for n in range(40)]), ("PING",))
        await client.frames(12)
        port = client.writer.get_extra_info("sockname")[1]
        shown = [(await watcher.frame()).decode().rstrip("\r\n") for _ in range(8)]
        assert all(line.startswith("+") and f":{port}] " in line for line in shown)
        many = "".join(f'"{{{key}}}{n}" ' for n in range(31))
        assert [line.partition("] ")[2] for line in shown] == [
            f'"set" "{key}" "\\x00\\"\\r\\n\\xff"', f'"GET" "{key}"', '"MULTI"', f'"GET" "{key}"', '"EXEC"',
            f'"ECHO" "{"x" * 128}... (999872 more bytes)"', f'"DEL" {many}"... (9 more arguments)"', '"PING"',
        ]  # fmt: skip
        assert await watcher.ask("RESET") == b"+RESET\r\n"
        await client.ask("PING")
        assert await watcher.ask("ECHO", "quiet") == b"$5\r\nquiet\r\n"


async def test_what_is_shown_does_not_overtake_what_is_outstanding(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversations([cluster.pods[0].front] * 2) as (watcher, client):
        pod = cluster.pods[0]
        await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
        watcher.send(("GET", cluster.keys(0)[0]), ("MONITOR",))
        for number in range(20):
            await client.ask("ECHO", str(number))
        pod.agent.set_gate(0, epoch=2)
        assert await watcher.frames(2) == [b"$-1\r\n", b"+OK\r\n"]
        await client.ask("ECHO", "now")
        assert (await watcher.frame()).endswith(b'"ECHO" "now"\r\n')


async def test_a_client_that_monitors_and_does_not_read_is_disconnected(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversations([cluster.pods[0].front] * 2) as (watcher, client):
        assert await watcher.ask("MONITOR") == b"+OK\r\n"
        watcher.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(150):
            client.send(*[("DEL", *["{x}" + "y" * 120] * 40)] * 100)
            await client.frames(100)
        await until(lambda: "does not read" in cluster.pods[0].log())
        assert await client.ask("PING") == b"+PONG\r\n"
