"""The gate in a router: nothing passes a shut one, nothing is in flight when it is confirmed, deadlines bound all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.router_conversation import Conversation, conversation
from tests.unit.router_support import PEER_TOKEN, EngineServer, running_cluster

from cachecluster_core import gate_step

pytestmark = pytest.mark.t1


@contextlib.contextmanager
def stopped(process: EngineServer | subprocess.Popen[bytes]) -> Iterator[None]:
    """An engine or a router that does nothing within, so that the test decides when it goes on."""
    send = process.signal if isinstance(process, EngineServer) else process.send_signal
    send(signal.SIGSTOP)
    try:
        yield
    finally:
        send(signal.SIGCONT)


@pytest.mark.t0
def test_the_router_runs_the_shipped_gate_step_compiled() -> None:
    assert gate_step.__file__.endswith(".so"), "build it: python setup.py build_ext --inplace"
    assert gate_step.may_serve(3, 3, 7, 7, 100, 99)
    assert not gate_step.may_serve(2, 3, 7, 7, 100, 99)
    assert not gate_step.may_serve(3, 3, 0, 7, 100, 99)
    assert not gate_step.may_serve(3, 3, 6, 7, 100, 99)
    assert not gate_step.may_serve(3, 3, 7, 7, 100, 100)
    assert gate_step.may_release(100, 99) and not gate_step.may_release(100, 100)


async def test_a_new_router_confirms_every_gate_it_is_told(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        for pod in cluster.pods:
            for partition, gate in enumerate(pod.agent.gates):
                await pod.agent.confirmed(partition, gate.generation)


async def test_a_shut_gate_is_confirmed_when_what_is_in_flight_is_answered(tmp_path: Path) -> None:
    """The engine's answers and the shutting come to the router at once: it has no time to lose patience."""
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        await reached(client, key)
        with stopped(pod.copies[0]):
            client.send(("SET", key, "x"), ("GET", key))
            await busy(client, cluster.keys(2)[0])
            router = pod.workers[0]
            router.send_signal(signal.SIGSTOP)
        with stopped(router):
            await answered(pod.copies[0], key, b"x")
            generation = pod.agent.set_gate(0, epoch=0)
        await pod.agent.confirmed(0, generation)
        assert await client.frames(2) == [b"+OK\r\n", b"$1\r\nx\r\n"]


async def reached(client: Conversation, key: str) -> None:
    """The router has a connection to the key's engine: what comes next is sent there, not parked."""
    assert await client.ask("GET", key) == b"$-1\r\n"


async def answered(copy: EngineServer, key: str, value: bytes) -> None:
    """The engine has executed the write of this value, and what it answered is on its way."""
    async with copy.client() as engine:
        async with asyncio.timeout(10):
            while await engine.get(key) != value:
                pass
        await engine.ping()  # answers leave before the engine reads again


async def busy(client: Conversation, key: str) -> None:
    """Everything that this client sent before has left the router: a later tick has come."""
    async with conversation(client.writer.get_extra_info("peername")) as other:
        for _ in range(3):
            await other.ask("GET", key)


async def test_nothing_passes_while_the_record_is_newer_than_what_the_router_took_over(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        agent, key = cluster.pods[0].agent, cluster.keys(0)[0]
        generation = agent.set_gate(0, epoch=2, tell=False)
        client.send(("SET", key, "x"))
        with pytest.raises(TimeoutError):
            await client.frame(timeout_s=0.3)
        agent.tell({"gates": [[0, generation]]})
        assert await client.frame() == b"+OK\r\n"
        await agent.confirmed(0, generation)


async def test_nothing_passes_an_epoch_below_the_highest_seen(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        agent, key = cluster.pods[0].agent, cluster.keys(0)[0]
        agent.gates[0].seen_epoch = 5
        agent.write_gate(0)
        client.send(("SET", key, "x"))
        with pytest.raises(TimeoutError):
            await client.frame(timeout_s=0.3)
        agent.set_gate(0, epoch=5)
        assert await client.frame() == b"+OK\r\n"


async def test_commands_wait_when_authority_lapses_and_go_on_when_it_is_renewed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        agent, key = cluster.pods[0].agent, cluster.keys(0)[0]
        agent.set_deadline(0, -1)
        client.send(("SET", key, "x"))
        with pytest.raises(TimeoutError):
            await client.frame(timeout_s=0.3)
        agent.set_deadline(0, 10**12)
        assert await client.frame() == b"+OK\r\n"


async def test_a_reply_after_the_deadline_is_indeterminate_and_a_read_is_asked_again(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        agent, key = cluster.pods[0].agent, cluster.keys(0)[0]
        await reached(client, key)
        async with conversation(cluster.pods[0].front) as reader:
            with stopped(cluster.pods[0].copies[0]):
                client.send(("SET", key, "slow"))
                await busy(client, cluster.keys(2)[0])
                reader.send(("GET", key))
                await busy(client, cluster.keys(2)[0])
                agent.set_deadline(0, -1)
            reply = await client.frame()
            assert reply.startswith(
                b"-INDETERMINATE partition 0: the pod's authority ended after this command was sent"
            )
            with pytest.raises(TimeoutError):
                await reader.frame(timeout_s=0.2)
            agent.set_deadline(0, 10**12)
            assert await reader.frame() == b"$4\r\nslow\r\n"


async def test_a_late_read_is_not_asked_again_behind_a_write_of_its_client(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        agent, key = cluster.pods[0].agent, cluster.keys(0)[0]
        await reached(client, key)
        async with conversation(cluster.pods[0].front) as other:
            with stopped(cluster.pods[0].copies[0]):
                other.send(("SET", "{" + key + "}other", "slow"))
                await busy(client, cluster.keys(2)[0])
                client.send(("GET", key), ("SET", key, "slow"))
                await busy(client, cluster.keys(2)[0])
                agent.set_deadline(0, -1)
            assert [reply[:14] for reply in await client.frames(2)] == [b"-INDETERMINATE"] * 2


async def test_an_engine_that_hangs_does_not_hold_up_the_confirmation(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        pod, key = cluster.pods[0], cluster.keys(0)[0]
        assert await client.ask("SET", key, "x") == b"+OK\r\n"
        pod.copies[0].signal(signal.SIGSTOP)
        client.send(("SET", key, "y"))
        await busy(client, cluster.keys(2)[0])
        await pod.agent.confirmed(0, pod.agent.set_gate(0, epoch=0))
        reply = await client.frame()
        assert reply.startswith(b"-INDETERMINATE partition 0: the connection to the engine of partition 0 ended")


async def test_a_router_without_agent_serves_until_the_deadline(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        agent, key = cluster.pods[0].agent, cluster.keys(0)[0]
        await agent.stop()
        assert await client.ask("SET", key, "x") == b"+OK\r\n"
        agent.set_deadline(0, 500 * 10**6)
        async with asyncio.timeout(5):
            while True:
                client.send(("INCR", "{" + key + "}n"))
                try:
                    await client.frame(timeout_s=0.3)
                except TimeoutError:
                    break
        await agent.start()
        agent.set_deadline(0, 10**12)
        assert (await client.frame()).startswith(b":")


async def test_peers_are_told_which_gates_are_open(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].cluster_port) as peer:
        assert await peer.ask("CACHECLUSTER", "HELLO", "3", PEER_TOKEN, "uid-0") == b"+OK pieces\r\n"
        gates = (await peer.ask("CACHECLUSTER", "GATES")).split(b"\r\n")[2::2]
        assert [line.split()[:2] for line in gates] == [[b"0", b"1"], [b"2", b"1"]]
        assert all(3_000_000 < int(line.split()[2]) <= 3_600_000 for line in gates)
        await cluster.pods[0].agent.confirmed(2, cluster.pods[0].agent.set_gate(2, epoch=0))
        gates = (await peer.ask("CACHECLUSTER", "GATES")).split(b"\r\n")[2::2]
        assert [line.split()[0] for line in gates] == [b"0"]


async def test_a_refusal_is_sticky_for_the_peer_connection_until_resume(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].cluster_port) as peer:
        agent, key = cluster.pods[0].agent, cluster.keys(0)[0]
        other = cluster.keys(2)[0]
        await peer.ask("CACHECLUSTER", "HELLO", "2", PEER_TOKEN, "uid-0")
        while await peer.ask("SET", key, "0") != b"+OK\r\n":
            await peer.ask("CACHECLUSTER", "RESUME", "0")
        await agent.confirmed(0, agent.set_gate(0, epoch=0))
        assert await peer.ask("SET", key, "5") == b"-CCGATE 0\r\n"
        await agent.confirmed(0, agent.set_gate(0, epoch=2))
        assert await peer.ask("SET", key, "9") == b"-CCGATE 0\r\n"
        assert await peer.ask("SET", other, "x") in (b"+OK\r\n", b"-CCGATE 2\r\n")
        peer.send(("CACHECLUSTER", "RESUME", "0"), ("SET", key, "5"), ("SET", key, "9"), ("GET", key))
        assert await peer.frames(4) == [b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", b"$1\r\n9\r\n"]
        assert await peer.ask("GET", cluster.keys(1)[0]) == b"-CCGATE 1\r\n"


async def test_a_script_cannot_pass_its_error_off_as_a_refusal(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            reply = await client.ask("EVAL", "return redis.error_reply('CCGATE 1')", "1", key)
            assert reply == b"-ERR CCGATE 1\r\n"
            assert (await client.ask("GET", key)) == b"$-1\r\n"
