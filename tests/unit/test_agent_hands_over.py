"""Hand-overs between whole agents: real HTTP, routers and engines, under maps written by hand."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.unit.agent_process import AGENT, CLIENT, METRICS, NAME, AgentProcess, running_agents
from tests.unit.agent_support import ENGINES
from tests.unit.router_conversation import Conversation, conversation
from tests.waiting import until

from cachecluster_core.agent_view import HandoverMessage
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_local.processes import is_alive
from cachecluster_sidecar.agent.handover_messages import message_to_json

pytestmark = pytest.mark.t1


@dataclass
class Pair:
    """Partition 0 of one, primary on the first pod, in-sync replica on the second."""

    primary: AgentProcess
    successor: AgentProcess
    entry: Entry = field(default_factory=Entry)

    def copy(self, pod: AgentProcess) -> CopyId:
        return CopyId(pod.uid, pod.copy().run_id)

    async def write(self, entry: Entry, **settings: Any) -> None:
        """Make this the map's only entry."""
        pods = (self.primary, self.successor)
        members = tuple((pod.uid, Member(pod.name, pod.host)) for pod in pods)
        store = self.primary.store
        ring = store.current or HashRing(NAME, members=members, settings=Settings(engine=self.primary.kind))
        ring = replace(ring, entries=(entry,), settings=replace(ring.settings, **settings))
        await (store.replace(ring) if store.current is not None else store.create(ring))
        self.entry = entry

    async def settle(self, **settings: Any) -> None:
        """From nothing to two in-sync copies at epoch 3."""
        pods = (self.primary, self.successor)
        await self.write(Entry(learners=tuple(pod.uid for pod in pods)), **settings)
        for pod in pods:
            await pod.reported(lambda copy: copy.run_id and copy.born_epoch == 1, seconds=20)
        me, other = map(self.copy, pods)
        stable = Entry(2, State.STABLE, primary=me, isr=(me,), learners=(other.pod,), term=2)
        await self.write(stable)
        await self.primary.reported(lambda copy: other in copy.required, seconds=20)
        await self.write(stable.changed(isr=tuple(sorted((me, other))), learners=()))
        await self.primary.reported(lambda copy: copy.required_epoch == 3 and copy.gate_epoch == 3)
        await self.successor.reported(lambda copy: copy.link_up and copy.epoch == 3)

    async def move(self) -> Entry:
        """Order the hand-over, at epoch 4."""
        successor = self.entry.copy_on(self.successor.uid)
        await self.write(self.entry.changed(state=State.MOVING, successor=successor))
        return self.entry

    async def ask(self, body: Any, pod: AgentProcess | None = None) -> tuple[int, Any]:
        """POST a hand-over message to an agent."""
        pod = pod or self.successor
        url = f"http://{pod.host}:{AGENT}/v1/handover"
        async with aiohttp.ClientSession() as session:
            data = {"data": body} if isinstance(body, bytes) else {"json": body}
            async with session.post(url, headers=pod.headers, **data) as response:
                return response.status, await response.json() if response.status != 413 else None


@pytest.fixture(params=ENGINES)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with running_agents(request.param, tmp_path, 2, "--drain-accept", "0.5") as (first, second):
        yield Pair(first, second)


@pytest.fixture
async def valkeys(tmp_path: Path) -> AsyncIterator[Pair]:
    async with running_agents("valkey", tmp_path, 2, "--drain-accept", "0.5") as (first, second):
        yield Pair(first, second)


@contextlib.asynccontextmanager
async def counting(*pods: AgentProcess) -> AsyncIterator[list[bytes]]:
    """A client of each pod counts up, one command after the other; yields the replies that were not the next number."""
    wrong: list[bytes] = []
    counts = dict.fromkeys((pod.uid for pod in pods), 0)
    done = asyncio.Event()

    async def count(pod: AgentProcess) -> None:
        async with conversation((pod.host, CLIENT)) as client:
            while not done.is_set():
                reply = await client.ask("INCR", "{n}" + pod.uid)
                counts[pod.uid] += 1
                if reply != b":%d\r\n" % counts[pod.uid]:
                    wrong.append(reply)

    async def go_on() -> None:
        before = dict(counts)
        await until(lambda: all(counts[uid] > before[uid] + 20 for uid in counts))

    tasks = [asyncio.create_task(count(pod)) for pod in pods]
    await go_on()
    yield wrong
    await go_on()
    done.set()
    await asyncio.gather(*tasks)


async def test_a_partition_is_handed_over_without_an_error_and_is_served_before_the_map_says_so(pair: Pair) -> None:
    await pair.settle()
    async with counting(pair.primary, pair.successor) as errors:
        moving = await pair.move()
        await pair.successor.reported(lambda copy: copy.gate_epoch == 4)
        assert pair.successor.copy().taken_over_epoch == 4
        await pair.primary.reported(lambda copy: copy.link_up and copy.role == "slave")
        assert pair.primary.store.current is not None and pair.primary.store.current.entries == (moving,)
    assert not errors
    assert await pair.primary.command("SET", "{n}later", "1") == b"+OK"
    await pair.write(moving.changed(state=State.STABLE, primary=moving.successor, successor=None, term=5))
    await pair.successor.reported(lambda copy: copy.gate_epoch == 5 and not copy.lagging)
    assert await pair.primary.command("GET", "{n}later") == b"1"
    page = (await pair.primary.get("/metrics", METRICS))[1]
    assert 'result="done"} 1.0' in page and 'result="given_up"} 0.0' in page
    assert "cachecluster_handover_seconds_count" in page


async def test_a_script_that_takes_longer_postpones_the_move_and_is_answered(pair: Pair) -> None:
    await pair.settle()
    script = "local n = 0; for i = 1, ARGV[1] do n = n + #tostring(i) end; return redis.call('INCR', KEYS[1])"
    async with conversation((pair.primary.host, CLIENT)) as client:
        rounds = await rounds_of(client, script, 0.8)
        client.send(("EVAL", script, "1", "{n}s", str(rounds)))
        await asyncio.sleep(0.05)
        await pair.move()
        await pair.primary.reported(lambda copy: copy.gave_up_epoch == 4)
        client.send(("SET", "{n}s", "x"), ("GET", "{n}s"))
        replies = await client.frames(3)
        assert replies[0].startswith(b":") and replies[1:] == [b"+OK\r\n", b"$1\r\nx\r\n"]
    await pair.primary.reported(lambda copy: copy.gate_epoch == 4 and copy.role == "master")
    assert pair.successor.copy().taken_over_epoch == 0
    assert 'result="given_up"} 1.0' in (await pair.primary.get("/metrics", METRICS))[1]


async def rounds_of(client: Conversation, script: str, seconds: float) -> int:
    """How many rounds of the script take so long here."""
    loop = asyncio.get_running_loop()
    rounds = 100_000
    while True:
        began = loop.time()
        await client.ask("EVAL", script, "1", "{n}s", str(rounds))
        took = loop.time() - began
        if took > 0.1:
            return round(rounds * seconds / took)
        rounds *= 2


async def test_messages_are_answered_by_the_pod_they_name_and_a_token_as_often_as_it_comes(valkeys: Pair) -> None:
    pair = valkeys
    await pair.settle()
    me, other = pair.copy(pair.primary), pair.copy(pair.successor)
    message = message_to_json(HandoverMessage(0, 4, me, other))
    status, answer = await pair.ask(message, pair.primary)
    assert status == 409 and answer["uid"] == pair.primary.uid
    assert (await pair.ask(message_to_json(HandoverMessage(7, 4, me, other))))[0] == 404
    for wrong in ({}, {"epoch": 0}, {"successor": "no dot"}, {"offset": "1"}, {"required": ["a.b"] * 100}, []):
        body = message | wrong if isinstance(wrong, dict) and wrong else wrong
        assert (await pair.ask(body))[0] == 400, wrong
    assert (await pair.ask(b"{" * 100))[0] == 400
    assert (await pair.ask(b" " * 100_000))[0] == 413
    assert (await pair.ask(message | {"epoch": 3}))[1]["word"]["following"] is True
    moving = await pair.move()
    await pair.successor.reported(lambda copy: copy.gate_epoch == 4)
    token = message_to_json(HandoverMessage(0, 4, me, other, 10, "x", True, (me, other)))
    for _ in range(2):
        status, answer = await pair.ask(token)
        assert status == 200 and answer["word"]["takenOverEpoch"] == 4 and answer["word"]["copy"] == str(other)
    await pair.write(moving.changed(state=State.STABLE, primary=moving.successor, successor=None, term=5))
    await pair.successor.reported(lambda copy: copy.gate_epoch == 5)
    status, answer = await pair.ask(token)
    assert status == 200 and answer["word"]["epoch"] == 5


async def test_a_successor_whose_agent_ends_and_comes_back_leaves_one_primary_that_serves(valkeys: Pair) -> None:
    pair = valkeys
    await pair.settle()
    pair.successor.kill()
    pair.successor.report = None
    pair.successor.start()
    await pair.move()
    await pair.primary.reported(lambda copy: copy.gave_up_epoch == 4 or copy.role == "slave", seconds=20)
    await pair.successor.reported(lambda copy: copy.epoch == 4, seconds=20)
    both = (pair.primary.copy(), pair.successor.copy())
    assert sum(copy.gate_epoch == 4 for copy in both) <= 1
    assert await pair.primary.command("SET", "{n}k", "1") == b"+OK"


async def test_a_pod_that_ends_after_a_hand_over_closes_no_connection_with_a_command_outstanding(
    valkeys: Pair,
) -> None:
    pair = valkeys
    await pair.settle()
    async with conversation((pair.primary.host, CLIENT)) as quiet, conversation((pair.primary.host, CLIENT)) as busy:
        assert await quiet.ask("SET", "{n}q", "1") == b"+OK\r\n"
        await pair.move()
        await pair.successor.reported(lambda copy: copy.gate_epoch == 4)
        agent = pair.primary.process
        assert agent is not None
        routers = pair.primary.router_pids()
        ending = asyncio.create_task(asyncio.to_thread(agent.wait, 20))
        agent.send_signal(signal.SIGTERM)
        await until(lambda: pair.primary.report is not None and pair.primary.report.draining)
        assert (await pair.primary.get("/readyz", METRICS))[0] == 503
        async with conversation((pair.primary.host, CLIENT)) as late:
            assert await late.ask("GET", "{n}q") == b"$1\r\n1\r\n", "clients are taken while Services still send them"
        count = 0
        while (reply := await busy.ask("INCR", "{n}busy")) == b":%d\r\n" % (count + 1):
            count += 1
        assert reply == b"" and count > 0
        assert await quiet.frame() == b""
        assert await pair.successor.command("GET", "{n}busy") == b"%d" % count
        await until(lambda: not any(is_alive(pid) for pid in routers))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(pair.primary.host, CLIENT)
        assert agent.poll() is None, "its address still answers, by refusing"
        assert await ending == 0
        assert not any(is_alive(pid) for pid in routers)
