"""Subscriptions: what is published anywhere is heard everywhere, once and in order, also while partitions move."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.router_conversation import Conversation, conversation, conversations
from tests.unit.router_support import ENGINES, EngineServer, running_cluster, until
from tests.unit.test_router_moves_and_parking import move, until_parked

pytestmark = pytest.mark.t1


def message(proto: int, channel: str, text: str) -> bytes:
    head = b">3" if proto == 3 else b"*3"
    return head + b"\r\n$7\r\nmessage\r\n" + bulk(channel) + bulk(text)


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text.encode()), text.encode())


async def listening(clients: list[Conversation], *channels: str) -> list[tuple[int, Conversation]]:
    """Every second one speaks RESP3."""
    for number, client in enumerate(clients):
        client.send(("HELLO", str(2 + number % 2)), ("SUBSCRIBE", *channels))
        await client.frames(1 + len(channels))
    return [(2 + number % 2, client) for number, client in enumerate(clients)]


async def ask_engine(engine: EngineServer, *command: str) -> bytes:
    async with conversation(engine.socket) as talk:
        return await talk.ask(*command)


async def until_engine_says(engine: EngineServer, reply: bytes, *command: str) -> None:
    while True:
        if await ask_engine(engine, *command) == reply:
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_is_published_anywhere_is_heard_on_every_port_of_every_pod(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=3) as cluster, asyncio.timeout(30):
        ports = [where for pod in cluster.pods for where in (pod.front, pod.front, pod.cluster_port, pod.cluster_port)]
        async with conversations(ports) as clients, conversations(ports) as talkers:
            heard = await listening(clients, "news", "other")
            for number, talker in enumerate(talkers):
                await talker.ask("PUBLISH", "news", f"from {number}")
                for proto, client in heard:
                    assert await client.frame() == message(proto, "news", f"from {number}")
            script = "return redis.call('publish', 'other', ARGV[1])"
            for partition in range(cluster.partitions):
                key = cluster.keys(partition)[0]
                await talkers[0].ask("EVAL", script, "1", key, f"script {partition}")
                talkers[0].send(("MULTI",), ("SET", key, "1"), ("PUBLISH", "news", f"exec {partition}"), ("EXEC",))
                assert (await talkers[0].frames(4))[3].startswith(b"*2\r\n+OK\r\n:")
                for proto, client in heard:
                    assert await client.frame() == message(proto, "other", f"script {partition}")
                    assert await client.frame() == message(proto, "news", f"exec {partition}")


async def test_patterns_shard_channels_and_events_of_engines_are_heard(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2) as cluster, asyncio.timeout(30):
        for pod in cluster.pods:
            for copy in pod.copies.values():
                await ask_engine(copy, "CONFIG", "SET", "notify-keyspace-events", "KEA")
        ports = [pod.front for pod in cluster.pods]
        async with conversations(ports) as clients:
            for client in clients:
                await client.ask("HELLO", "3")
                client.send(("PSUBSCRIBE", "n*"), ("SSUBSCRIBE", "shard"), ("PSUBSCRIBE", "__keyevent@0__:incrby"))
                await client.frames(3)
            async with conversation(cluster.pods[0].front) as talker:
                await talker.ask("PUBLISH", "news", "1")
                assert (await talker.ask("SPUBLISH", "shard", "2")).startswith(b":")
                keys = [cluster.keys(partition)[0] for partition in range(cluster.partitions)]
                for client in clients:
                    assert await client.frame() == b">4\r\n$8\r\npmessage\r\n" + bulk("n*") + bulk("news") + bulk("1")
                    assert await client.frame() == b">3\r\n$8\r\nsmessage\r\n" + bulk("shard") + bulk("2")
                for key in keys:
                    await talker.ask("INCR", key)
                    for client in clients:
                        assert (await client.frame()).endswith(bulk(key))
                assert await talker.ask("PUBSUB", "CHANNELS") == b"*0\r\n"
                assert await talker.ask("PUBSUB", "SHARDCHANNELS") == b"*1\r\n" + bulk("shard")


BUSY = b"-BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n"
DIALOG: tuple[tuple[tuple[str, ...], int], ...] = (
    (("UNSUBSCRIBE",), 1),
    (("SUBSCRIBE", "a", "b", "a"), 3),
    (("PSUBSCRIBE", "p*"), 1),
    (("SSUBSCRIBE", "s"), 1),
    (("PING",), 1),
    (("PING", "hello"), 1),
    (("GET", "k"), 1),
    (("UNSUBSCRIBE", "a", "none"), 2),
    (("SUBSCRIBE",), 1),
    (("PUNSUBSCRIBE",), 1),
    (("UNSUBSCRIBE",), 1),
    (("GET", "k"), 1),
    (("SUNSUBSCRIBE",), 1),
    (("GET", "k"), 1),
    (("PING",), 1),
    (("SUBSCRIBE", "c"), 1),
    (("RESET",), 1),
    (("GET", "k"), 1),
    (("MULTI",), 1),
    (("PUBLISH", "none", "x"), 1),
    (("EXEC",), 1),
    (("SUBSCRIBE", "c"), 1),
    (("HELLO", "5"), 1),
    (("QUIT",), 1),
)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("proto", [2, 3])
async def test_a_client_is_told_what_an_engine_would_tell_it(tmp_path: Path, engine: str, proto: int) -> None:
    async with running_cluster(tmp_path, engine=engine) as cluster, asyncio.timeout(30):
        direct = cluster.pods[0].copies[0].socket
        async with conversation(cluster.pods[0].front) as ours, conversation(direct) as theirs:
            for client in (ours, theirs):
                await client.ask("HELLO", str(proto), *(("AUTH", "gate", "gate-secret") if client is theirs else ()))
            for command, replies in DIALOG:
                for client in (ours, theirs):
                    client.send(command)
                assert await ours.frames(replies) == await theirs.frames(replies), command


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_message_is_lost_or_doubled_while_partitions_move(tmp_path: Path, workers: int) -> None:
    async with running_cluster(tmp_path, pods=3, workers=workers) as cluster, asyncio.timeout(60):
        ports = [pod.front for pod in cluster.pods for _ in range(workers)]
        channels = [cluster.keys(partition)[0] for partition in range(cluster.partitions)]
        done = asyncio.Event()

        async def talk(channel: str) -> int:
            number = 0
            async with conversation(cluster.pods[0].front) as talker:
                while not done.is_set():
                    talker.send(*[("PUBLISH", channel, str(number + n)) for n in range(10)])
                    number += 10
                    assert all(reply.startswith(b":") for reply in await talker.frames(10))
            return number

        async with conversations(ports) as clients:
            for client in clients:
                client.send(("HELLO", "3"), ("SUBSCRIBE", *channels))
                await client.frames(1 + len(channels))
            talks = [asyncio.create_task(talk(channel)) for channel in channels]
            for turn, pod in enumerate((2, 0, 1, 2)):
                await asyncio.sleep(0.1)
                await move(cluster, 1, pod, epoch=turn + 2)
            done.set()
            counts = await asyncio.gather(*talks)
            for client in clients:
                heard: dict[str, list[int]] = {channel: [] for channel in channels}
                for frame in await client.frames(sum(counts)):
                    _, _, _, _, channel, _, number, _ = frame.split(b"\r\n")
                    heard[channel.decode()].append(int(number))
                assert [heard[channel] for channel in channels] == [list(range(count)) for count in counts]
                client.send(("PING",))
                assert await client.frame() == b"+PONG\r\n", "nothing is told twice"


async def test_engines_are_listened_to_no_more_when_nobody_listens(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, asyncio.timeout(30):
        engines = [copy for pod in cluster.pods for copy in pod.copies.values()]
        async with conversation(cluster.pods[0].front) as client:
            await client.ask("SUBSCRIBE", "a")
            await client.ask("PSUBSCRIBE", "a*")
            for engine in engines:
                assert await ask_engine(engine, "PUBSUB", "CHANNELS") == b"*1\r\n$1\r\na\r\n"
                assert await ask_engine(engine, "PUBSUB", "NUMPAT") == b":1\r\n"
            await client.ask("UNSUBSCRIBE", "a")
            for engine in engines:
                await until_engine_says(engine, b"*0\r\n", "PUBSUB", "CHANNELS")
        for engine in engines:
            await until_engine_says(engine, b":0\r\n", "PUBSUB", "NUMPAT")


async def test_subscriptions_outlive_engines_and_routers_of_other_pods(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2) as cluster, asyncio.timeout(30):
        other = cluster.pods[1]
        channel = cluster.keys(1)[0]

        async def comes(text: str) -> None:
            async with conversation(other.front) as talker:
                while True:
                    await talker.ask("PUBLISH", channel, text)
                    await asyncio.sleep(0.02)

        async with conversation(cluster.pods[0].front) as client:
            await client.ask("SUBSCRIBE", channel)
            other.workers[0].kill()
            other.workers[0].wait()
            other.start_router()
            await other.listening()
            talk = asyncio.create_task(comes("router"))
            assert await client.frame() == message(2, channel, "router")
            talk.cancel()
            await asyncio.gather(talk, return_exceptions=True)
            engine = other.copies[1]
            engine.kill()
            await engine.start()
            talk = asyncio.create_task(comes("engine"))
            await until_engine_says(engine, b"*1\r\n" + bulk(channel), "PUBSUB", "CHANNELS")
            heard = message(2, channel, "router")
            while heard == message(2, channel, "router"):
                heard = await client.frame()
            assert heard == message(2, channel, "engine")
            talk.cancel()
            await asyncio.gather(talk, return_exceptions=True)


async def test_a_listener_that_does_not_read_is_disconnected_and_others_hear_on(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2) as cluster, asyncio.timeout(60):
        big = "x" * 1_000_000
        async with conversations([pod.front for pod in cluster.pods]) as clients:
            idle, reader = clients
            await idle.ask("SUBSCRIBE", "a")
            await reader.ask("SUBSCRIBE", "a")
            async with conversation(cluster.pods[0].front) as talker:
                for _ in range(60):
                    assert (await talker.ask("PUBLISH", "a", big)).startswith(b":")
                    assert await reader.frame() == message(2, "a", big)
            await until(lambda: "does not read its replies" in cluster.pods[0].log())


async def test_a_subscription_behind_a_slow_command_is_confirmed_before_its_messages(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, asyncio.timeout(30):
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        async with conversations([pod.front] * 3) as (first, second, talker):
            await first.ask("SUBSCRIBE", "a")
            await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
            second.send(("GET", key), ("SUBSCRIBE", "a"))
            await until_parked(cluster, 1)
            other = cluster.keys(1)[0]
            await talker.ask("EVAL", "return redis.call('publish', 'a', 'early')", "1", other)
            assert await first.frame() == message(2, "a", "early")
            pod.agent.set_gate(0, epoch=2)
            assert await second.frame() == b"$-1\r\n"
            assert await second.frame() == b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
            await talker.ask("PUBLISH", "a", "late")
            assert await second.frame() == message(2, "a", "late")


async def test_a_subscription_right_after_the_last_one_ended_is_in_effect_when_it_is_confirmed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, asyncio.timeout(60):
        ports = [cluster.pods[0].front, cluster.pods[1].front]
        async with conversations(ports) as (client, talker):
            for number in range(12):
                await client.ask("SUBSCRIBE", "a")
                await talker.ask("PUBLISH", "a", str(number))
                assert await client.frame() == message(2, "a", str(number))
                await client.ask("UNSUBSCRIBE", "a")
                await asyncio.sleep(0.025 * number)  # a tick of the router, or more, or less


async def test_a_listener_that_is_sent_away_is_told_nothing_more_and_others_hear_on(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, asyncio.timeout(30):
        pod = cluster.pods[0]
        async with conversations([pod.front, cluster.pods[1].front, cluster.pods[1].front]) as (gone, stays, talker):
            await gone.ask("SUBSCRIBE", "a")
            await stays.ask("SUBSCRIBE", "a")
            pod.agent.tell({"dismiss": True})
            assert await gone.frame() == b"", "nothing more will come"
            for number in range(3):
                await talker.ask("PUBLISH", "a", str(number))
                assert await stays.frame() == message(2, "a", str(number))


async def test_an_engine_that_refuses_to_be_listened_to_is_asked_again(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, asyncio.timeout(60):
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        engine = pod.copies[0]
        await ask_engine(engine, "CONFIG", "SET", "busy-reply-threshold", "50")
        async with conversations([pod.front] * 3) as (client, busy, talker):
            await client.ask("SUBSCRIBE", "a")
            script = "local t = redis.call('TIME') repeat local n = redis.call('TIME') until n[1] - t[1] >= 2 return 1"
            busy.send(("EVAL", script, "1", key))
            await until_engine_says(engine, BUSY, "PING")
            client.send(("SUBSCRIBE", "b"))
            assert await busy.frame() == b":1\r\n"
            assert b"subscribe" in await client.frame()
            await until_engine_says(engine, b"*2\r\n" + bulk("b") + b":1\r\n", "PUBSUB", "NUMSUB", "b")
            await talker.ask("EVAL", "return redis.call('publish', 'b', 'x')", "1", key)
            assert await client.frame() == message(2, "b", "x")


async def test_subscriptions_of_a_client_are_bounded(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        assert (await client.ask("SUBSCRIBE", *map(str, range(1025)))).startswith(b"-ERR subscribe to at most 1024 ")
        assert (await client.ask("PSUBSCRIBE", *map(str, range(129)))).startswith(b"-ERR subscribe to at most 1024 ")
        client.send(("HELLO", "3"), ("PSUBSCRIBE", *map(str, range(128))))
        await client.frames(129)
        assert (await client.ask("PSUBSCRIBE", "x")).startswith(b"-ERR subscribe to at most 1024 ")
        assert (await client.ask("PSUBSCRIBE", "0")).startswith(b">3"), "it has that one already"
        assert (await client.ask("SUBSCRIBE", "x")).startswith(b">3")
