"""HSCAN and its kin, and CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT, as clients use them, on both ports and engines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.unit.router_conversation import conversation
from tests.unit.router_support import ENGINES, Cluster, running_cluster

from cachecluster_core.slots import slot_of_key
from cachecluster_sidecar.router.feeds import ReplyFeed

pytestmark = pytest.mark.t1

MEMBERS = {f"m{number}": number for number in range(2000)}


def ways_to(cluster: Cluster, key: str) -> Iterator[redis.Redis]:
    """Clients of every port that serves the key, in both RESP versions."""
    owner = cluster.pod_of(cluster.partition_of(key.encode()))
    for where in (*(pod.front for pod in cluster.pods), owner.cluster_port):
        for protocol in (2, 3):
            yield redis.Redis(*where, protocol=protocol, decode_responses=True)


def iterate(cluster: Cluster, key: str, small: str) -> None:
    """Everything is told by redis-py's iterators, on every way."""
    for client in ways_to(cluster, key):
        with client:
            for name, count in ((key, len(MEMBERS)), (small, 3)):
                members = dict(list(MEMBERS.items())[:count])
                client.delete(*(name + kind for kind in "hsz"))
                client.hset(name + "h", mapping=members)
                client.sadd(name + "s", *members)
                client.zadd(name + "z", members)
                assert dict(client.hscan_iter(name + "h", count=50)) == {it: str(n) for it, n in members.items()}
                assert set(client.sscan_iter(name + "s", match="m1*")) == {it for it in members if it.startswith("m1")}
                assert dict(client.zscan_iter(name + "z", count=10)) == members
            cursor, _ = client.hscan(key + "h", count=10)
            assert 0 < cursor < 1 << 53
            assert client.hscan(small + "h")[0] == client.hscan(key + "none")[0] == 0
            pipe = client.pipeline(transaction=True).hscan(key + "h", cursor, count=10).get(key + "none")
            (after, _), _ = pipe.sscan(key + "s", count=10).execute()[:2]
            assert after == client.hscan(key + "h", cursor, count=10)[0] != cursor
            for bad in ("x", "1" * 21):
                with pytest.raises(redis.ResponseError, match="invalid cursor"):
                    client.execute_command("HSCAN", key + "h", bad)
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                client.execute_command("HSCAN", key + "s", cursor)


@pytest.mark.parametrize("engine", ENGINES)
async def test_iterators_tell_every_member(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=2, partitions=4) as cluster:
        await asyncio.to_thread(iterate, cluster, "{a}", "{a}few")


async def test_hscan_without_values(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        await client.ask("HSET", "h", "a", "1")
        assert await client.ask("HSCAN", "h", "0", "NOVALUES") == b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n"


async def test_what_users_may_scan_depends_on_the_key(tmp_path: Path) -> None:
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~mine:* +@read +@hash\n")
    async with running_cluster(tmp_path, users_file=users) as cluster, conversation(cluster.pods[0].front) as client:
        assert await client.ask("HSET", "mine:h", "a", "1") == b":1\r\n"
        assert (await client.ask("HSCAN", "mine:h", "0")).startswith(b"*2\r\n$1\r\n0\r\n*2")
        for name in ("HSCAN", "SSCAN", "ZSCAN"):
            assert await client.ask(name, "other", "0") == b"-NOPERM No permissions to access a key\r\n"
        assert (await client.ask("CLUSTER", "GETKEYSINSLOT", "0", "1")).startswith(b"-NOPERM")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_the_keys_of_a_slot_are_counted_and_told(tmp_path: Path, engine: str, protocol: str) -> None:
    others, tagged = [f"k{n}" for n in range(1000)], [f"{{a}}{n}" for n in range(1200)]
    slot = str(slot_of_key(b"a"))
    async with running_cluster(tmp_path, engine=engine, pods=2, partitions=4) as cluster:
        owner = cluster.pod_of(cluster.partition_of(b"a"))
        for where in (*(pod.front for pod in cluster.pods), *(pod.cluster_port for pod in cluster.pods)):
            async with conversation(cluster.pods[0].front) as client:
                await client.ask("MSET", *[word for key in (*others, *tagged) for word in (key, "x")])
            async with conversation(where) as client:
                await client.ask("HELLO", protocol)
                has_it = where != cluster.pods[1 - owner.number].cluster_port
                count = len(tagged) if has_it else 0
                client.send(("CLUSTER", "COUNTKEYSINSLOT", slot), ("CLUSTER", "GETKEYSINSLOT", slot, "5000"))
                counted, told = await client.frames(2)
                assert counted == b":%d\r\n" % count
                assert keys_of(told) == (sorted(it.encode() for it in tagged) if has_it else [])
                some = keys_of(await client.ask("CLUSTER", "GETKEYSINSLOT", slot, "7"))
                assert len(set(some)) == len(some) == (7 if has_it else 0) and set(some) <= set(keys_of(told))
                assert await client.ask("CLUSTER", "GETKEYSINSLOT", slot, "0") == b"*0\r\n"
                client.send(("CLUSTER", "COUNTKEYSINSLOT", slot), ("DEL", "{a}0"), ("PING",))
                assert (await client.frames(3))[2] == b"+PONG\r\n"


def keys_of(reply: bytes) -> list[bytes]:
    """Of an array of bulk strings, sorted."""
    head, _, rest = reply.partition(b"\r\n")
    found = [frame.split(b"\r\n")[1] for frame in ReplyFeed().feed(rest)]
    assert head == b"*%d" % len(found)
    return sorted(found)


ERRORS = {
    "COUNTKEYSINSLOT x": "value is not an integer or out of range",
    "COUNTKEYSINSLOT 05": "value is not an integer or out of range",
    "COUNTKEYSINSLOT 1_0": "value is not an integer or out of range",
    "COUNTKEYSINSLOT -1": "Invalid slot",
    "COUNTKEYSINSLOT 16384": "Invalid slot",
    "GETKEYSINSLOT 1 x": "value is not an integer or out of range",
    "GETKEYSINSLOT 99999999999999999999 1": "value is not an integer or out of range",
    "GETKEYSINSLOT 16384 1": "Invalid slot or number of keys",
    "GETKEYSINSLOT 1 -1": "Invalid slot or number of keys",
    "COUNTKEYSINSLOT": "wrong number of arguments for 'cluster|countkeysinslot' command",
}


async def test_errors_are_those_of_the_engines(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        for where in (cluster.pods[0].front, cluster.pods[1].cluster_port):
            async with conversation(where) as client:
                for words, told in ERRORS.items():
                    assert await client.ask("CLUSTER", *words.split()) == f"-ERR {told}\r\n".encode()
