"""Commands about all keys, or about every engine: sent to every partition, and answered as one engine would."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import redis.asyncio
from tests.unit.router_conversation import Conversation, conversation
from tests.unit.router_support import ENGINES, cluster_and_client, running_cluster

from cachecluster_sidecar.router.feeds import ReplyFeed

pytestmark = pytest.mark.t1

KEYS = [f"s{number}" for number in range(20)]
SCRIPT = "return redis.call('GET', KEYS[1])"
DIGEST = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
NULL = {"2": b"$-1\r\n", "3": b"_\r\n"}


def elements(reply: bytes) -> list[bytes]:
    """Of an array of bulk strings, sorted."""
    head, _, rest = reply.partition(b"\r\n")
    found = [frame.split(b"\r\n")[1] for frame in ReplyFeed().feed(rest)]
    assert head == b"*%d" % len(found)
    return sorted(found)


async def fill(client: Conversation) -> None:
    await client.ask("MSET", *[word for key in KEYS for word in (key, key)])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_commands_about_all_keys_answer_as_one_engine_would(tmp_path: Path, engine: str, protocol: str) -> None:
    async with cluster_and_client(tmp_path, engine, protocol) as (cluster, client):
        assert (await client.ask("DBSIZE"), await client.ask("KEYS", "*")) == (b":0\r\n", b"*0\r\n")
        assert await client.ask("RANDOMKEY") == NULL[protocol]
        await fill(client)
        assert {cluster.partition_of(key.encode()) for key in KEYS} == set(range(4))
        assert await client.ask("DBSIZE") == b":20\r\n"
        assert elements(await client.ask("KEYS", "s*")) == sorted(key.encode() for key in KEYS)
        assert elements(await client.ask("KEYS", "s1")) == [b"s1"]
        found = {(await client.ask("RANDOMKEY")).split(b"\r\n")[1].decode() for _ in range(100)}
        assert found <= set(KEYS) and len({cluster.partition_of(key.encode()) for key in found}) == 4
        assert (await client.ask("FLUSHALL", "NONSENSE")).startswith(b"-ERR syntax error")
        assert await client.ask("FLUSHALL", "ASYNC") == b"+OK\r\n"
        assert await client.ask("DBSIZE") == b":0\r\n"
        await fill(client)
        client.send(("SET", "t", "1"), ("FLUSHDB",), ("DBSIZE",), ("SET", "t", "1"), ("DBSIZE",))
        assert (await client.frames(5))[1:] == [b"+OK\r\n", b":0\r\n", b"+OK\r\n", b":1\r\n"]


@pytest.mark.parametrize("engine", ENGINES)
async def test_scripts_are_loaded_into_every_partition(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=2, partitions=4) as cluster:
        async with conversation(cluster.pods[0].front) as client:
            await fill(client)
            assert await client.ask("SCRIPT", "EXISTS", DIGEST, DIGEST) == b"*2\r\n:0\r\n:0\r\n"
            assert await client.ask("SCRIPT", "LOAD", SCRIPT) == b"$40\r\n" + DIGEST.encode() + b"\r\n"
            for key in KEYS:
                assert await client.ask("EVALSHA", DIGEST, "1", key) == b"$%d\r\n%s\r\n" % (len(key), key.encode())
            assert await client.ask("SCRIPT", "EXISTS", DIGEST, "0" * 40) == b"*2\r\n:1\r\n:0\r\n"
            assert await client.ask("SCRIPT", "FLUSH") == b"+OK\r\n"
            assert await client.ask("SCRIPT", "EXISTS", DIGEST) == b"*1\r\n:0\r\n"
            assert (await client.ask("SCRIPT", "LOAD", "nonsense(")).startswith(b"-ERR Error compiling")
        host, port = cluster.pods[1].front
        async with redis.asyncio.Redis(host=host, port=port) as plain:
            script = plain.register_script(SCRIPT)
            assert await script(keys=[KEYS[0]]) == KEYS[0].encode(), "a client's own way: load, and try again"


LIBRARY = "#!lua name=lib\nredis.register_function('get', function(keys) return redis.call('GET', keys[1]) end)"


@pytest.mark.parametrize("engine", ENGINES)
async def test_functions_are_loaded_into_every_partition(tmp_path: Path, engine: str) -> None:
    async with cluster_and_client(tmp_path, engine, "2") as (_, client):
        await fill(client)
        assert await client.ask("FUNCTION", "LOAD", LIBRARY) == b"$3\r\nlib\r\n"
        assert (await client.ask("FUNCTION", "LOAD", LIBRARY)).startswith(b"-ERR Library 'lib' already exists")
        for key in KEYS:
            assert await client.ask("FCALL", "get", "1", key) == b"$%d\r\n%s\r\n" % (len(key), key.encode())
        assert b"library_name\r\n$3\r\nlib" in await client.ask("FUNCTION", "LIST")
        assert b"must be strings or integers" in await client.ask("FCALL", "get", "0"), "it runs, without a key"
        assert await client.ask("FUNCTION", "DELETE", "lib") == b"+OK\r\n"
        assert (await client.ask("FCALL", "get", "1", KEYS[0])).startswith(b"-ERR Function not found")


async def test_the_cluster_port_tells_of_the_pods_own_partitions(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2, partitions=4) as cluster:
        async with conversation(cluster.pods[0].front) as client:
            await fill(client)
        sizes, found = [], []
        for pod in cluster.pods:
            async with conversation(pod.cluster_port) as client:
                sizes.append(int((await client.ask("DBSIZE"))[1:]))
                found.append(elements(await client.ask("KEYS", "*")))
        assert sizes == [len(keys) for keys in found] and sum(sizes) == 20 and min(sizes) > 0
        assert sorted(key for keys in found for key in keys) == sorted(key.encode() for key in KEYS)


async def scanned(client: Conversation, *options: str) -> list[bytes]:
    """Everything that SCAN tells, from the beginning to the end."""
    cursor, found = b"0", []
    for _ in range(1000):
        reply = await client.ask("SCAN", cursor.decode(), *options)
        head, keys = reply[: reply.index(b"*", 1)], reply[reply.index(b"*", 1) :]
        cursor = head.split(b"\r\n")[2]
        found += elements(keys)
        if cursor == b"0":
            return found
        assert int(cursor) < 1 << 53
    raise AssertionError("a scan without end")


@pytest.mark.parametrize("engine", ENGINES)
async def test_scan_tells_every_key_of_every_partition(tmp_path: Path, engine: str) -> None:
    keys = sorted(b"s%d" % number for number in range(500))
    async with running_cluster(tmp_path, engine=engine, pods=2, partitions=4) as cluster:
        async with conversation(cluster.pods[0].front) as client:
            assert await scanned(client) == []
            await client.ask("MSET", *[word for key in keys for word in (key.decode(), "x")])
            await client.ask("LPUSH", "list", "x")
            assert sorted(set(await scanned(client))) == sorted([*keys, b"list"])
            assert sorted(set(await scanned(client, "COUNT", "3", "MATCH", "s1*"))) == [
                key for key in keys if key.startswith(b"s1")
            ]
            assert await scanned(client, "TYPE", "list") == [b"list"]
            for bad in ("x", "-1", "1" * 21):
                assert await client.ask("SCAN", bad) == b"-ERR invalid cursor\r\n"
            assert (await client.ask("SCAN", "0", "NONSENSE")).startswith(b"-ERR syntax error")
        own = []
        for pod in cluster.pods:
            async with conversation(pod.cluster_port) as client:
                own.append(set(await scanned(client)))
        assert own[0].isdisjoint(own[1]) and len(own[0] | own[1]) == 501


async def test_commands_about_all_keys_are_not_part_of_a_transaction(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        client.send(("MULTI",), ("FLUSHALL",), ("EXEC",))
        replies = await client.frames(3)
        assert replies[1].startswith(b"-ERR 'flushall' is not served between MULTI and EXEC")
        assert replies[2].startswith(b"-EXECABORT")


async def test_a_command_that_goes_to_every_partition_is_bounded(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        for large in (
            ("KEYS", "x" * (1 << 20)),
            ("SCAN", "0", "MATCH", "x" * (1 << 20)),
            ("SCRIPT", "EXISTS", *["0" * 40] * 1024),
        ):
            assert b"at most 1048576 bytes and 1024 arguments" in await client.ask(*large)
