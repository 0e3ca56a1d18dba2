"""`durability: sync` in a router: a write is answered when every required copy has acknowledged it by name."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio
from tests.unit.router_conversation import Conversation, conversation
from tests.unit.router_support import ENGINES, PEER_TOKEN, Cluster, EngineServer, running_cluster

pytestmark = pytest.mark.t1

REPLICATION_PORT = 17000
OWN, REPLICA, SECOND = "uid-0.own", "uid-1.replica", "uid-2.second"


async def follow(cluster: Cluster, directory: Path, name: str, copy: str) -> EngineServer:
    """Another engine that replicates partition 0 and calls itself `copy`; attached when this returns."""
    primary, host = cluster.pods[0].copies[0], cluster.pods[0].host
    async with primary.client() as engine:
        if (await engine.config_get("port"))["port"] == "0":
            await engine.config_set("bind", host)
            await engine.config_set("repl-diskless-sync-delay", 0)
            await engine.config_set("port", REPLICATION_PORT)
    replica = EngineServer(cluster.engine, directory, name)
    await replica.start()
    async with replica.client() as engine:
        await engine.config_set("replica-announce-ip", copy)
        await engine.execute_command("REPLICAOF", host, str(REPLICATION_PORT))
    async with primary.client() as engine, asyncio.timeout(20):
        while True:  # what is written before its first acknowledgement reaches it later than usual
            await engine.spublish("", "")
            attached = {name: int(acked) for name, _, acked in (await engine.execute_command("ROLE"))[2]}
            if attached.get(copy.encode(), 0) > 0:
                break
            await asyncio.sleep(0.05)
    return replica


@contextlib.asynccontextmanager
async def sync_cluster(
    root: Path, engine: str = "valkey", **settings: object
) -> AsyncIterator[tuple[Cluster, EngineServer]]:
    """Two pods and four partitions; partition 0 has a replica that is required, the others have one copy each."""
    async with running_cluster(root, engine=engine, sync=True, **{"ackTimeoutMs": 10_000, **settings}) as cluster:
        directory = root / "replica"
        directory.mkdir()
        replica = await follow(cluster, directory, "r", REPLICA)
        try:
            for partition in range(1, 4):
                pod = cluster.pod_of(partition)
                pod.agent.require(partition, f"{pod.uid}.own")
            agent = cluster.pods[0].agent
            await agent.confirmed(0, agent.require(0, OWN, REPLICA))
            yield cluster, replica
        finally:
            with contextlib.suppress(ProcessLookupError):
                replica.signal(signal.SIGCONT)
            replica.kill()


@contextlib.contextmanager
def stopped(process: EngineServer) -> Iterator[None]:
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


async def silent(client: Conversation) -> None:
    """No reply comes for a while."""
    with pytest.raises(TimeoutError):
        await client.frame(timeout_s=0.4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_an_answered_write_is_on_the_required_replica(tmp_path: Path, engine: str, pod: int) -> None:
    async with sync_cluster(tmp_path, engine) as (cluster, replica), conversation(cluster.pods[pod].front) as client:
        key = cluster.keys(0)[0]
        async with replica.client() as engine_client:
            for number in range(150):
                assert await client.ask("SET", key, str(number)) == b"+OK\r\n"
                assert await engine_client.get(key) == str(number).encode()
        assert (await cluster.pods[0].metrics())["commits"] >= 150


@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_pipelined_writes_share_rounds_and_are_answered_in_order(tmp_path: Path, pod: int) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[pod].front) as client:
        key, other = cluster.keys(0)[0], cluster.keys(1)[0]
        expected = []
        for number in range(1, 501):
            client.send(("INCR", key), ("GET", key), ("INCR", other))
            expected += [b":%d\r\n" % number, b"$%d\r\n%d\r\n" % (len(str(number)), number), b":%d\r\n" % number]
        assert await client.frames(1500) == expected
        async with replica.client() as engine:
            assert await engine.get(key) == b"500"
        metrics = await cluster.pods[0].metrics()
        assert 0 < metrics["commits"] < 400 and metrics["held"] == 0 and sum(metrics["heldFor"]) == 500


@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_a_transaction_is_answered_when_the_required_replica_has_it(tmp_path: Path, pod: int) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[pod].front) as client:
        key = cluster.keys(0)[0]
        with stopped(replica):
            client.send(("MULTI",), ("SET", key, "1"), ("INCR", key), ("EXEC",))
            assert await client.frames(3) == [b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n"]
            await silent(client)
        assert await client.frame() == b"*2\r\n+OK\r\n:2\r\n"
        async with replica.client() as engine:
            assert await engine.get(key) == b"2"
        client.send(("MULTI",), ("GET", key), ("EXEC",))
        assert (await client.frames(3))[2] == b"*1\r\n$1\r\n2\r\n"


async def test_a_stopped_replica_holds_up_writes_of_its_partition_and_nothing_else(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path, ackTimeoutMs=1500) as (cluster, replica), contextlib.AsyncExitStack() as stack:
        key, beside, remote = cluster.keys(0)[0], cluster.keys(2)[0], cluster.keys(1)[0]
        for pod in cluster.pods:
            writer, reader = [await stack.enter_async_context(conversation(pod.front)) for _ in range(2)]
            assert await writer.ask("SET", key, "old") == b"+OK\r\n"
            with stopped(replica):
                writer.send(("SET", key, "new"), ("GET", key))
                began = time.monotonic()
                assert await reader.ask("GET", key) in (b"$3\r\nnew\r\n", b"$3\r\nold\r\n")
                assert await reader.ask("SET", beside, "x") == b"+OK\r\n"
                assert await reader.ask("SET", remote, "x") == b"+OK\r\n"
                assert time.monotonic() - began < 0.3
                reply = await writer.frame()
                assert 1.4 < time.monotonic() - began < 2.5
                assert reply.startswith(b"-INDETERMINATE partition 0: not acknowledged by demo-1 within 1")
                assert b"was applied at the primary and may be lost" in reply
                assert await writer.frame() == b"$3\r\nnew\r\n"
            assert await writer.ask("SET", key, "newer") == b"+OK\r\n"
        assert (await cluster.pods[0].metrics())["errors"]["unacknowledged"] == 2


async def test_held_writes_are_judged_by_the_new_set_at_once(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[0].front) as client:
        key, agent = cluster.keys(0)[0], cluster.pods[0].agent
        second = await follow(cluster, tmp_path / "replica", "s", SECOND)
        agent.require(0, OWN, REPLICA, SECOND)
        assert await client.ask("INCR", key) == b":1\r\n"
        with stopped(replica):
            client.send(("INCR", key), ("INCR", key))
            await silent(client)
            generation = agent.require(0, OWN, SECOND)
            assert await client.frames(2) == [b":2\r\n", b":3\r\n"]
            await agent.confirmed(0, generation)
            with stopped(second):
                client.send(("INCR", key))
                await silent(client)
                agent.require(0, OWN)
                assert await client.frame() == b":4\r\n"
        second.kill()


async def test_another_process_at_the_same_place_gets_no_credit(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path, ackTimeoutMs=600) as (cluster, _), conversation(cluster.pods[0].front) as client:
        key, agent = cluster.keys(0)[0], cluster.pods[0].agent
        agent.require(0, OWN, "uid-1.another")
        assert (await client.ask("SET", key, "x")).startswith(b"-INDETERMINATE partition 0: not acknowledged by demo-1")
        agent.require(0, OWN, REPLICA)
        assert await client.ask("SET", key, "x") == b"+OK\r\n"


async def test_a_copy_that_is_attached_but_not_required_is_not_waited_for(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[0].front) as client:
        second = await follow(cluster, tmp_path / "replica", "s", SECOND)
        with stopped(second):
            for _ in range(20):
                assert await client.ask("SET", cluster.keys(0)[0], "x") == b"+OK\r\n"
        with stopped(replica):
            client.send(("SET", cluster.keys(0)[0], "y"))
            await silent(client)
        assert await client.frame() == b"+OK\r\n"
        second.kill()


@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_writes_are_refused_below_the_least_number_of_copies_and_reads_go_on(tmp_path: Path, pod: int) -> None:
    async with (
        sync_cluster(tmp_path, minInSync=2) as (cluster, replica),
        conversation(cluster.pods[pod].front) as client,
    ):
        key, agent = cluster.keys(0)[0], cluster.pods[0].agent
        assert await client.ask("SET", key, "x") == b"+OK\r\n"
        with stopped(replica):
            client.send(("SET", key, "y"))
            await silent(client)
            await agent.confirmed(0, agent.require(0, OWN))
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 0: only 1 of 2 copies are in sync")
        assert (await client.ask("SET", key, "z")).startswith(b"-NOREPLICAS partition 0 has 1 of 2 in-sync copies")
        assert await client.ask("GET", key) == b"$1\r\ny\r\n"
        assert (await cluster.pods[0].metrics())["errors"]["noreplicas"] == 1
        agent.require(0, OWN, REPLICA)
        assert await client.ask("SET", key, "z") == b"+OK\r\n"


async def test_a_split_write_is_answered_when_every_part_is_acknowledged(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path, ackTimeoutMs=1000) as (cluster, replica):
        keys = [cluster.keys(partition)[0] for partition in range(4)]
        words = [word for key in keys for word in (key, "x")]
        for pod in cluster.pods:
            async with conversation(pod.front) as client:
                with stopped(replica):
                    client.send(("MSET", *words))
                    await silent(client)
                assert await client.frame() == b"+OK\r\n"
                with stopped(replica):
                    assert (await client.ask("MSET", *words)).startswith(b"-INDETERMINATE partition 0: not ack")


async def test_a_shut_gate_is_confirmed_when_nothing_is_held_and_an_open_one_at_once(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[1].front) as client:
        key, agent = cluster.keys(0)[0], cluster.pods[0].agent
        with stopped(replica):
            client.send(("SET", key, "x"))
            await until_held(cluster)
            await agent.confirmed(0, agent.require(0, OWN, REPLICA))
            generation = agent.set_gate(0, epoch=0, tell=False)
            agent.tell({"gates": [[0, generation, {"patient": True}]]})
            await asyncio.sleep(0.5)
            assert (0, generation) not in agent.confirms
        await agent.confirmed(0, generation)
        assert await client.frame() == b"+OK\r\n"


async def until_held(cluster: Cluster) -> None:
    """The owner's router holds a reply."""
    async with asyncio.timeout(5):
        while not (await cluster.pods[0].metrics())["held"]:
            pass


@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_what_is_held_is_indeterminate_when_the_gate_is_shut_without_patience(tmp_path: Path, pod: int) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[pod].front) as client:
        agent = cluster.pods[0].agent
        with stopped(replica):
            client.send(("SET", cluster.keys(0)[0], "x"))
            await until_held(cluster)
            await agent.confirmed(0, agent.set_gate(0, epoch=0))
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 0: the gate was shut before every")


@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_what_is_held_is_indeterminate_when_authority_ends(tmp_path: Path, pod: int) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[pod].front) as client:
        with stopped(replica):
            client.send(("SET", cluster.keys(0)[0], "x"))
            await until_held(cluster)
            cluster.pods[0].agent.set_deadline(0, -1)
            reply = await client.frame()
        assert reply.startswith(b"-INDETERMINATE partition 0: the pod's authority ended before every")


@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_what_is_held_is_indeterminate_when_the_engine_dies(tmp_path: Path, pod: int) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[pod].front) as client:
        with stopped(replica):
            client.send(("SET", cluster.keys(0)[0], "x"))
            await until_held(cluster)
            cluster.pods[0].copies[0].kill()
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 0: the connection to the engine ended")


async def test_what_a_peer_holds_is_indeterminate_when_the_peer_dies(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[1].front) as client:
        with stopped(replica):
            client.send(("SET", cluster.keys(0)[0], "x"), ("SET", cluster.keys(1)[0], "y"))
            await until_held(cluster)
            cluster.pods[0].workers[0].kill()
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 0: the connection to demo-0 ended")
            assert await client.frame() == b"+OK\r\n"


async def test_what_a_peer_holds_is_given_up_when_the_peer_is_silent_and_its_partition_has_moved(
    tmp_path: Path,
) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[1].front) as client:
        with stopped(replica):
            client.send(("SET", cluster.keys(0)[0], "x"))
            await until_held(cluster)
            cluster.pods[0].workers[0].send_signal(signal.SIGSTOP)
            await silent(client)
            cluster.primaries[0] = None
            cluster.publish()
            began = time.monotonic()
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 0: the connection to demo-0 ended")
            assert time.monotonic() - began < 2.5


async def test_a_learner_that_is_required_does_not_count_as_in_sync(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path, minInSync=2) as (cluster, _), conversation(cluster.pods[0].front) as client:
        assert await client.ask("SET", cluster.keys(0)[0], "x") == b"+OK\r\n"
        cluster.replicas = [[]] * cluster.partitions
        cluster.publish()
        reply = await client.ask("SET", cluster.keys(0)[0], "y")
        while reply == b"+OK\r\n" or reply.startswith(b"-INDETERMINATE"):  # held when the set shrank
            reply = await client.ask("SET", cluster.keys(0)[0], "y")
        assert reply.startswith(b"-NOREPLICAS partition 0 has 1 of 2 in-sync copies")


async def test_a_round_goes_on_when_its_connection_is_cut(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[0].front) as client:
        key, primary = cluster.keys(0)[0], cluster.pods[0].copies[0]
        assert await client.ask("SET", key, "x") == b"+OK\r\n"
        with stopped(replica):
            client.send(("SET", key, "y"))
            await until_held(cluster)
            async with primary.client() as engine:
                waiting = [
                    c for c in await engine.client_list() if c["cmd"] in ("wait", "role") and c["user"] == "gate"
                ]
                assert len(waiting) == 1
                await engine.client_kill_filter(_id=waiting[0]["id"])
        assert await client.frame() == b"+OK\r\n"


async def test_durability_changes_while_clients_are_served(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[1].front) as client:
        key = cluster.keys(0)[0]
        with stopped(replica):
            client.send(("SET", key, "x"))
            await until_held(cluster)
            cluster.change_settings(sync=False)
            assert await client.frame() == b"+OK\r\n"
            assert await client.ask("SET", key, "y") == b"+OK\r\n"
            cluster.change_settings(sync=True)
            metrics = await cluster.pods[0].metrics()
            assert metrics["held"] == 0
            client.send(("SET", key, "z"))
            await silent(client)
        assert await client.frame() == b"+OK\r\n"


@pytest.mark.parametrize("pod", [0, 1], ids=["at the owner", "through another pod"])
async def test_committed_reads_tell_only_what_every_required_copy_has(tmp_path: Path, pod: int) -> None:
    async with (
        sync_cluster(tmp_path, committedReads=True, ackTimeoutMs=1200) as (cluster, replica),
        conversation(cluster.pods[pod].front) as writer,
        conversation(cluster.pods[pod].front) as reader,
    ):
        key = cluster.keys(0)[0]
        assert await writer.ask("SET", key, "x") == b"+OK\r\n"
        assert await reader.ask("GET", key) == b"$1\r\nx\r\n"
        with stopped(replica):
            writer.send(("SET", key, "y"))
            reader.send(("GET", key))
            await silent(reader)
        assert await reader.frame() in (b"$1\r\nx\r\n", b"$1\r\ny\r\n") and await writer.frame() == b"+OK\r\n"
        with stopped(replica):
            reply = await reader.ask("GET", key)
        assert reply.startswith(b"-TRYAGAIN partition 0: not acknowledged by demo-1 within 1")


async def test_scripts_count_as_writes_and_their_errors_are_no_words_between_routers(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[1].front) as client:
        key = cluster.keys(0)[0]
        with stopped(replica):
            client.send(("EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", key))
            await silent(client)
        assert await client.frame() == b"+OK\r\n"
        for word in ("CCHELD 1", "CCGATE 0"):
            reply = await client.ask("EVAL", f"return redis.error_reply('{word}')", "1", key)
            assert reply == b"-ERR " + word.encode() + b"\r\n"


async def test_replies_that_are_held_do_not_hold_up_others_of_the_same_peer(tmp_path: Path) -> None:
    """On the wire: a ticket in the turn of the command, and the reply between two others."""
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[0].cluster_port) as peer:
        key, beside = cluster.keys(0)[0], cluster.keys(2)[0]
        assert await peer.ask("CACHECLUSTER", "HELLO", "2", PEER_TOKEN, "uid-0") == b"+OK pieces\r\n"
        peer.send(("SET", key, "x"))
        first = await peer.frame()
        while first.startswith(b"-CCGATE"):
            peer.send(("CACHECLUSTER", "RESUME", "0"), ("SET", key, "x"))
            assert await peer.frame() == b"+OK\r\n"
            first = await peer.frame()
        assert (first, await peer.frame()) == (b"-CCHELD 1\r\n", b">2\r\n:1\r\n+OK\r\n")
        with stopped(replica):
            peer.send(("SET", key, "y"), ("GET", key), ("GET", beside))
            replies = [await peer.frame()]
            while len(replies) < 3:
                reply = await peer.frame()
                if reply.startswith(b"-CCGATE 2"):
                    peer.send(("CACHECLUSTER", "RESUME", "2"), ("GET", beside))
                    assert await peer.frame() == b"+OK\r\n"
                else:
                    replies.append(reply)
            assert replies == [b"-CCHELD 2\r\n", b"$1\r\ny\r\n", b"$-1\r\n"]
            await silent(peer)
        assert await peer.frame() == b">2\r\n:2\r\n+OK\r\n"


async def test_a_router_that_stops_answers_what_it_holds(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica), conversation(cluster.pods[0].front) as client:
        with stopped(replica):
            client.send(("SET", cluster.keys(0)[0], "x"))
            await until_held(cluster)
            cluster.pods[0].workers[0].send_signal(signal.SIGTERM)
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 0: the router ended before every")


async def test_counters_are_exact_for_many_clients_at_once(tmp_path: Path) -> None:
    async with sync_cluster(tmp_path) as (cluster, replica):
        keys = cluster.keys(0, 20)
        acknowledged: dict[str, int] = {}

        async def count(number: int) -> None:
            async with cluster.pods[number % 2].client(protocol=2 + number % 2) as client:
                for _ in range(100):
                    acknowledged[keys[number]] = await client.incr(keys[number])

        await asyncio.gather(*(count(number) for number in range(20)))
        async with replica.client() as engine:
            found: list[bytes] = await redis.asyncio.Redis.mget(engine, keys)
        assert [int(value) for value in found] == [acknowledged[key] for key in keys] == [100] * 20


async def test_large_values_are_answered_and_told_when_the_required_replica_has_them(tmp_path: Path) -> None:
    """Those that the router passes on in pieces."""
    async with (
        sync_cluster(tmp_path, committedReads=True) as (cluster, replica),
        conversation(cluster.pods[0].front) as writer,
        conversation(cluster.pods[0].front) as reader,
    ):
        key = cluster.keys(0)[0]
        first, second = "x" * 20_000_000, "y" * 20_000_000
        assert await writer.ask("SET", key, first) == b"+OK\r\n"
        for _ in range(2):
            assert await reader.ask("GET", key) == b"$20000000\r\n%s\r\n" % first.encode()
        with stopped(replica):
            writer.send(("SET", key, second))
            await silent(writer)
            reader.send(("GET", key))
            await silent(reader)
        assert await writer.frame() == b"+OK\r\n"
        assert await reader.frame() == b"$20000000\r\n%s\r\n" % second.encode()
        async with replica.client() as engine:
            assert await engine.strlen(key) == 20_000_000
