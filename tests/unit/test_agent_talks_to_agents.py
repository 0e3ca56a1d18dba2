"""Hand-over messages and news between agents, without engines: resending, holding answers back, what counts as old."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.loopback import address, free_block
from tests.waiting import until

from cachecluster_core.agent_view import AgentDecision, GateChange, HandoverMessage, HandoverWord, PromiseAsk, TakenOver
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_core.pod_table import HandOver, Marks
from cachecluster_sidecar.agent.clock import boottime_ns
from cachecluster_sidecar.agent.gates import Gates
from cachecluster_sidecar.agent.handover import HandOvers
from cachecluster_sidecar.agent.handover_account import HandOverAccount
from cachecluster_sidecar.agent.handover_messages import (
    is_answered,
    message_from_json,
    message_to_json,
    news_from_json,
    news_to_json,
    word_from_json,
    word_to_json,
)
from cachecluster_sidecar.agent.peer_agents import ANSWER_S, PeerAgents
from cachecluster_sidecar.agent.promise_talk import PromiseTalk
from cachecluster_sidecar.agent.router_hub import GateNotice
from cachecluster_sidecar.agent.routes import build_routes
from cachecluster_sidecar.agent.table import PodTable
from cachecluster_sidecar.metrics import SidecarMetrics

pytestmark = pytest.mark.t0

PORT = 7380
LATE_S = ANSWER_S * 2
P, S, T = CopyId("pod-p", "1"), CopyId("pod-s", "2"), CopyId("pod-t", "3")
MOVING = Entry(4, State.MOVING, primary=P, isr=(P, S), learners=("pod-t",), successor=S, term=2)
STABLE = replace(MOVING, state=State.STABLE, successor=None)
READY = HandoverMessage(0, 4, P, S)
AT = replace(READY, offset=100, replid="r")
TOKEN = replace(AT, token=True, required=(P, S))
WORD = HandoverWord(S, 4, 100, True, 0)


class Peer:
    """The agent of another pod: answers as it was told, and writes down what it heard."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[tuple[int, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, PORT).start()

    async def stop(self) -> None:
        self.gate.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        self.heard.append((request.path, json.loads(await request.read())))
        await self.gate.wait()
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0] if self.answers else (200, {})
        return web.json_response(body, status=status)

    @property
    def messages(self) -> list[HandoverMessage]:
        return [message_from_json(body) for path, body in self.heard if path == "/v1/handover"]


class Here:
    """The hand-overs of one agent, with what it was told about."""

    def __init__(self, pod: str, ring: HashRing) -> None:
        self.changes = self.news = 0
        self.asked: list[HandoverMessage] = []
        self.handovers = HandOvers(pod, PeerAgents("secret", PORT), self._changed, self._news, self.asked.append)
        self.handovers.use_map(ring)

    def _changed(self, partition: int) -> None:
        self.changes += 1

    def _news(self) -> None:
        self.news += 1

    def decide(self, *messages: HandoverMessage, **decision: Any) -> None:
        self.handovers.carry_out(AgentDecision(messages=messages, **decision))


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    block = free_block(PORT)
    yield [address(block, number) for number in range(3)]


@pytest.fixture
def ring(hosts: list[str]) -> HashRing:
    members = tuple((uid, Member(uid, host)) for uid, host in zip(("pod-p", "pod-s", "pod-t"), hosts, strict=True))
    return HashRing("demo", members, (MOVING,))


@pytest.fixture
async def here(ring: HashRing) -> AsyncIterator[Here]:
    """The primary's agent."""
    made = Here("pod-p", ring)
    yield made
    await made.handovers.close()


@asynccontextmanager
async def running(*peers: Peer) -> AsyncIterator[None]:
    for peer in peers:
        await peer.start()
    try:
        yield
    finally:
        for peer in peers:
            await peer.stop()


async def test_a_message_is_said_again_after_a_refused_connection_and_after_errors_until_it_is_answered(
    here: Here, hosts: list[str]
) -> None:
    peer = Peer(hosts[1])
    peer.answers = [(409, {"error": "another pod"}), (404, {}), (200, {"nonsense": 1}), (200, word_to_json(WORD))]
    here.decide(READY)
    await asyncio.sleep(0.1)
    assert here.handovers.busy and not here.handovers.words
    async with running(peer):
        await until(lambda: here.handovers.words)
        assert here.handovers.words == {0: WORD} and here.changes == 1
        assert peer.messages == [READY] * 4
        here.decide()
        count = len(peer.heard)
        await asyncio.sleep(0.1)
        assert len(peer.heard) == count and not here.handovers.busy, "it is said no more once the step wants it no more"


async def test_a_newer_message_takes_the_place_of_one_that_is_not_answered(here: Here, hosts: list[str]) -> None:
    peer = Peer(hosts[1])
    peer.answers = [(200, word_to_json(WORD))]
    async with running(peer):
        peer.gate.clear()
        here.decide(READY)
        await until(lambda: len(peer.messages) == 1)
        here.decide(READY)
        here.decide(AT)
        await until(lambda: len(peer.messages) == 2)
        assert peer.messages == [READY, AT]


async def test_a_silent_successor_is_asked_again_within_its_time(here: Here, hosts: list[str]) -> None:
    peer = Peer(hosts[1])
    async with running(peer):
        peer.gate.clear()
        here.decide(READY)
        began = asyncio.get_running_loop().time()
        await until(lambda: len(peer.messages) == 3)
        assert 0.55 < asyncio.get_running_loop().time() - began < 2.0


async def test_the_answer_to_a_token_is_news_and_a_late_answer_of_another_epoch_is_nothing(
    here: Here, hosts: list[str], ring: HashRing
) -> None:
    peer = Peer(hosts[1])
    peer.answers = [(200, word_to_json(replace(WORD, taken_over_epoch=4)))]
    async with running(peer):
        here.decide(TOKEN)
        await until(lambda: here.news)
        assert here.handovers.taken_over == {0: TakenOver(4, S)}
        stable = MOVING.changed(state=State.STABLE, primary=S, successor=None, term=5)
        here.handovers.use_map(replace(ring, entries=(stable,)))
        assert not here.handovers.taken_over and not here.handovers.words
        await until(lambda: len(peer.messages) > 3)
        assert not here.handovers.taken_over and not here.handovers.words


async def test_an_answer_waits_for_the_step_that_makes_it_true(ring: HashRing) -> None:
    here = Here("pod-s", ring)
    waiting = asyncio.create_task(here.handovers.answer(AT))
    await until(lambda: here.asked)
    assert here.handovers.asked == {0: AT} and here.changes == 1
    here.decide(answers={0: replace(WORD, offset=99)})
    await asyncio.sleep(0.02)
    assert not waiting.done()
    here.decide(answers={0: WORD})
    async with asyncio.timeout(0.05):
        assert await waiting == WORD
    began = asyncio.get_running_loop().time()
    assert await here.handovers.answer(TOKEN) == WORD, "what is then"
    assert 0.09 < asyncio.get_running_loop().time() - began < 0.5
    here.decide()
    assert await here.handovers.answer(replace(READY, partition=3)) is None
    await here.handovers.close()


async def test_a_message_that_was_overtaken_hides_no_token_and_old_ones_are_forgotten(ring: HashRing) -> None:
    here = Here("pod-s", ring)
    here.decide(answers={0: WORD})
    newer = replace(READY, epoch=6)
    for message, kept in ((TOKEN, TOKEN), (READY, TOKEN), (AT, TOKEN), (newer, newer), (TOKEN, newer)):
        await asyncio.gather(here.handovers.answer(message))
        assert here.handovers.asked[0] == kept
    assert here.handovers.is_ahead(0, 6) and not here.handovers.is_ahead(0, 4) and here.handovers.is_ahead(9, 1)
    here.handovers.use_map(ring)
    assert here.handovers.asked == {0: newer}, "the map of a newer message is still to be read"
    stable = replace(MOVING, epoch=6, state=State.STABLE, successor=None)
    here.handovers.use_map(replace(ring, entries=(stable,)))
    assert not here.handovers.asked
    await here.handovers.close()


async def test_news_is_told_once_to_everybody_else_and_again_where_nobody_listened(
    ring: HashRing, hosts: list[str]
) -> None:
    here = Here("pod-s", ring)
    primary, other = Peer(hosts[0]), Peer(hosts[2])
    try:
        async with running(primary):
            for _ in range(3):
                here.decide(news={0: TakenOver(4, S)})
            assert here.news == 1 and here.handovers.taken_over == {0: TakenOver(4, S)}
            await until(lambda: primary.heard)
            async with running(other):
                await until(lambda: other.heard)
                await asyncio.sleep(0.1)
                (path, body), *more = primary.heard
                assert path == "/v1/taken-over" and news_from_json(body) == {0: TakenOver(4, S)} and not more
                assert len(other.heard) == 1
    finally:
        await here.handovers.close()


async def test_news_below_the_map_or_against_it_is_ignored_and_routes_follow_the_rest(ring: HashRing) -> None:
    here = Here("pod-t", ring)

    def routes() -> tuple[list[str | None], list[list[str]]]:
        made = build_routes(ring, "pod-t", 7379, {}, "", here.handovers.taken_over)
        return made["primaries"], made["replicas"]

    for news in (TakenOver(3, S), TakenOver(4, T), TakenOver(4, P)):
        here.handovers.take_news(0, news)
        assert not here.handovers.taken_over and routes() == (["pod-p"], [["pod-s"]])
    here.handovers.take_news(0, TakenOver(4, S))
    assert here.news == 1 and routes() == (["pod-s"], [["pod-p"]])
    here.handovers.take_news(0, TakenOver(4, S))
    here.handovers.take_news(0, TakenOver(7, T))
    assert here.news == 2 and routes()[0] == ["pod-t"]
    await here.handovers.close()


def routes_with(leaving: set[CopyId], *entries: Entry, seen_by: str = "pod-p") -> dict[str, Any]:
    members = tuple((copy.pod, Member(copy.pod, "10.0.0.1", leaving=copy in leaving)) for copy in (P, S, T))
    return build_routes(HashRing("demo", members, entries), seen_by, 7379, {}, "", {})


def test_clients_do_not_learn_of_pods_that_will_go_where_one_stays() -> None:
    made = routes_with({S}, STABLE, replace(STABLE, primary=S), replace(STABLE, primary=S, isr=(S,)))
    assert made["primaries"] == ["pod-p", "pod-s", "pod-s"]
    assert made["replicas"] == [[], ["pod-p"], []]
    assert made["announced"] == ["pod-p", "pod-p", "pod-s"], "the learner on pod-t could not lead"
    assert made["inSync"] == [2, 2, 1], "they hold and acknowledge writes until they are gone"
    assert {uid: member["leaving"] for uid, member in made["members"].items()} == {
        "pod-p": False,
        "pod-s": True,
        "pod-t": False,
    }


def test_a_pod_that_clients_know_stands_in_rather_than_one_that_leads_nothing() -> None:
    led_by_s = replace(STABLE, primary=S, isr=(P, S, T))
    assert routes_with({S}, led_by_s, led_by_s)["announced"] == ["pod-p", "pod-t"], "the load is shared"
    assert routes_with({S}, led_by_s, replace(led_by_s, primary=T))["announced"] == ["pod-t", "pod-t"]
    assert routes_with({S, P}, led_by_s, led_by_s)["announced"] == ["pod-t", "pod-t"]
    assert routes_with({S, P, T}, led_by_s)["announced"] == ["pod-s"]


def test_every_in_sync_copy_takes_the_commands_of_a_leaving_primary() -> None:
    entries = STABLE, replace(STABLE, primary=S), replace(STABLE, primary=None, state=State.ELECTING)
    for pod, takes in (("pod-p", [False, True, False]), ("pod-t", [False, False, False])):
        assert routes_with({S}, *entries, seen_by=pod)["standsIn"] == takes
    assert routes_with({S, P}, *entries, seen_by="pod-p")["standsIn"] == [True, True, False]


class Hub:
    """What gates need of a router hub."""

    def __init__(self) -> None:
        self.said: list[list[GateNotice]] = []

    def announce(self, gates: list[GateNotice]) -> None:
        self.said.append(gates)

    def confirmed(self, partition: int, generation: int) -> bool:
        return False


def test_routers_are_patient_exactly_while_a_gate_is_shut_for_a_hand_over(tmp_path: Any) -> None:
    table, hub, gates = PodTable.open(tmp_path / "t", 2, "b" * 36), Hub(), Gates()
    gates.use_table(table, {}, frozenset())
    gates.use_hub(hub)  # type: ignore[arg-type]
    gates.change([GateChange(0, 3, 3, 9, True), GateChange(1, 3, 3, 9, True)])
    gates.change([GateChange(0, 4, 0, 9, True, patient=True), GateChange(1, 4, 0, 9, True)])
    assert hub.said == [[(0, 1), (1, 1)], [(0, 2, {"patient": True}), (1, 2)]]
    assert gates.notices() == [(0, 2, {"patient": True}), (1, 2)]
    gates.be_patient(frozenset({0}))
    assert len(hub.said) == 2
    gates.be_patient(frozenset())
    assert hub.said[2:] == [[(0, 2)]] and gates.notices() == [(0, 2), (1, 2)]
    gates.change([GateChange(0, 4, 4, 9, True)])
    gates.change([GateChange(0, 5, 0, 9, True, patient=True)])
    gates.change([GateChange(0, 5, 5, 9, True)])
    gates.be_patient(frozenset())
    assert hub.said[3:] == [[(0, 3)], [(0, 4, {"patient": True})], [(0, 5)]]
    table.close()


def test_routers_are_told_the_required_set_with_the_generation_of_every_open_gate(tmp_path: Any) -> None:
    table, hub, gates = PodTable.open(tmp_path / "t", 2, "b" * 36), Hub(), Gates()
    marks = {0: Marks(required_epoch=3, required=(P, S)), 1: Marks(required_epoch=2, required=(P,))}
    gates.use_table(table, marks, frozenset())
    gates.use_hub(hub)  # type: ignore[arg-type]
    gates.change([GateChange(0, 3, 3, 9, True), GateChange(1, 3, 3, 9, True)])
    told = (0, 1, {"required": [str(P), str(S)]})
    assert hub.said == [[told, (1, 1)]] and gates.notices() == [told, (1, 1)]
    marks[0] = Marks(required_epoch=4, required=(P,))
    gates.change([GateChange(0, 4, 4, 9, True)])
    gates.change([GateChange(0, 5, 0, 9, True)])
    assert hub.said[1:] == [[(0, 2, {"required": [str(P)]})], [(0, 3)]]
    table.close()


def test_hand_overs_are_counted_at_the_primary_by_word_or_by_the_map(ring: HashRing) -> None:
    metrics = SidecarMetrics("ns", "demo", "demo-0")
    account = HandOverAccount("pod-p", metrics)
    sent = Marks(hand_over=HandOver(4, 1, 1_000_000_000, 100))
    account.marks_changed(0, sent, sent)
    account.settle(ring, {0: TakenOver(4, S)}, 2_000_000_000)
    account.marks_changed(0, Marks(), sent)
    account.settle(ring, {}, 2_000_000_000)
    account.settle(ring, {0: TakenOver(4, S)}, 1_004_000_000)
    account.settle(ring, {0: TakenOver(4, S)}, 3_000_000_000)
    account.marks_changed(0, Marks(), sent)
    account.settle(replace(ring, entries=(MOVING.changed(state=State.STABLE, primary=S, successor=None),)), {}, 1 << 40)
    account.marks_changed(0, Marks(), sent)
    electing = MOVING.changed(state=State.ELECTING, primary=None, successor=None)
    account.settle(replace(ring, entries=(electing,)), {}, 1 << 40)
    account.marks_changed(0, Marks(), Marks(hand_over=HandOver(6, 1, 1, gave_up=True)))
    assert metrics._handovers_done._value.get() == 2.0
    assert metrics._handovers_given_up._value.get() == 1.0


copies = st.builds(
    CopyId, st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True), st.from_regex(r"[0-9a-f]{40}", fullmatch=True)
)
numbers = st.integers(1, (1 << 63) - 1)


@given(
    st.builds(
        HandoverMessage,
        st.integers(0, 511),
        numbers,
        copies,
        copies,
        numbers,
        st.text(max_size=40),
        st.booleans(),
        st.lists(copies, max_size=8).map(tuple),
    )
)
def test_messages_survive_json(message: HandoverMessage) -> None:
    assert message_from_json(json.loads(json.dumps(message_to_json(message)))) == message


@given(st.builds(HandoverWord, copies, numbers, numbers, st.booleans(), numbers), copies)
def test_words_and_news_survive_json(word: HandoverWord, copy: CopyId) -> None:
    assert word_from_json(json.loads(json.dumps(word_to_json(word)))) == word
    news = {3: TakenOver(word.epoch, copy)}
    assert news_from_json(json.loads(json.dumps(news_to_json(news)))) == news


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"partition": 512}, "partition"),
        ({"partition": True}, "partition"),
        ({"epoch": 0}, "epoch"),
        ({"offset": -2}, "offset"),
        ({"offset": 1 << 63}, "offset"),
        ({"primary": "x"}, "not a copy id"),
        ({"successor": "a." + "b" * 200}, "at most 200"),
        ({"required": ["a.b"] * 65}, "required"),
        ({"required": [3]}, "at most 200"),
        ({"token": 1}, "token"),
        ({"token": True, "offset": -1}, "without an offset"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        message_from_json(message_to_json(AT) | change)


@pytest.mark.parametrize("data", [{}, [], {"news": []}, {"news": {"x": {}}}, {"news": {"512": {}}}, {"news": {"1": 3}}])
def test_news_that_makes_no_sense_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        news_from_json(data)


@pytest.mark.parametrize(
    ("message", "word", "answered"),
    [
        (READY, WORD, True),
        (READY, replace(WORD, following=False), False),
        (READY, replace(WORD, epoch=3), False),
        (READY, replace(WORD, epoch=5, following=False), True),
        (READY, replace(WORD, copy=T, following=False), True),
        (AT, WORD, True),
        (AT, replace(WORD, offset=99), False),
        (AT, replace(WORD, epoch=3), False),
        (TOKEN, WORD, False),
        (TOKEN, replace(WORD, taken_over_epoch=4), True),
        (TOKEN, replace(WORD, epoch=5), True),
    ],
)
def test_what_answers_a_message(message: HandoverMessage, word: HandoverWord, answered: bool) -> None:
    assert is_answered(message, word) is answered


async def test_a_promise_that_comes_late_counts_from_before_it_was_asked_for(ring: HashRing, hosts: list[str]) -> None:
    peer, promised = Peer(hosts[1]), asyncio.Event()
    peer.answers = [(200, {"promised": [0]})]
    peer.gate.clear()
    async with running(peer):
        peers = PeerAgents("secret", PORT)
        talk = PromiseTalk("pod-p", peers, promised.set)
        before = boottime_ns()
        talk.carry_out({"pod-s": {0: PromiseAsk(MOVING.epoch, 3.0)}}, ring)
        asyncio.get_running_loop().call_later(LATE_S, peer.gate.set)
        async with asyncio.timeout(5):
            await promised.wait()
        promise = talk.promises[0]["pod-s"]
        assert promise.epoch == MOVING.epoch
        assert before <= promise.asked_at_ns < before + LATE_S * 1e9
        await talk.close()
        await peers.close()
