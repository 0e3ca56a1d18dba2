"""Commands wait while a partition has no open gate, in order, for a bounded time and in bounded bytes."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from tests.unit.router_conversation import conversation
from tests.unit.router_support import Cluster, running_cluster, until

from cachecluster_core.slots import slot_of_key

pytestmark = pytest.mark.t1


async def move(cluster: Cluster, partition: int, to: int, epoch: int = 2) -> None:
    """Shut the gate of a partition, confirm it, and open one at another pod (with an empty engine)."""
    old, new = cluster.pod_of(partition), cluster.pods[to]
    await old.agent.confirmed(partition, old.agent.set_gate(partition, epoch=0))
    former = old.copies.pop(partition)
    await new.start_copy(partition)
    cluster.primaries[partition] = new.uid
    cluster.publish()
    new.agent.set_gate(partition, epoch=epoch)
    former.kill()


async def test_commands_wait_for_the_gate_and_go_in_order(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        for partition in (0, 1):
            pod, key = cluster.pod_of(partition), cluster.keys(partition)[0]
            await pod.agent.confirmed(partition, pod.agent.set_gate(partition, epoch=0))
            client.send(*[("APPEND", key, str(digit)) for digit in range(10)], ("GET", key))
            other = cluster.keys(2 + partition)[0]
            async with conversation(cluster.pods[0].front) as unaffected:
                assert await unaffected.ask("SET", other, "x") == b"+OK\r\n"
            await until_parked(cluster, 11)
            pod.agent.set_gate(partition, epoch=2)
            frames = await client.frames(11)
            assert frames[-1] == b"$10\r\n0123456789\r\n"


async def test_a_partition_moves_under_load_without_an_error(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=3) as cluster:
        key, errors, done = cluster.keys(1)[0], [], asyncio.Event()

        async def load(where: tuple[str, int]) -> int:
            count = 0
            async with conversation(where) as client:
                while not done.is_set():
                    client.send(*[("INCR", key) for _ in range(20)])
                    for reply in await client.frames(20):
                        count += 1
                        if not reply.startswith(b":"):
                            errors.append(reply)
            return count

        loads = [asyncio.create_task(load(pod.front)) for pod in cluster.pods for _ in range(3)]
        for turn, pod in enumerate((2, 0, 1, 2)):
            await asyncio.sleep(0.2)
            await move(cluster, 1, pod, epoch=turn + 2)
        await asyncio.sleep(0.2)
        done.set()
        counts = await asyncio.gather(*loads)
        assert errors == []
        assert min(counts) > 20


async def test_commands_of_one_client_are_never_reordered_by_refusals(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[1], cluster.keys(1)[0]
        sent = 0
        for turn in range(20):
            pod.agent.set_gate(1, epoch=0)
            for _ in range(5):
                client.send(*[("RPUSH", key, str(sent + step)) for step in range(10)])
                sent += 10
                await asyncio.sleep(0.002)
            pod.agent.set_gate(1, epoch=turn + 2)
            client.send(*[("RPUSH", key, str(sent + step)) for step in range(10)])
            sent += 10
        frames = await client.frames(sent)
        assert frames == [b":%d\r\n" % (number + 1) for number in range(sent)]
        values = await client.ask("LRANGE", key, "0", "-1")
        assert [int(line) for line in values.split(b"\r\n")[2::2]] == list(range(sent))
        assert (await cluster.pods[0].metrics())["retried"] > 0


async def test_waiting_ends_with_tryagain(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, parkTimeoutMs=300) as cluster, conversation(cluster.pods[0].front) as client:
        for partition in (0, 1):
            pod, key = cluster.pod_of(partition), cluster.keys(partition)[0]
            await pod.agent.confirmed(partition, pod.agent.set_gate(partition, epoch=0))
            started = time.monotonic()
            client.send(("SET", key, "x"), ("PING",))
            reply, pong = await client.frames(2)
            assert reply.startswith(b"-TRYAGAIN partition %d has no open gate: waited 3" % partition)
            assert b"not executed" in reply and pong == b"+PONG\r\n"
            assert 0.25 < time.monotonic() - started < 6
        assert (await cluster.pods[0].metrics())["errors"]["tryagain"] == 2


async def test_a_pod_whose_own_clients_gave_up_waiting_serves_other_pods_when_it_becomes_the_owner(
    tmp_path: Path,
) -> None:
    async with running_cluster(tmp_path, parkTimeoutMs=300) as cluster:
        former, key = cluster.pods[1], cluster.keys(1)[0]
        await former.agent.confirmed(1, former.agent.set_gate(1, epoch=0))
        async with conversation(cluster.pods[0].front) as client:
            assert (await client.ask("SET", key, "x")).startswith(b"-TRYAGAIN")
        await move(cluster, 1, to=0)
        async with conversation(former.front) as client:
            assert await client.ask("SET", key, "x") == b"+OK\r\n"


async def test_bytes_of_waiting_commands_are_bounded(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, parkMaxBytes=10000) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
        client.send(*[("SET", key, "x" * 1000) for _ in range(20)])
        await until_parked(cluster, 9)
        pod.agent.set_gate(0, epoch=2)
        frames = await client.frames(20)
        assert frames[:9] == [b"+OK\r\n"] * 9
        assert all(b"10000 bytes for waiting commands are taken" in frame for frame in frames[9:])
        assert (await pod.metrics())["parkedBytes"] == 0


async def until_parked(cluster: Cluster, count: int) -> None:
    async with asyncio.timeout(5):
        while True:
            if (await cluster.pods[0].metrics())["parked"] == count:
                return
            await asyncio.sleep(0.005)


async def test_parked_commands_of_a_client_whose_connection_broke_are_dropped(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
        async with conversation(pod.front) as client:
            client.send(("SET", key, "left"))
            await until_parked(cluster, 1)
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.writer.transport.abort()
        await until_parked(cluster, 0)
        pod.agent.set_gate(0, epoch=2)
        async with conversation(pod.front) as client:
            assert await client.ask("GET", key) == b"$-1\r\n"


async def test_a_split_command_waits_for_its_part(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        pod = cluster.pods[1]
        await pod.agent.confirmed(1, pod.agent.set_gate(1, epoch=0))
        client.send(("MSET", a, "1", b, "2"), ("MGET", a, b))
        await until_parked(cluster, 2)
        pod.agent.set_gate(1, epoch=2)
        assert await client.frames(2) == [b"+OK\r\n", b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n"]


async def test_a_split_write_that_was_done_in_part_is_not_called_undone(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, parkTimeoutMs=200) as cluster, conversation(cluster.pods[0].front) as client:
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        pod = cluster.pods[1]
        await pod.agent.confirmed(1, pod.agent.set_gate(1, epoch=0))
        assert (await client.ask("MSET", a, "1", b, "2")).startswith(b"-INDETERMINATE")
        assert (await client.ask("MGET", a, b)).startswith(b"-TRYAGAIN")


async def test_moved_names_the_owner_and_no_owner_means_waiting(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].cluster_port) as client:
        mine, theirs = cluster.keys(0)[0], cluster.keys(1)[0]
        assert await client.ask("SET", mine, "1") == b"+OK\r\n"
        reply = await client.ask("GET", theirs)
        assert reply.startswith(b"-MOVED ") and reply.endswith(b" %s:7379\r\n" % cluster.pods[1].host.encode())
        cluster.primaries[0] = None
        cluster.publish()
        await cluster.pods[0].metrics()  # answered after the routes were taken over
        client.send(("GET", mine))
        await until_parked(cluster, 1)
        cluster.primaries[0] = cluster.pods[1].uid
        cluster.publish()
        assert (await client.frame()).startswith(b"-MOVED ")


async def test_a_command_waits_while_the_owner_does_not_listen(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(1)[0]
        assert await client.ask("SET", key, "1") == b"+OK\r\n"
        owner = cluster.pods[1]
        owner.workers[0].kill()
        owner.workers[0].wait()
        client.send(("GET", key), ("INCR", key))
        await until_parked(cluster, 2)
        owner.start_router()
        assert await client.frames(2) == [b"$1\r\n1\r\n", b":2\r\n"]


async def test_a_pod_with_another_identity_at_the_address_is_no_connection(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, parkTimeoutMs=400) as cluster, conversation(cluster.pods[0].front) as client:
        stranger = cluster.routes_for(cluster.pods[0])
        stranger["members"]["uid-gone"] = stranger["members"].pop("uid-1")
        stranger["primaries"] = ["uid-0", "uid-gone"] * 2
        cluster.pods[0].agent.use_routes(stranger)
        await cluster.pods[0].metrics()
        reply = await client.ask("SET", cluster.keys(1)[0], "x")
        assert reply.startswith(b"-TRYAGAIN")
        assert "WRONGPOD" in cluster.pods[0].log()


async def test_routers_that_restart_register_again(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        agent = cluster.pods[0].agent
        assert agent.registered == 1
        await agent.stop()
        async with conversation(cluster.pods[0].front) as client:
            assert await client.ask("SET", cluster.keys(0)[0], "alone") == b"+OK\r\n"
        await agent.start()
        await until(lambda: agent.registered == 2)
        generation = agent.set_gate(0, epoch=0)
        await agent.confirmed(0, generation)


async def test_another_pod_stands_in_on_the_cluster_port_for_one_that_leaves(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=3, partitions=8) as cluster:
        leaving, standing_in, third = cluster.pods[1], cluster.pods[0], cluster.pods[2]
        keys = [cluster.keys(partition, 5) for partition in range(8)]
        plain = cluster.pods[2].client()
        await plain.mset({key: "old" for of_partition in keys for key in of_partition})
        await plain.aclose()
        cluster.leaving[leaving.uid] = standing_in.uid
        await publish(cluster)
        moved_here = b"-MOVED %d %s:7379\r\n"
        key = keys[1][0]
        async with (
            conversation(leaving.cluster_port) as first,
            conversation(standing_in.cluster_port) as second,
            conversation(third.cluster_port) as other,
        ):
            to_stand_in = moved_here % (slot_of_key(key.encode()), standing_in.host.encode())
            assert await other.ask("GET", key) == to_stand_in
            assert await first.ask("GET", key) == b"$3\r\nold\r\n", "those who know it are served until it is empty"
            assert await second.ask("SET", key, "new") == b"+OK\r\n"
            assert await second.ask("WATCH", key) == b"+OK\r\n"
            second.send(("MULTI",), ("APPEND", key, "er"), ("GET", key), ("EXEC",))
            assert (await second.frames(4))[-1] == b"*2\r\n:5\r\n$5\r\nnewer\r\n"
            assert await second.ask("BLPOP", f"{{{key}}}list", "0.01") == b"*-1\r\n"
            counts = [await it.ask("DBSIZE") for it in (first, second, other)]
            assert counts == [b":0\r\n", b":30\r\n", b":10\r\n"], "each partition counts once"
            await move(cluster, 1, to=2)
            await publish(cluster)
            moved = moved_here % (slot_of_key(key.encode()), third.host.encode())
            assert [await it.ask("GET", key) for it in (first, second)] == [moved, moved]
            assert await other.ask("GET", key) == b"$-1\r\n", "the tests' moves leave the data behind"


async def test_a_cluster_client_reads_every_key_while_another_pod_stands_in(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=3, partitions=8) as cluster:
        cluster.leaving["uid-1"] = "uid-0"
        await publish(cluster)
        host, port = cluster.pods[2].cluster_port
        clustered: Any = redis.asyncio.RedisCluster(host=host, port=port)
        try:
            for number in range(64):
                await clustered.set(f"n{number}", number)
            assert [await clustered.get(f"n{number}") for number in range(64)] == [b"%d" % n for n in range(64)]
            assert await clustered.dbsize(target_nodes="primaries") == 64
            assert len({key async for key in clustered.scan_iter(count=10)}) == 64
            assert len(await clustered.keys("*", target_nodes="primaries")) == 64
            assert {node.host for node in clustered.get_nodes()} == {cluster.pods[0].host, cluster.pods[2].host}
        finally:
            await clustered.aclose()


async def publish(cluster: Cluster) -> None:
    """Tell every router the present routes, and wait until all have taken them over."""
    cluster.publish()
    for pod in cluster.pods:
        await pod.metrics()
