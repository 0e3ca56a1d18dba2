"""HSCAN, SSCAN and ZSCAN as clients use them, on both ports and engines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.unit.router_support import ENGINES, Cluster, conversation, running_cluster

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
