"""Commands that wait in an engine, and WATCH: through moves, losses and departures, on both ports and both engines."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.router_conversation import Conversation, conversation
from tests.unit.router_support import ENGINES, Cluster, Pod, running_cluster, until
from tests.unit.test_router_moves_and_parking import move

pytestmark = pytest.mark.t1

POPPED = b"*2\r\n$%d\r\n%s\r\n$1\r\nx\r\n"


def popped(key: str) -> bytes:
    return POPPED % (len(key), key.encode())


async def waiting(pod: Pod, partition: int, count: int = 1) -> None:
    """So many clients wait in the engine of this partition."""
    async with pod.copies[partition].client() as engine, asyncio.timeout(10):
        while int((await engine.info("clients"))["blocked_clients"]) != count:
            await engine.ping()


async def connected(pod: Pod, partition: int, connections: int) -> None:
    """The engine has so many connections of routers."""
    async with pod.copies[partition].client() as engine, asyncio.timeout(10):
        while True:
            found = [it for it in await engine.client_list() if it["user"] == "gate"]
            if len(found) == connections:
                return


@asynccontextmanager
async def ways(cluster: Cluster, partition: int) -> AsyncIterator[list[Conversation]]:
    """Connections to the front port of the owner, the front port of another pod, and the owner's cluster port."""
    owner = cluster.pod_of(partition)
    other = next(pod for pod in cluster.pods if pod is not owner)
    async with (
        conversation(owner.front) as local,
        conversation(other.front) as remote,
        conversation(owner.cluster_port) as aware,
    ):
        yield [local, remote, aware]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_client_waits_until_something_comes_and_others_do_not_wait_for_it(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine) as cluster:
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            async with ways(cluster, partition) as clients, conversation(cluster.pods[0].front) as other:
                for client in clients:
                    client.send(("SET", f"{{{key}}}s", "1"), ("BLPOP", key, "0"), ("GET", f"{{{key}}}s"))
                    assert await client.frame() == b"+OK\r\n"
                    await waiting(cluster.pod_of(partition), partition)
                    assert await other.ask("SET", f"{{{key}}}s", "2") == b"+OK\r\n"
                    assert await other.ask("LPUSH", key, "x") == b":1\r\n"
                    assert await client.frames(2) == [popped(key), b"$1\r\n2\r\n"]


async def test_many_wait_and_each_element_is_given_once(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        keys = [cluster.keys(partition)[0] for partition in range(4)]
        clients = [pod.client() for pod in cluster.pods for _ in range(10)]
        waits = [asyncio.create_task(client.blpop([keys[n % 4]], 10)) for n, client in enumerate(clients)]
        for partition in range(4):
            await waiting(cluster.pod_of(partition), partition, 5)
        async with cluster.pods[0].client() as pusher:
            for number in range(5):
                for key in keys:
                    await pusher.rpush(key, number)
        found = [(key.decode(), int(value)) for key, value in await asyncio.gather(*waits)]
        assert sorted(found) == sorted((key, number) for key in keys for number in range(5))
        for client in clients:
            await client.aclose()


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_waits_goes_on_at_the_new_primary_with_the_time_that_is_left(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=3) as cluster:
        key, other = cluster.keys(1)[0], cluster.keys(1, 2)[1]
        async with conversation(cluster.pods[0].front) as remote, conversation(cluster.pods[1].front) as local:
            stream = cluster.keys(1, 3)[2]
            began = time.monotonic()
            async with conversation(cluster.pods[2].front) as reader, conversation(cluster.pods[0].front) as brief:
                remote.send(("BLPOP", key, "0"))
                local.send(("BRPOP", other, "30"))
                reader.send(("XREAD", "BLOCK", "0", "STREAMS", stream, "0"))
                brief.send(("BLPOP", cluster.keys(1, 4)[3], "1.5"))
                await waiting(cluster.pods[1], 1, 4)
                for turn, pod in enumerate((2, 0, 1)):
                    await move(cluster, 1, pod, epoch=turn + 2)
                    await waiting(cluster.pods[pod], 1, 4)
                assert await brief.frame() == b"*-1\r\n"
                assert 1.4 < time.monotonic() - began < 4
                async with conversation(cluster.pods[0].front) as pusher:
                    await pusher.ask("LPUSH", key, "x")
                    await pusher.ask("LPUSH", other, "x")
                    await pusher.ask("XADD", stream, "1-1", "f", "v")
                assert [await remote.frame(), await local.frame()] == [popped(key), popped(other)]
                assert b"1-1" in await reader.frame()


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_crowd_that_waits_moves_without_an_error(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine) as cluster, AsyncExitStack() as stack:
        keys, crowd = cluster.keys(1, 150), []
        for number, key in enumerate(keys):
            client = await stack.enter_async_context(conversation(cluster.pods[number % 2].front))
            client.send(("BLPOP", key, "0"))
            crowd.append(client)
        await waiting(cluster.pods[1], 1, len(keys))
        for turn, pod in enumerate((0, 1)):
            await move(cluster, 1, pod, epoch=turn + 2)
            await waiting(cluster.pods[pod], 1, len(keys))
        async with conversation(cluster.pods[0].front) as pusher:
            for key in keys:
                await pusher.ask("LPUSH", key, "x")
        assert [await client.frame() for client in crowd] == [popped(key) for key in keys]


@pytest.mark.parametrize("partition", [0, 1])
async def test_a_move_long_after_the_one_before_gives_no_error_either(tmp_path: Path, partition: int) -> None:
    async with running_cluster(tmp_path, parkTimeoutMs=400, silenceMs=400) as cluster:
        key = cluster.keys(partition)[0]
        async with conversation(cluster.pods[0].front) as client:
            client.send(("BLPOP", key, "0"))
            await waiting(cluster.pod_of(partition), partition)
            for turn in range(3):
                await move(cluster, partition, (partition + turn + 1) % 2, epoch=turn + 2)
                await waiting(cluster.pod_of(partition), partition)
                with pytest.raises(TimeoutError):
                    await client.frame(timeout_s=0.5)
            async with conversation(cluster.pods[0].front) as pusher:
                await pusher.ask("LPUSH", key, "x")
            assert await client.frame() == popped(key)


async def test_a_shut_gate_is_not_asked_again_and_again_for_those_that_wait(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        pod, keys = cluster.pods[1], cluster.keys(1, 20)
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(conversation(cluster.pods[0].front)) for _ in keys]
            for client, key in zip(crowd, keys, strict=True):
                client.send(("BLPOP", key, "0"))
            await waiting(pod, 1, len(keys))
            before = (await pod.metrics())["errors"]["gated"]
            await pod.agent.confirmed(1, pod.agent.set_gate(1, epoch=0))
            with pytest.raises(TimeoutError):
                await crowd[0].frame(timeout_s=0.5)
            assert (await pod.metrics())["errors"]["gated"] - before < 200
            pod.agent.set_gate(1, epoch=2)
            await waiting(pod, 1, len(keys))


async def test_elements_pushed_through_moves_are_popped_once_in_order_without_an_error(tmp_path: Path) -> None:
    """The list moves empty: whatever was pushed has been popped, or is pushed at the new primary."""
    async with running_cluster(tmp_path, pods=3) as cluster:
        key, got, turns = cluster.keys(1)[0], [], 12

        async def work(where: tuple[str, int]) -> None:
            async with conversation(where) as client:
                while True:
                    reply = await client.ask("BLPOP", key, "0")
                    assert reply.startswith(b"*2\r\n"), reply
                    got.append(int(reply.split(b"\r\n")[4]))

        workers = [asyncio.create_task(work(pod.front)) for pod in cluster.pods for _ in range(2)]
        async with conversation(cluster.pods[0].front) as pusher:
            for turn in range(turns):
                for step in range(5):
                    assert (await pusher.ask("RPUSH", key, str(5 * turn + step)))[:1] == b":"
                await until(lambda turn=turn: len(got) == 5 * turn + 5)
                await move(cluster, 1, turn % 3, epoch=turn + 2)
        assert sorted(got) == list(range(5 * turns)) and not any(worker.done() for worker in workers)
        for worker in workers:
            worker.cancel()


async def test_a_client_that_goes_takes_nothing_with_it(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            for how in ("close", "write_eof"):
                async with conversation(cluster.pods[0].front) as client:
                    client.send(("BLPOP", key, "0"))
                    await waiting(cluster.pod_of(partition), partition)
                    getattr(client.writer, how)()
                    await waiting(cluster.pod_of(partition), partition, 0)
            async with conversation(cluster.pods[0].front) as other:
                assert await other.ask("LPUSH", key, "x") == b":1\r\n"
                assert await other.ask("LLEN", key) == b":1\r\n"


@pytest.mark.parametrize("partition", [0, 1])
async def test_a_client_that_goes_is_noticed_also_when_its_command_came_behind_another(
    tmp_path: Path, partition: int
) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        (key,), other = cluster.keys(partition), cluster.keys(1 - partition)[0]
        client.send(("SET", other, "1"), ("GET", other), ("BLPOP", key, "0"))
        await waiting(cluster.pod_of(partition), partition)
        client.writer.close()
        await waiting(cluster.pod_of(partition), partition, 0)


@pytest.mark.parametrize("partition", [0, 1])
async def test_a_wait_is_ended_also_in_the_moment_in_which_it_begins(tmp_path: Path, partition: int) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        number = (await client.ask("CLIENT", "ID"))[1:-2].decode()
        async with conversation(cluster.pods[0].front) as other:
            for key in cluster.keys(partition, 30):
                client.send(("BLPOP", key, "0"))
                while await other.ask("CLIENT", "UNBLOCK", number) == b":0\r\n":
                    pass
                assert await client.frame() == b"*-1\r\n"
            client.send(("BRPOPLPUSH", key, key, "0"))
            while await other.ask("CLIENT", "UNBLOCK", number) == b":0\r\n":
                pass
            assert await client.frame() == b"*-1\r\n"


@pytest.mark.parametrize("partition", [0, 1])
async def test_what_was_sent_while_a_client_waits_is_served_after_it(tmp_path: Path, partition: int) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(partition)[0]
        client.send(("BLPOP", key, "0.2"))
        await waiting(cluster.pod_of(partition), partition)
        big = "y" * 400_000
        client.send(("SET", key, big), ("STRLEN", key), ("BLPOP", cluster.keys(partition, 2)[1], "0.01"), ("PING",))
        replies = await client.frames(5)
        assert replies == [b"*-1\r\n", b"+OK\r\n", b":400000\r\n", b"*-1\r\n", b"+PONG\r\n"]


@pytest.mark.parametrize("partition", [0, 1])
async def test_client_unblock_ends_a_wait_as_if_its_time_were_over_or_with_an_error(
    tmp_path: Path, partition: int
) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(partition)[0]
        number = (await client.ask("CLIENT", "ID"))[1:-2].decode()
        async with conversation(cluster.pods[0].front) as other:
            assert await other.ask("CLIENT", "UNBLOCK", number) == b":0\r\n"
            for how, reply in (((), b"*-1\r\n"), (("ERROR",), b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")):
                client.send(("BLPOP", key, "0"))
                await waiting(cluster.pod_of(partition), partition)
                assert await other.ask("CLIENT", "UNBLOCK", number, *how) == b":1\r\n"
                assert await client.frame() == reply
            assert (await other.ask("CLIENT", "UNBLOCK", number, "SOON")).startswith(b"-ERR ")
            assert await client.ask("GET", key) == b"$-1\r\n"


async def test_a_wait_at_a_pod_that_dies_is_indeterminate_and_one_that_reads_goes_on(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        key, stream = cluster.keys(1, 2)
        async with conversation(cluster.pods[0].front) as client, conversation(cluster.pods[0].front) as reader:
            client.send(("BLPOP", key, "0"))
            reader.send(("XREAD", "BLOCK", "0", "STREAMS", stream, "0"))
            await waiting(cluster.pods[1], 1, 2)
            cluster.pods[1].workers[0].kill()
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 1")
            await cluster.pods[0].start_copy(1)
            cluster.primaries[1] = "uid-0"
            cluster.publish()
            cluster.pods[0].agent.set_gate(1, epoch=2)
            await waiting(cluster.pods[0], 1)
            assert (await client.ask("XADD", stream, "1-1", "f", "v")).startswith(b"$3")
            assert b"1-1" in await reader.frame()


@asynccontextmanager
async def one_that_waits(root: Path) -> AsyncIterator[tuple[Pod, str, Conversation]]:
    """A pod, a key of partition 0, which it leads, and a client that waits there for it."""
    async with running_cluster(root) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        client.send(("BLPOP", key, "0"))
        await waiting(pod, 0)
        yield pod, key, client


async def test_a_gate_is_confirmed_though_clients_wait_in_its_engine(tmp_path: Path) -> None:
    async with one_that_waits(tmp_path) as (pod, key, client):
        await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
        await waiting(pod, 0, 0)
        pod.agent.set_gate(0, epoch=2)
        await waiting(pod, 0)
        async with conversation(pod.front) as other:
            await other.ask("LPUSH", key, "x")
        assert await client.frame() == popped(key)


async def test_an_engine_that_hangs_with_a_client_waiting_is_cut_and_the_gate_confirmed(tmp_path: Path) -> None:
    async with one_that_waits(tmp_path) as (pod, _, client):
        pod.copies[0].signal(signal.SIGSTOP)
        try:
            await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
            assert (await client.frame()).startswith(b"-INDETERMINATE partition 0")
        finally:
            pod.copies[0].signal(signal.SIGCONT)


@pytest.mark.parametrize("how", ["dismissed", "stopped"])
@pytest.mark.parametrize("partition", [0, 1])
async def test_a_pod_that_goes_answers_those_that_wait_before_it_ends_their_connections(
    tmp_path: Path, partition: int, how: str
) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        client.send(("BLPOP", cluster.keys(partition)[0], "0"))
        await waiting(cluster.pod_of(partition), partition)
        if how == "dismissed":
            cluster.pods[0].agent.tell({"dismiss": 1})
        else:
            cluster.pods[0].workers[0].terminate()
        assert await client.frame() == b"*-1\r\n"
        assert await client.frame() == b""


async def test_a_watched_key_that_another_client_changed_stops_the_transaction(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            async with ways(cluster, partition) as clients, conversation(cluster.pods[1].front) as other:
                for client in clients:
                    for disturbed in (False, True):
                        assert await client.ask("WATCH", key) == b"+OK\r\n"
                        await client.ask("GET", key)
                        if disturbed:
                            await other.ask("INCR", key)
                        client.send(("MULTI",), ("INCR", key), ("EXEC",))
                        replies = await client.frames(3)
                        assert (replies[2] == b"*-1\r\n") is disturbed, replies


async def test_exec_executes_nothing_when_the_primary_has_changed_since_watch(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        key = cluster.keys(1)[0]
        async with conversation(cluster.pods[0].front) as one, conversation(cluster.pods[1].front) as two:
            for turn, pod in enumerate((0, 1, 0, 1)):
                for client in (one, two):
                    assert await client.ask("WATCH", key) == b"+OK\r\n"
                await move(cluster, 1, pod, epoch=turn + 2)
                await one.ask("SET", key, "0")
                for client in (one, two):
                    if turn > 1:
                        assert await client.ask("WATCH", key) == b"+OK\r\n", "what was watched before is not forgotten"
                    client.send(("MULTI",), ("INCR", key), ("EXEC",))
                    assert (await client.frames(3))[2] == b"*-1\r\n"
                    client.send(("WATCH", key), ("MULTI",), ("GET", key), ("EXEC",))
                    assert (await client.frames(4))[3] == b"*1\r\n$1\r\n0\r\n"


async def test_watch_takes_keys_of_one_slot_and_its_transaction_those_of_the_same(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        (key,), (other,) = cluster.keys(0), cluster.keys(1)
        assert (await client.ask("WATCH", key, other)).startswith(b"-CROSSSLOT ")
        assert await client.ask("WATCH", key) == b"+OK\r\n"
        assert (await client.ask("WATCH", other)).startswith(b"-CROSSSLOT ")
        client.send(("MULTI",), ("INCR", other), ("EXEC",), ("MULTI",), ("INCR", other), ("EXEC",))
        replies = await client.frames(6)
        assert replies[1].startswith(b"-CROSSSLOT ") and replies[2].startswith(b"-EXECABORT")
        assert replies[5] == b"*1\r\n:1\r\n"


@pytest.mark.parametrize("end", [("UNWATCH",), ("RESET",), ("MULTI", "DISCARD"), ("MULTI", "NONSENSE", "EXEC")])
async def test_what_ends_a_watch_closes_its_connection(tmp_path: Path, end: tuple[str, ...]) -> None:
    async with running_cluster(tmp_path) as cluster:
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            async with conversation(cluster.pods[0].front) as client:
                await client.ask("GET", key)
                await connected(cluster.pod_of(partition), partition, 1)
                await client.ask("WATCH", key)
                await connected(cluster.pod_of(partition), partition, 3)
                for word in end:
                    await client.ask(word)
                await connected(cluster.pod_of(partition), partition, 1)


async def test_redis_py_retries_a_transaction_that_was_disturbed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        key, turns = cluster.keys(1)[0], 20

        async def increment(pod: Pod) -> None:
            async with pod.client() as client:
                for _ in range(turns):

                    async def body(pipe: Any) -> None:
                        value = int(await pipe.get(key) or 0)
                        pipe.multi()
                        pipe.set(key, value + 1)

                    await client.transaction(body, key)

        await asyncio.gather(*(increment(pod) for pod in cluster.pods for _ in range(3)))
        async with cluster.pods[0].client() as client:
            assert int(await client.get(key)) == 6 * turns
