"""CLIENT TRACKING: who has read a key, on any pod, is told when it changes, wherever and however that happens."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection
from tests.unit.router_conversation import Conversation, conversation, conversations
from tests.unit.router_support import ENGINES, Cluster, running_cluster
from tests.unit.test_router_moves_and_parking import move

pytestmark = pytest.mark.t1

ALL = b">2\r\n$10\r\ninvalidate\r\n_\r\n"


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text.encode()), text.encode())


def invalid(*keys: str) -> bytes:
    return b">2\r\n$10\r\ninvalidate\r\n*%d\r\n" % len(keys) + b"".join(map(bulk, keys))


async def tracking(client: Conversation, *options: str) -> None:
    await client.ask("HELLO", "3")
    assert await client.ask("CLIENT", "TRACKING", "ON", *options) == b"+OK\r\n"


async def silent(client: Conversation) -> None:
    """Nothing was pushed before the answer to this."""
    assert await client.ask("ECHO", "nothing") == bulk("nothing")


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_reader_is_told_once_of_a_change_made_through_any_pod(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=3) as cluster, asyncio.timeout(30):
        ports = [where for pod in cluster.pods for where in (pod.front, pod.cluster_port)]
        keys = [cluster.keys(partition)[0] for partition in range(cluster.partitions)]
        async with conversations(ports) as readers, conversations([pod.front for pod in cluster.pods]) as writers:
            for reader in readers:
                await tracking(reader)
            for number, key in enumerate(keys):
                told = [reader for reader in readers if not (await reader.ask("GET", key)).startswith(b"-MOVED")]
                assert len(told) >= 3
                writer = writers[number % len(writers)]
                await writer.ask("SET", key, "1")
                await writer.ask("SET", key, "2")
                for reader in told:
                    assert await reader.frame() == invalid(key)
            for reader in readers:
                await silent(reader)


async def test_expiry_scripts_transactions_and_flushes_invalidate_and_reads_of_all_kinds_count(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path, pods=2) as cluster,
        conversation(cluster.pods[0].front) as reader,
        conversation(cluster.pods[1].front) as writer,
        asyncio.timeout(30),
    ):
        await tracking(reader)
        one, two, script, queued, last = (cluster.keys(n % cluster.partitions, prefix=f"t{n}:")[0] for n in range(5))
        await writer.ask("SET", one, "1", "PX", "60")
        await reader.ask("MGET", one, two)
        assert await reader.frame() == invalid(one), "it expired"
        await writer.ask("SET", two, "1")
        assert await reader.frame() == invalid(two)
        await reader.ask("EVAL_RO", "return redis.call('get', KEYS[1])", "1", script)
        await writer.ask("EVAL", "return redis.call('set', KEYS[1], 'x')", "1", script)
        assert await reader.frame() == invalid(script)
        reader.send(("MULTI",), ("GET", queued), ("EXEC",))
        await reader.frames(3)
        writer.send(("MULTI",), ("SET", queued, "1"), ("EXEC",))
        await writer.frames(3)
        assert await reader.frame() == invalid(queued)
        await reader.ask("GET", last)
        await writer.ask("FLUSHALL")
        assert await reader.frame() == ALL
        await reader.ask("SET", last, "1")
        await writer.ask("SET", last, "2")
        await reader.ask("GET", last)
        await writer.ask("SET", last, "3")
        assert await reader.frame() == invalid(last), "and nothing for the one before, which it had not read"


async def test_modes(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2) as cluster, asyncio.timeout(30):
        front = [cluster.pods[0].front] * 5
        async with (
            conversations(front) as (every, some, optin, optout, off),
            conversation(cluster.pods[1].front) as writer,
        ):
            await tracking(every, "BCAST")
            await tracking(some, "BCAST", "PREFIX", "user:", "PREFIX", "item:", "NOLOOP")
            await tracking(optin, "OPTIN")
            await tracking(optout, "OPTOUT")
            await tracking(off)
            assert await off.ask("CLIENT", "TRACKING", "OFF") == b"+OK\r\n"
            for client in (optin, optout, off):
                await client.ask("GET", "user:1")
            assert await optin.ask("CLIENT", "CACHING", "YES") == b"+OK\r\n"
            await optin.ask("GET", "other")
            await optin.ask("GET", "user:1")
            assert await optout.ask("CLIENT", "CACHING", "NO") == b"+OK\r\n"
            await optout.ask("GET", "other")
            for key in ("user:1", "other"):
                await writer.ask("SET", key, "1")
            for client, keys in (
                (every, ["user:1", "other"]),
                (some, ["user:1"]),
                (optin, ["other"]),
                (optout, ["user:1"]),
            ):
                for key in keys:
                    assert await client.frame() == invalid(key)
            for client in (every, some, optin, optout, off):
                await silent(client)


async def test_the_word_that_a_key_has_changed_does_not_overtake_the_reply_that_told_it(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2) as cluster, asyncio.timeout(30):
        key, slow = cluster.keys(1)[0], cluster.keys(0)[0]
        async with conversation(cluster.pods[0].front) as reader, conversation(cluster.pods[1].front) as writer:
            await tracking(reader)
            copy = cluster.pods[0].copies[0]
            copy.signal(signal.SIGSTOP)
            try:
                reader.send(("GET", slow), ("GET", key))
                await until_read(cluster)
                await writer.ask("SET", key, "new")
                await asyncio.sleep(0.1)
            finally:
                copy.signal(signal.SIGCONT)
            frames = await reader.frames(3)
            assert frames[0] == b"_\r\n" and frames[2] == invalid(key), frames


async def until_read(cluster: Cluster) -> None:
    """The command has come to the engine of the other partition."""
    copy = cluster.pods[1].copies[1]
    async with conversation(copy.socket) as talk:
        while True:
            if b"cmdstat_get" in await talk.ask("INFO", "commandstats"):
                return
            await asyncio.sleep(0.005)


async def test_redirection_to_another_client_of_the_pod(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2) as cluster, asyncio.timeout(30):
        front = cluster.pods[0].front
        async with conversations([front, front, front]) as (reader, listener, other), conversation(front) as writer:
            number = (await listener.ask("CLIENT", "ID"))[1:-2].decode()
            listener.send(("SUBSCRIBE", "__redis__:invalidate"))
            await listener.frame()
            assert await reader.ask("CLIENT", "TRACKING", "ON", "REDIRECT", number) == b"+OK\r\n"
            assert await reader.ask("CLIENT", "GETREDIR") == b":" + number.encode() + b"\r\n"
            await reader.ask("GET", "key")
            await writer.ask("SET", "key", "1")
            head = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n"
            assert await listener.frame() == head + b"*1\r\n" + bulk("key")
            await writer.ask("FLUSHALL")
            assert await listener.frame() == head + b"$-1\r\n"
            await tracking(other, "REDIRECT", number)
            await other.ask("GET", "key")
            await listener.ask("QUIT")
            assert await listener.frame() == b""
            await writer.ask("SET", "key", "2")
            assert await other.frame() == b">2\r\n$21\r\ntracking-redir-broken\r\n:" + number.encode() + b"\r\n"
            wrong = await reader.ask("CLIENT", "TRACKING", "ON", "REDIRECT", "12345")
            assert wrong.startswith(b"-ERR The client ID you want redirect to does not exist")


async def next_but_all(client: Conversation) -> bytes:
    """The next frame that does not say that everything is invalid."""
    while (frame := await client.frame()) == ALL:
        pass
    return frame


async def ask_but_all(client: Conversation, *words: str) -> bytes:
    """The reply, whatever is said of everything meanwhile."""
    client.send(words)
    return await next_but_all(client)


async def test_everything_is_invalid_after_a_change_of_primary_and_what_is_read_then_is_tracked(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=3) as cluster, asyncio.timeout(30):
        key = cluster.keys(1)[0]
        async with conversation(cluster.pods[2].front) as reader, conversation(cluster.pods[0].front) as writer:
            await tracking(reader)
            await reader.ask("GET", key)
            await move(cluster, 1, to=0)
            assert await reader.frame() == ALL
            await writer.ask("SET", key, "1")
            assert await ask_but_all(reader, "GET", key) == bulk("1")
            await writer.ask("SET", key, "2")
            assert await next_but_all(reader) == invalid(key)


async def test_everything_is_invalid_when_a_router_was_lost_until_it_is_listened_to_again(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path, pods=2) as cluster,
        conversation(cluster.pods[0].front) as reader,
        asyncio.timeout(30),
    ):
        key = cluster.keys(1)[0]
        await tracking(reader)
        await reader.ask("GET", key)
        cluster.pods[1].workers[0].kill()
        cluster.pods[1].workers[0].wait()
        assert await reader.frame() == ALL
        cluster.pods[1].start_router()
        told = ALL
        while told == ALL:
            reader.send(("GET", key), ("INCR", key))
            (told, *_) = [frame for frame in await reader.frames(3) if frame.startswith(b">")]
        assert told == invalid(key)


async def test_everything_is_invalid_when_an_engine_was_lost(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path, pods=2) as cluster,
        conversation(cluster.pods[0].front) as reader,
        asyncio.timeout(30),
    ):
        await tracking(reader)
        cluster.pods[1].copies[1].kill()
        assert await reader.frame() == ALL


async def test_everything_is_invalid_after_a_gate_was_shut_and_opened_again(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path, pods=2) as cluster,
        conversation(cluster.pods[0].front) as reader,
        conversation(cluster.pods[1].copies[1].socket) as behind_the_gate,
        asyncio.timeout(30),
    ):
        key = cluster.keys(1)[0]
        await tracking(reader)
        await reader.ask("GET", key)
        owner = cluster.pods[1]
        await owner.agent.confirmed(1, owner.agent.set_gate(1, epoch=0))
        await behind_the_gate.ask("SET", key, "expired meanwhile")
        owner.agent.set_gate(1, epoch=2)
        assert await reader.frame() == ALL


async def test_a_client_that_is_dismissed_is_told_nothing_more_and_others_are(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path, pods=2) as cluster,
        conversation(cluster.pods[0].front) as leaving,
        asyncio.timeout(30),
    ):
        await tracking(leaving, "BCAST")
        async with conversation(cluster.pods[1].front) as other:
            await tracking(other, "BCAST")
            cluster.pods[0].agent.tell({"dismiss": 1})
            assert await leaving.frame() == b"", "its end, as it waits for nothing"
            for turn in range(3):
                assert await other.ask("INCR", cluster.keys(0)[0]) == b":%d\r\n" % (turn + 1)
                assert await other.frame() == invalid(cluster.keys(0)[0])


@pytest.mark.parametrize("engine", ENGINES)
async def test_options_are_judged_as_by_the_engine(tmp_path: Path, engine: str) -> None:
    dialog = (
        ("CLIENT", "TRACKINGINFO"),
        ("CLIENT", "GETREDIR"),
        ("CLIENT", "CACHING", "YES"),
        ("CLIENT", "TRACKING", "MAYBE"),
        ("CLIENT", "TRACKING", "ON", "NONSENSE"),
        ("CLIENT", "TRACKING", "ON", "PREFIX"),
        ("CLIENT", "TRACKING", "ON", "PREFIX", "a"),
        ("CLIENT", "TRACKING", "ON", "REDIRECT", "x"),
        ("CLIENT", "TRACKING", "ON", "OPTIN", "OPTOUT"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "OPTIN"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a", "PREFIX", "ab"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "a", "PREFIX", "b"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "bc"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "c", "NOLOOP"),
        ("CLIENT", "TRACKING", "ON", "BCAST"),
        ("CLIENT", "TRACKING", "ON", "BCAST"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "d"),
        ("CLIENT", "TRACKINGINFO"),
        ("CLIENT", "GETREDIR"),
        ("CLIENT", "CACHING", "YES"),
        ("CLIENT", "TRACKING", "ON"),
        ("CLIENT", "TRACKING", "OFF"),
        ("CLIENT", "TRACKING", "ON", "OPTIN"),
        ("CLIENT", "TRACKING", "ON", "OPTOUT"),
        ("CLIENT", "CACHING", "NO"),
        ("CLIENT", "CACHING", "MAYBE"),
        ("CLIENT", "CACHING", "YES"),
        ("CLIENT", "TRACKINGINFO"),
        ("CLIENT", "TRACKING", "ON"),
        ("CLIENT", "CACHING", "YES"),
        ("CLIENT", "TRACKING", "OFF"),
        ("CLIENT", "TRACKINGINFO"),
    )
    async with running_cluster(tmp_path, engine=engine) as cluster, asyncio.timeout(30):
        engine_server = cluster.pods[0].copies[0]
        for proto in ("2", "3"):
            async with conversation(cluster.pods[0].front) as ours, conversation(engine_server.socket) as theirs:
                for talk in (ours, theirs):
                    await talk.ask("HELLO", proto)
                for words in dialog:
                    assert sorted((await ours.ask(*words)).split()) == sorted((await theirs.ask(*words)).split()), words


@pytest.mark.parametrize("cluster_aware", [False, True], ids=["plain", "RedisCluster"])
async def test_the_cache_of_redis_py(tmp_path: Path, cluster_aware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_cluster(tmp_path, pods=3) as cluster, asyncio.timeout(60):
        await asyncio.to_thread(use_cache, cluster, cluster_aware, monkeypatch)


def use_cache(cluster: Cluster, cluster_aware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = cluster.pods[0].cluster_port if cluster_aware else cluster.pods[0].front
    kind = redis.RedisCluster if cluster_aware else redis.Redis
    # redis-py asks the server whether it is a Redis of 7.4 or later; Redis 7.0 and Valkey can do it as well.
    monkeypatch.setattr(CacheProxyConnection, "DEFAULT_SERVER_NAME", cluster.engine)
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "7.0.0")
    cached = kind(host=host, port=port, protocol=3, cache_config=CacheConfig())
    writer = redis.Redis(*cluster.pods[1].front)
    try:
        for partition in range(cluster.partitions):
            key = cluster.keys(partition)[0]
            for turn in range(20):
                writer.set(key, turn)
                wanted = b"%d" % turn
                for _ in range(500):
                    if cached.get(key) == wanted:
                        break
                assert cached.get(key) == wanted
        cache = cached.nodes_manager.default_node.redis_connection.get_cache() if cluster_aware else cached.get_cache()
        assert cache is not None and cache.size > 0
    finally:
        cached.close()
        writer.close()
