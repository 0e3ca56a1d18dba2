"""The control loop against fake agents on loopback: who is heard, who is suspected, and what decisions wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.loopback import address, free_block
from tests.waiting import until

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.operator_view import CreatePod, Event, OperatorDecision, OperatorView, Pod, PodView, Suspicion
from cachecluster_core.report import CopyReport, Process, Report
from cachecluster_local.map_store import MemoryMapStore
from cachecluster_operator.control import ControlLoop
from cachecluster_operator.ports import StoreUnavailable
from cachecluster_operator.snapshot import ClusterSnapshot, Desired

pytestmark = pytest.mark.t0

AGENT_PORT, CLUSTER_PORT = 7380, 7379
TOKEN = "a token"


class FakeAgent:
    """An agent's stream: reports on demand or by itself, notes hints, answers probes as told."""

    def __init__(self, uid: str, host: str) -> None:
        self.uid, self.host = uid, host
        self.report = Report(uid, "first", copies={0: CopyReport(Process.UP, run_id="r", epoch=1)})
        self.hints: list[str] = []
        self.probe_answers: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.mute = False
        self._sockets: set[web.WebSocketResponse] = set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/stream", self._stream)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, AGENT_PORT, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            for socket in list(self._sockets):
                await socket.close()
            await self._runner.cleanup()
            self._runner = None

    async def send(self, report: Report) -> None:
        self.report = report
        for socket in self._sockets:
            await socket.send_json({"report": report.to_json()})

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.add(socket)
        reports = asyncio.create_task(self._report(socket))
        async for message in socket:
            data = message.json()
            if "hint" in data:
                self.hints.append(data["hint"])
            if "probe" in data:
                await self._answer(socket, data["probe"])
        reports.cancel()
        self._sockets.discard(socket)
        return socket

    async def _report(self, socket: web.WebSocketResponse) -> None:
        while True:
            if not self.mute:
                await socket.send_json({"report": self.report.to_json()})
            await asyncio.sleep(0.5)

    async def _answer(self, socket: web.WebSocketResponse, probe: dict[str, Any]) -> None:
        self.asked.append(probe["uid"])
        if self.mute:
            return
        assert (probe["clusterPort"], probe["agentPort"]) == (CLUSTER_PORT, AGENT_PORT)
        refused = {"clusterPort": "refused", "agentPort": "refused", "gates": None}
        await socket.send_json({"probed": {"id": probe["id"]} | self.probe_answers.get(probe["uid"], refused)})


class FakePods:
    """PodControl that notes what it is asked to create, and takes its time when told to."""

    def __init__(self) -> None:
        self.objects: tuple[Pod, ...] = ()
        self.created: list[int] = []
        self.hold = asyncio.Event()
        self.hold.set()

    def pods(self) -> tuple[Pod, ...]:
        return self.objects

    async def create(self, number: int) -> None:
        self.created.append(number)
        await self.hold.wait()

    async def delete(self, uid: str, name: str, reason: str) -> None:
        raise AssertionError("nothing is deleted here")

    async def mark_not_ready(self, uid: str, name: str) -> None:
        raise AssertionError("nothing is marked here")


@dataclass
class World:
    """A control loop with three fake agents and a step that notes the views and answers what it is told."""

    first: str
    store: MemoryMapStore = field(default_factory=lambda: MemoryMapStore("default"))
    pods: FakePods = field(default_factory=FakePods)
    agents: list[FakeAgent] = field(default_factory=list)
    views: list[OperatorView] = field(default_factory=list)
    snapshots: list[ClusterSnapshot] = field(default_factory=list)
    decide: Callable[[OperatorView], OperatorDecision] = lambda view: OperatorDecision()
    loop: ControlLoop = field(init=False)

    def __post_init__(self) -> None:
        self.loop = ControlLoop(
            "demo", self.store, self.pods, AGENT_PORT, CLUSTER_PORT, TOKEN, self.snapshots.append, step=self._step
        )
        self.loop.desire(Desired(3, 1, Settings()))

    def _step(self, view: OperatorView) -> OperatorDecision:
        self.views.append(view)
        return self.decide(view)

    def seen(self, number: int) -> PodView:
        return self.views[-1].agents.get(f"uid-{number}", PodView()) if self.views else PodView()

    def suspicion(self, number: int) -> Suspicion:
        return self.seen(number).suspicion

    def all_report(self) -> bool:
        return all(self.seen(number).reporting for number in range(len(self.agents)))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(free_block(AGENT_PORT, CLUSTER_PORT))
    for number in range(3):
        agent = FakeAgent(f"uid-{number}", address(world.first, number))
        await agent.start()
        world.agents.append(agent)
    world.pods.objects = tuple(Pod(a.uid, f"demo-{n}", a.host, ready=True) for n, a in enumerate(world.agents))
    running = asyncio.create_task(world.loop.run())
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    for agent in world.agents:
        await agent.stop()


async def test_reports_reach_the_step_and_equal_ones_do_not_run_it_again(world: World) -> None:
    await world.store.create(served_by("uid-0"))
    await until(world.all_report)
    await until(lambda: world.views[-1].map is not None)
    steps = len(world.views)
    report = world.agents[0].report
    figures = {0: replace(report.copies[0], used_memory=1 << 20, offset=77, keys=5)}
    await world.agents[0].send(replace(report, copies=figures, clients=9, authority_s=2.5))
    await world.agents[1].send(world.agents[1].report)
    await asyncio.sleep(1.2)
    assert len(world.views) - steps <= 1
    await world.agents[0].send(replace(report, copies={0: replace(report.copies[0], run_id="another")}))
    await until(lambda: _run_id(world) == "another")


async def test_while_paused_the_settings_of_the_map_stay_in_force(world: World) -> None:
    await world.store.create(replace(served_by("uid-0"), settings=Settings(max_clients=7)))
    await until(lambda: world.views and world.views[-1].map is not None)
    world.loop.desire(Desired(4, 1, Settings(max_clients=9), paused=True))
    await until(lambda: world.views[-1].paused)
    assert world.views[-1].settings.max_clients == 7
    world.loop.desire(Desired(4, 1, Settings(max_clients=9)))
    await until(lambda: not world.views[-1].paused)
    assert world.views[-1].settings.max_clients == 9


def _run_id(world: World) -> str:
    report = world.seen(0).report
    return report.copies[0].run_id if report else ""


def served_by(uid: str) -> HashRing:
    primary, other = CopyId(uid, "r"), CopyId("uid-9", "r")
    entry = Entry(2, State.STABLE, primary, tuple(sorted((primary, other))), term=2)
    return HashRing("demo", entries=(entry,))


async def test_whoever_answers_under_another_uid_is_not_heard(world: World) -> None:
    await until(world.all_report)
    world.agents[2].uid = "uid-of-another-pod"
    await world.agents[2].send(replace(world.agents[2].report, pod="uid-of-another-pod"))
    await until(lambda: world.suspicion(2) in (Suspicion.SUSPECTED, Suspicion.CONFIRMED))
    report = world.seen(2).report
    assert report is not None and report.pod == "uid-2"


async def test_a_reset_stream_is_confirmed_by_a_peer_without_waiting_for_missed_reports(world: World) -> None:
    await until(world.all_report)
    began = asyncio.get_running_loop().time()
    await world.agents[0].stop()
    await until(lambda: world.suspicion(0) is Suspicion.CONFIRMED)
    assert asyncio.get_running_loop().time() - began < 1.5
    assert world.suspicion(1) is world.suspicion(2) is Suspicion.NONE
    assert "uid-0" in world.agents[1].asked
    await until(lambda: world.seen(0).refused_at is not None)


async def test_a_suspect_that_serves_clients_is_asked_again_and_not_confirmed(world: World) -> None:
    await until(world.all_report)
    serving = {"clusterPort": "answered", "agentPort": "refused", "gates": {"0": [2, 2500]}}
    for agent in world.agents[1:]:
        agent.probe_answers["uid-0"] = serving
    await world.agents[0].stop()
    await until(lambda: len(world.agents[1].asked) >= 2)
    assert world.suspicion(0) is Suspicion.SUSPECTED
    for agent in world.agents[1:]:
        agent.probe_answers["uid-0"] = serving | {"gates": {"0": [2, 0]}}
    await until(lambda: world.suspicion(0) is Suspicion.CONFIRMED)


async def test_an_operator_without_any_agent_confirms_nothing(world: World) -> None:
    await until(world.all_report)
    for agent in world.agents:
        agent.mute = True
    await until(lambda: all(world.suspicion(n) is Suspicion.SUSPECTED for n in range(3)))
    views = len(world.views)
    await until(lambda: len(world.views) >= views + 6)
    assert all(view.agents[f"uid-{n}"].suspicion is not Suspicion.CONFIRMED for view in world.views for n in range(3))


async def test_a_pod_that_comes_back_is_no_suspect_any_more(world: World) -> None:
    await until(world.all_report)
    await world.agents[0].stop()
    await until(lambda: world.suspicion(0) is Suspicion.CONFIRMED)
    await world.agents[0].start()
    await until(lambda: world.suspicion(0) is Suspicion.NONE)


async def test_the_kubelet_stands_in_for_the_peer_of_a_single_pod(world: World) -> None:
    world.pods.objects = world.pods.objects[:1]
    world.loop.pods_changed()
    await until(lambda: world.seen(0).reporting)
    await world.agents[0].stop()
    await until(lambda: world.suspicion(0) is Suspicion.SUSPECTED)
    world.pods.objects = (replace(world.pods.objects[0], ready=False),)
    world.loop.pods_changed()
    await until(lambda: world.suspicion(0) is Suspicion.CONFIRMED)


async def test_every_agent_is_told_at_once_that_the_map_was_written(world: World) -> None:
    await until(world.all_report)
    world.decide = lambda view: OperatorDecision(map=served_by("uid-0") if view.map is None else None)
    world.loop.wake()
    await until(lambda: all(agent.hints for agent in world.agents))
    assert world.store.current is not None
    assert {agent.hints[0] for agent in world.agents} == {world.store.current.version}


async def test_events_are_told_only_when_their_write_succeeded(world: World) -> None:
    await until(world.all_report)
    event = Event("PrimaryElected", "demo-1 leads partition 0")
    await world.store.create(served_by("uid-1"))
    stale = replace(served_by("uid-0"), version="999", uid="another")
    world.decide = lambda view: OperatorDecision(map=stale, events=(event,))
    world.loop.wake()
    await until(lambda: world.snapshots[-1].map_conflicts >= 2)
    assert not any(snapshot.events for snapshot in world.snapshots)
    assert world.store.current == replace(served_by("uid-1"), version="1", uid=world.store.current.uid)


async def test_a_loss_that_another_operator_wrote_is_told_before_the_step_ends_it(world: World) -> None:
    def begin_anew(view: OperatorView) -> OperatorDecision:
        if view.map is None or view.map.entries[0].state is not State.LOST:
            return OperatorDecision()
        return OperatorDecision(map=replace(view.map, entries=(replace(served_by("uid-0").entries[0], epoch=8),)))

    world.decide = begin_anew
    await world.store.create(HashRing("demo", entries=(Entry(7, State.LOST, learners=("uid-0",)),)))
    await until(lambda: world.snapshots and world.snapshots[-1].map and world.snapshots[-1].map.entries[0].isr)
    assert sum(it.map is not None and it.map.entries[0].state is State.LOST for it in world.snapshots) == 1


async def test_a_pod_that_went_before_this_operator_started_is_suspected_by_its_address_in_the_map(
    world: World,
) -> None:
    await until(world.all_report)
    await world.agents[0].stop()
    world.pods.objects = world.pods.objects[1:]
    await until(lambda: "uid-0" not in world.views[-1].agents)
    members = tuple((agent.uid, Member(f"demo-{n}", agent.host)) for n, agent in enumerate(world.agents))
    await world.store.create(replace(served_by("uid-0"), members=members))
    await until(lambda: world.suspicion(0) is Suspicion.CONFIRMED, 10.0)
    assert world.agents[1].asked or world.agents[2].asked


async def test_a_pod_action_that_hangs_delays_neither_decisions_nor_its_like(world: World) -> None:
    world.pods.hold.clear()
    world.decide = lambda view: OperatorDecision(pod_actions=(CreatePod(3),), wake_after=0.05)
    await until(lambda: world.pods.created and world.all_report())
    await world.agents[0].stop()
    await until(lambda: world.suspicion(0) is Suspicion.CONFIRMED, 1.0)
    assert world.pods.created == [3]


async def test_a_step_that_fails_is_tried_again_and_the_loop_lives_on(world: World) -> None:
    calls = 0

    def failing(view: OperatorView) -> OperatorDecision:
        nonlocal calls
        calls += 1
        assert calls != 1, "an invariant is broken"
        return OperatorDecision(waiting_for=("nothing",))

    world.decide = failing
    world.loop.wake()
    await until(lambda: world.snapshots and world.snapshots[-1].waiting_for == ("nothing",))
    assert world.snapshots[-1].step_errors == 1


async def test_a_step_that_fails_is_not_tried_again_for_every_report(world: World) -> None:
    calls = 0

    def failing(view: OperatorView) -> OperatorDecision:
        nonlocal calls
        calls += 1
        raise AssertionError("an invariant is broken")

    await until(world.all_report)
    world.decide = failing
    for number in range(50):
        await world.agents[0].send(replace(world.agents[0].report, clients=number, routers=number))
        await asyncio.sleep(0.01)
    assert 1 <= calls <= 2


async def test_nothing_is_decided_on_a_map_that_cannot_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await until(world.all_report)

    async def unavailable(*_: object) -> HashRing:
        raise StoreUnavailable("no answer")

    world.decide = lambda view: OperatorDecision(map=served_by("uid-0") if view.map_known else None)
    monkeypatch.setattr(world.store, "create", unavailable)
    monkeypatch.setattr(world.store, "get", unavailable)
    world.loop.wake()
    await until(lambda: not world.views[-1].map_known)
    assert world.snapshots[-1].store_failures >= 1


async def test_a_report_of_a_newer_map_makes_the_operator_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await until(world.all_report)
    current = await world.store.create(served_by("uid-0"))
    await until(lambda: world.views[-1].map == current)
    newer = replace(current, version="7")
    world.store.current = newer
    await world.agents[1].send(replace(world.agents[1].report, version="7"))
    await until(lambda: world.views[-1].map == newer)


async def test_a_pod_that_is_gone_is_followed_while_the_map_names_it(world: World) -> None:
    await world.store.create(served_by("uid-0"))
    await until(world.all_report)
    await until(lambda: world.views[-1].map is not None)
    world.pods.objects = world.pods.objects[1:2]
    world.loop.pods_changed()
    await until(lambda: "uid-2" not in world.views[-1].agents)
    assert world.suspicion(0) is Suspicion.NONE


async def test_a_wrong_token_is_not_heard_by_the_fake_agent_either(world: World) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"http://{world.agents[0].host}:{AGENT_PORT}/v1/stream")
