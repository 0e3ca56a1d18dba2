"""Routers during planned changes: patience with slow engines while a gate is handed over, and leaving without harm."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.unit.router_conversation import Conversation, conversation, request
from tests.unit.router_support import PEER_TOKEN, Cluster, FakeAgent, Pod, running_cluster, until

pytestmark = pytest.mark.t1


def shut(agent: FakeAgent, **more: bool) -> int:
    """Shut partition 0's gate, for a hand-over when told `patient`."""
    generation = agent.set_gate(0, epoch=0, tell=False)
    agent.tell({"gates": [[0, generation, more]]})
    return generation


async def in_flight(cluster: Cluster, client: Conversation) -> None:
    """The router has sent on what came before."""
    async with conversation(client.writer.get_extra_info("peername")) as other:
        for _ in range(3):
            await other.ask("GET", cluster.keys(2)[0])


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_gate_that_opens_again_before_it_was_confirmed_shut_loses_and_reorders_nothing(
    tmp_path: Path, workers: int
) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        for worker in range(1, workers):
            pod.start_router(worker)
        await until(lambda: pod.agent.registered == workers)
        agent, engine = pod.agent, pod.copies[0]
        assert await client.ask("SET", key, "0") == b"+OK\r\n"
        async with conversation(pod.front) as other:
            engine.signal(signal.SIGSTOP)
            client.send(("APPEND", key, "1"), ("APPEND", key, "2"))
            await in_flight(cluster, client)
            generation = shut(agent, patient=True)
            client.send(("APPEND", key, "3"))
            other.send(("GET", cluster.keys(2)[0]), ("APPEND", "{" + key + "}o", "x"))
            assert await other.frame() == b"$-1\r\n"
            await asyncio.sleep(0.6)  # twice what an engine is given at a gate that is shut without patience
            assert agent.confirms.count((0, generation)) < workers
            opened = agent.set_gate(0, epoch=1)
            await agent.confirmed(0, opened)
            client.send(("APPEND", key, "4"))
            await in_flight(cluster, client)
            engine.signal(signal.SIGCONT)
            assert await client.frames(4) == [b":%d\r\n" % length for length in (2, 3, 4, 5)]
            assert await client.ask("GET", key) == b"$5\r\n01234\r\n"
            assert await other.frame() == b":1\r\n"
        assert (await pod.metrics())["errors"]["indeterminate"] == 0


async def test_patience_ends_when_the_agent_says_so(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        assert await client.ask("SET", key, "0") == b"+OK\r\n"
        pod.copies[0].signal(signal.SIGSTOP)
        client.send(("SET", key, "1"))
        await in_flight(cluster, client)
        generation = shut(pod.agent, patient=True)
        with pytest.raises(TimeoutError):
            await client.frame(timeout_s=0.5)
        pod.agent.tell({"gates": [[0, generation]]})
        assert (await client.frame(timeout_s=3)).startswith(b"-INDETERMINATE")
        await pod.agent.confirmed(0, generation)


async def dismissed(pod: Pod) -> None:
    """The router says that its clients have gone."""
    async with asyncio.timeout(10):
        while "dismissed" not in await pod.agent.answers.get():
            pass


async def refused(where: tuple[str, int]) -> bool:
    try:
        _, writer = await asyncio.open_connection(*where)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_clients_are_dismissed_when_nothing_is_outstanding_and_no_later_command_is_executed(
    tmp_path: Path,
) -> None:
    async with running_cluster(tmp_path) as cluster:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        theirs = cluster.keys(1)[0]
        async with (
            conversation(pod.front) as quiet,
            conversation(pod.front) as waiting,
            conversation(pod.front) as busy,
            conversation(pod.cluster_port) as aware,
            conversation(pod.cluster_port) as peer,
        ):
            assert await quiet.ask("SET", key, "1") == b"+OK\r\n"
            assert await aware.ask("GET", key) == b"$1\r\n1\r\n"
            assert await peer.ask("CACHECLUSTER", "HELLO", "2", PEER_TOKEN, "uid-0") == b"+OK pieces\r\n"
            pod.agent.set_gate(0, epoch=0)
            waiting.send(("SET", key, "2"), ("GET", theirs))
            counting = asyncio.create_task(count_up(busy, theirs + "n", "{" + theirs + "}n"))
            await asyncio.sleep(0.05)
            pod.agent.tell({"dismiss": True})
            assert await quiet.frame() == b"" and await aware.frame() == b""
            await until(lambda: counting.done())
            assert await refused(pod.front)
            with pytest.raises(TimeoutError):
                await waiting.frame(timeout_s=0.3)
            pod.agent.set_gate(0, epoch=1)
            assert await waiting.frames(3) == [b"+OK\r\n", b"$-1\r\n", b""]
            await dismissed(pod)
            assert await peer.ask("PING") == b"+PONG\r\n"
            quiet.send(("SET", key, "too late"))
            await asyncio.sleep(0.05)
            async with cluster.pods[1].client() as client:
                assert await client.get(key) == b"2"
                assert int(await client.get("{" + theirs + "}n") or 0) == await counting
        assert not await refused(pod.cluster_port)


async def count_up(client: Conversation, name: str, key: str) -> int:
    """INCR, one after the other, until the connection ends; how many were answered."""
    count = 0
    while (reply := await client.ask("INCR", key)) == b":%d\r\n" % (count + 1):
        count += 1
    assert reply == b"", (name, reply)
    return count


async def test_a_dismissed_client_gets_all_replies_to_what_it_had_sent(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        router = pod.workers[0]
        await client.ask("SET", key, "0")
        router.send_signal(signal.SIGSTOP)
        client.send(*[("APPEND", key, "x")] * 5000)
        pod.agent.tell({"dismiss": True})
        router.send_signal(signal.SIGCONT)
        replies = await client.frames(5000)
        assert replies == [b":%d\r\n" % length for length in range(2, 5002)]
        assert await client.frame() == b""


async def test_a_dismissed_client_may_end_its_transaction(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        key = cluster.keys(0)[0]
        assert [await client.ask("MULTI"), await client.ask("INCR", key)] == [b"+OK\r\n", b"+QUEUED\r\n"]
        cluster.pods[0].agent.tell({"dismiss": True})
        with pytest.raises(TimeoutError):
            await client.frame(timeout_s=0.3)
        assert await client.ask("EXEC") == b"*1\r\n:1\r\n"
        assert await client.frame() == b""


async def test_term_answers_what_was_sent_and_ends_though_a_client_never_pauses(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod = cluster.pods[0]
        theirs = cluster.keys(1)[0]
        client.send(*[("INCR", theirs)] * 64)
        router = pod.workers[0]
        router.send_signal(signal.SIGTERM)
        loop, number = asyncio.get_running_loop(), 0
        began = loop.time()
        while True:
            reply = await client.frame()
            if reply != b":%d\r\n" % (number + 1):
                break
            number += 1
            client.writer.write(request("INCR", theirs))
        assert reply == b"" and number >= 64
        await until(lambda: router.poll() is not None, 3)
        assert loop.time() - began < 3.0 and router.returncode == 0
