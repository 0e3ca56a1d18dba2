"""`spec.reads` of replicas with real routers and engines: which pod's copy answers, told by what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.router_conversation import Conversation, conversation
from tests.unit.router_support import ENGINES, Cluster, running_cluster

pytestmark = pytest.mark.t1

PRIMARY, NEAR, HERE = b"$7\r\nprimary\r\n", b"$4\r\nnear\r\n", b"$4\r\nhere\r\n"


@contextlib.asynccontextmanager
async def zones(root: Path, engine: str, reads_from: str) -> AsyncIterator[tuple[Cluster, Conversation, str]]:
    """The primary of partition 0 in zone b; copies on both pods of zone a, each with another value of a key."""
    async with running_cluster(root, engine=engine, pods=3, partitions=4, readsFrom=reads_from) as cluster:
        primary, near, here = cluster.pods
        cluster.zones = {primary.uid: "b", near.uid: "a", here.uid: "a"}
        cluster.replicas = [[near.uid], [], [], []]
        key = cluster.keys(0)[0]
        for pod, value in ((primary, "primary"), (near, "near"), (here, "here")):
            copy = pod.copies.get(0) or await pod.start_copy(0)
            async with copy.client() as client:
                await client.set(key, value)
        cluster.publish()
        async with conversation(here.front) as client:
            yield cluster, client, key


async def answered(client: Conversation, key: str, expected: bytes) -> None:
    """From some moment on: until a connection is there, and a while after a pod could not, the primary answers."""
    async with asyncio.timeout(10):
        while await client.ask("GET", key) != expected:
            pass


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_a_copy_here_answers_or_one_in_the_zone_or_the_primary(
    tmp_path: Path, engine: str, protocol: str
) -> None:
    async with zones(tmp_path, engine, "nearest-zone") as (cluster, client, key):
        _, near, here = cluster.pods
        await client.ask("HELLO", protocol)
        assert await client.ask("GET", key) == PRIMARY
        near.agent.set_readable(0)
        await answered(client, key, NEAR)
        here.agent.set_readable(0)
        await answered(client, key, HERE)
        assert await client.ask("STRLEN", key) == b":4\r\n"
        assert await client.ask("MGET", key, key) == b"*2\r\n" + HERE * 2
        assert await client.ask("CACHECLUSTER", "READS", "primary") == b"+OK\r\n"
        assert await client.ask("GET", key) == PRIMARY
        assert await client.ask("CACHECLUSTER", "READS", "default") == b"+OK\r\n"
        here.agent.set_readable(0, 0)
        await answered(client, key, NEAR)
        near.agent.set_readable(0, 0)
        client.send(*[("GET", key)] * 500)
        assert await client.frames(500) == [PRIMARY] * 500
        assert (await here.metrics())["replicaReads"] > 4
        cluster.change_settings(readsFrom="primary")
        near.agent.set_readable(0)
        here.agent.set_readable(0)
        assert await client.ask("SET", key, "primary") == b"+OK\r\n"
        assert await client.ask("GET", key) == PRIMARY


async def test_without_zones_only_the_copy_here_answers(tmp_path: Path) -> None:
    async with zones(tmp_path, "valkey", "replica") as (cluster, client, key):
        _, near, here = cluster.pods
        near.agent.set_readable(0)
        client.send(*[("GET", key)] * 500)
        assert await client.frames(500) == [PRIMARY] * 500
        here.agent.set_readable(0)
        await answered(client, key, HERE)


@pytest.mark.parametrize("silent", ["engine", "router"])
async def test_a_silent_copy_holds_no_read_up_for_long(tmp_path: Path, silent: str) -> None:
    async with zones(tmp_path, "valkey", "nearest-zone") as (cluster, client, key):
        _, near, _ = cluster.pods
        near.agent.set_readable(0)
        await answered(client, key, NEAR)
        if silent == "engine":
            near.copies[0].signal(signal.SIGSTOP)
        else:
            near.workers[0].send_signal(signal.SIGSTOP)
        try:
            client.send(*[("GET", key)] * 50, ("SET", key, "new"), ("GET", key))
            assert await client.frames(52) == [*[PRIMARY] * 50, b"+OK\r\n", b"$3\r\nnew\r\n"]
        finally:
            near.copies[0].signal(signal.SIGCONT)
            near.workers[0].send_signal(signal.SIGCONT)


async def test_a_pipeline_keeps_its_meaning(tmp_path: Path) -> None:
    async with zones(tmp_path, "valkey", "replica") as (cluster, client, key):
        cluster.pods[2].agent.set_readable(0)
        await answered(client, key, HERE)
        for number in range(100):
            value = b"%d" % number
            client.send(("GET", key), ("SET", key, value), ("GET", key), ("EXISTS", key), ("PING",), ("GET", key))
            told = b"$%d\r\n%s\r\n" % (len(value), value)
            assert await client.frames(6) == [HERE, b"+OK\r\n", told, b":1\r\n", b"+PONG\r\n", told]
