"""The control loop of one cluster: observes, runs `operator_step`, writes the map, and never waits for anything else.

It is the same loop in the operator and in `cachecluster-local`. It knows no Kubernetes and decides nothing itself:
what to do is `operator_step`'s, who may be dead is `suspicion`'s, the map is the `MapKeeper`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import aiohttp

from cachecluster_core.hashring import HashRing, Settings, State
from cachecluster_core.leaving import leaving_pods
from cachecluster_core.operator_step import operator_step, remember
from cachecluster_core.operator_view import Event, Memory, OperatorDecision, OperatorView, PodView, Suspicion
from cachecluster_core.report import Report, essence

from .agent_stream import AgentStream
from .map_keeper import MapKeeper
from .pod_actions import PodActions
from .ports import MapStore, PodControl
from .probing import Prober
from .snapshot import ClusterSnapshot, Desired
from .suspicion import AgentTrack

logger = logging.getLogger(__name__)

Step = Callable[[OperatorView], OperatorDecision]

PUBLISH_S = 5.0
"""Longest time between two snapshots: figures for people may be so old."""
STEP_ERROR_PAUSE_S = 1.0
"""Pause after `operator_step` failed: an assertion of it must stop decisions, not the operator."""
STALL_S = 0.5
"""The loop woke so much too late: this process was stopped or starved, and reports may be waiting unread."""
REFRESH_S = 0.5
"""Shortest time between two reads of the map because reports name another version."""


class ControlLoop:
    """Runs one cluster. All methods but `run` only note things down and wake the loop; call from its own thread."""

    def __init__(
        self,
        name: str,
        store: MapStore,
        pods: PodControl,
        agent_port: int,
        cluster_port: int,
        token: str,
        on_change: Callable[[ClusterSnapshot], None],
        clock: Callable[[], float] = time.monotonic,
        step: Step = operator_step,
    ) -> None:
        self.name = name
        self._pods = pods
        self._agent_port = agent_port
        self._token = token
        self._on_change = on_change
        self._clock = clock
        self._step = step
        self._keeper = MapKeeper(store, clock, self.wake)
        self._actions = PodActions(pods, clock, self.wake)
        self._prober = Prober(self, clock, cluster_port, agent_port)
        self._desired: Desired | None = None
        self._tracks: dict[str, AgentTrack] = {}
        self._streams: dict[str, tuple[AgentStream, asyncio.Task[None]]] = {}
        self._suspicions: dict[str, Suspicion] = {}
        self._essences: dict[str, tuple[object, ...]] = {}
        self._awake = asyncio.Event()
        self._memory = Memory()
        self._dirty = True
        self._decide_at = 0.0
        self._hold_until = 0.0
        self._published_at = 0.0
        self._refreshed_at = 0.0
        self._events: list[Event] = []
        self._waiting_for: tuple[str, ...] = ()
        self._step_errors = 0
        self._lost_told: set[tuple[int, int]] = set()

    def desire(self, desired: Desired) -> None:
        """What the cluster should be; may be said again at any time."""
        if desired != self._desired:
            self._desired = desired
            self.wake()

    def pods_changed(self) -> None:
        """`PodControl.pods()` may say something new."""
        self.wake()

    def wake(self) -> None:
        """Something that decisions depend on has changed."""
        self._dirty = True
        self._awake.set()

    def agents(self) -> dict[str, PodView]:
        """What agents reported last, by pod UID: newer than in the last snapshot."""
        now, alone = self._clock(), self._kubelet_confirms()
        return {uid: track.view(now, kubelet_confirms=uid in alone) for uid, track in self._tracks.items()}

    def leaving(self) -> frozenset[str]:
        """UIDs of the pods that the map calls leaving: newer than in the last snapshot."""
        return leaving_pods(self._keeper.map)

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=1.0)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            keeper = asyncio.create_task(self._keeper.run())
            try:
                await self._loop(session, keeper)
            finally:
                await self._stop(keeper)

    # -- what streams and probes tell ----------------------------------------------------------------------------------

    def on_report(self, uid: str, report: Report) -> None:
        """A report came (StreamListener)."""
        track = self._tracks.get(uid)
        if track is None:
            return
        now = self._clock()
        track.take_report(report, now)
        if self._keeper.known and _is_newer(report.version, self._keeper.map) and now - self._refreshed_at >= REFRESH_S:
            self._refreshed_at = now
            self._keeper.refresh()
        before, self._essences[uid] = self._essences.get(uid), essence(report)
        if before != self._essences[uid]:
            self.wake()

    def on_reset(self, uid: str) -> None:
        """A stream ended (StreamListener)."""
        if (track := self._tracks.get(uid)) is not None:
            track.reset = True
            self.wake()

    def peers_of(self, uid: str) -> Iterator[AgentStream]:
        """ProbeWorld: who may be asked about a suspect."""
        for other, (stream, _) in self._streams.items():
            if other != uid and stream.reporting and self._suspicions.get(other) is Suspicion.NONE:
                yield stream

    def owns_address(self, track: AgentTrack) -> bool:
        """ProbeWorld: the address is this pod's and nobody else's."""
        return [pod.uid for pod in self._pods.pods() if pod.host == track.host] == [track.uid]

    def awaits_silence(self, uid: str) -> bool:
        """ProbeWorld: the pod may have been the primary of a partition that has none now."""
        ring = self._keeper.map
        waiting = (State.ELECTING, State.MOVING)
        return ring is not None and any(entry.state in waiting and uid in entry.pods() for entry in ring.entries)

    def probed(self) -> None:
        """ProbeWorld: look at the suspicions again."""
        self.wake()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def _loop(self, session: aiohttp.ClientSession, keeper: asyncio.Task[None]) -> None:
        while True:
            if keeper.done():
                keeper.result()
                raise RuntimeError(f"{self.name}: the store's changes ended")
            self._awake.clear()
            self._follow_pods(session)
            self._look()
            now = self._clock()
            if self._desired is not None and now >= self._hold_until and (self._dirty or now >= self._decide_at):
                await self._decide(self._desired)
            self._publish_if_due()
            await asyncio.sleep(0)
            await self._sleep()

    async def _sleep(self) -> None:
        now = self._clock()
        due = [self._decide_at, self._published_at + PUBLISH_S]
        due += [at for track in self._tracks.values() if (at := track.suspect_at()) > now]
        until = min(due)
        try:
            async with asyncio.timeout(max(0.0, until - now)):
                await self._awake.wait()
        except TimeoutError:
            self._excuse_all_after(until)

    def _excuse_all_after(self, due: float) -> None:
        """This process should have gone on at `due`: when it is much later, reports may be waiting unread."""
        now = self._clock()
        if now - due > STALL_S:
            logger.warning("%s: stalled for %.1f s; silence until now proves nothing", self.name, now - due)
            for track in self._tracks.values():
                track.excuse(now)

    def _look(self) -> None:
        """Take stock of the suspicions; wake the step when one changed."""
        now = self._clock()
        alone = self._kubelet_confirms()
        before, self._suspicions = (
            self._suspicions,
            {uid: track.suspicion(now, kubelet_confirms=uid in alone) for uid, track in self._tracks.items()},
        )
        for uid, suspicion in self._suspicions.items():
            if suspicion is not before.get(uid):
                logger.info("%s: pod %s is now %s", self.name, uid, suspicion)
                self._dirty = True
        suspects = (Suspicion.SUSPECTED, Suspicion.CONFIRMED)
        self._prober.set_suspects(self._tracks[uid] for uid, it in self._suspicions.items() if it in suspects)

    async def _decide(self, desired: Desired) -> None:
        self._dirty = False
        view = self._view(desired)
        self._tell_losses(view, desired)
        try:
            self._memory = remember(view)
            decision = self._step(replace(view, memory=self._memory))
            self._excuse_all_after(view.now)
        except Exception:
            logger.exception("%s: operator_step failed", self.name)
            self._step_errors += 1
            self._decide_at = self._hold_until = self._clock() + STEP_ERROR_PAUSE_S
            return
        self._decide_at = self._clock() + (PUBLISH_S if decision.wake_after is None else decision.wake_after)
        self._waiting_for = decision.waiting_for
        self._actions.carry_out(decision.pod_actions)
        if decision.map is None:
            self._events += decision.events
        elif view.map_known:
            if await self._write(decision.map):
                self._events += decision.events
            self.wake()
        self._publish(desired)

    def _tell_losses(self, view: OperatorView, desired: Desired) -> None:
        """A partition that was given up is told before the step ends that: another operator may have written it, and
        ended before its status was."""
        entries = enumerate(view.map.entries) if view.map is not None else ()
        lost = {(partition, entry.epoch) for partition, entry in entries if entry.state is State.LOST}
        if not lost <= self._lost_told:
            self._publish(desired)
        self._lost_told = lost

    async def _write(self, ring: HashRing) -> bool:
        if not await self._keeper.write(ring):
            return False
        version = self._keeper.map.version if self._keeper.map is not None else ""
        for stream, _ in self._streams.values():
            stream.send_hint(version)
        self._prober.hurry()
        return True

    def _view(self, desired: Desired) -> OperatorView:
        now = self._clock()
        return OperatorView(
            name=self.name,
            nodes=desired.nodes,
            partitions=desired.partitions,
            settings=_settings(desired, self._keeper.map),
            now=now,
            wall=time.time(),
            map=self._keeper.map,
            map_known=self._keeper.known,
            pods=self._pods.pods(),
            agents=self.agents(),
            seen_at=self._keeper.seen_at,
            timing=desired.timing,
            memory=self._memory,
            trust_connection_refused=desired.trust_connection_refused,
            paused=desired.paused,
        )

    def _kubelet_confirms(self) -> frozenset[str]:
        """In a cluster of one pod the kubelet stands in for the peer."""
        pods = self._pods.pods()
        return frozenset(pod.uid for pod in pods if not pod.ready) if len(pods) == 1 else frozenset()

    # -- streams follow pods -------------------------------------------------------------------------------------------

    def _follow_pods(self, session: aiohttp.ClientSession) -> None:
        """A stream to every pod that has an address, and to pods whose object is gone while the map names them: this
        operator may have started after they went, and must find out all the same that they do not answer."""
        pods = {pod.uid: pod for pod in self._pods.pods() if pod.host}
        named = self._named_pods()
        for uid in [uid for uid in self._tracks if uid not in pods and uid not in named]:
            self._drop(uid)
        for uid, host in named.items():
            if host and uid not in pods and uid not in self._tracks:
                self._ensure_stream(session, uid, host)
        for pod in pods.values():
            self._ensure_stream(session, pod.uid, pod.host)
            self._tracks[pod.uid].terminated |= pod.terminated

    def _named_pods(self) -> dict[str, str]:
        """The pods that the map names, with their addresses by the map ('' when it has none)."""
        ring = self._keeper.map
        if ring is None:
            return {}
        copies = {uid: "" for entry in ring.entries for uid in entry.pods()}
        return copies | {uid: member.host for uid, member in ring.members}

    def _ensure_stream(self, session: aiohttp.ClientSession, uid: str, host: str) -> None:
        track = self._tracks.get(uid)
        if track is not None and track.host == host:
            return
        if track is None:
            track = self._tracks[uid] = AgentTrack(uid, host, self._clock())
        else:
            track.host = host
            self._streams[uid][1].cancel()
        stream = AgentStream(session, track, self._agent_port, self._token, self)
        self._streams[uid] = (stream, asyncio.create_task(stream.run()))
        self._dirty = True

    def _drop(self, uid: str) -> None:
        del self._tracks[uid]
        self._essences.pop(uid, None)
        self._streams.pop(uid)[1].cancel()
        self._dirty = True

    async def _stop(self, keeper: asyncio.Task[None]) -> None:
        tasks = [keeper, *(task for _, task in self._streams.values())]
        for task in tasks:
            task.cancel()
        await self._prober.stop()
        await self._actions.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._streams.clear()
        self._tracks.clear()

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def _publish_if_due(self) -> None:
        if self._desired is not None and self._clock() >= self._published_at + PUBLISH_S:
            self._publish(self._desired)

    def _publish(self, desired: Desired) -> None:
        view = self._view(desired)
        self._published_at = view.now
        events, self._events = (*self._events, *self._actions.take_events()), []
        self._on_change(
            ClusterSnapshot(
                name=self.name,
                now=view.now,
                desired=desired,
                map=view.map,
                map_known=view.map_known,
                pods=view.pods,
                agents=view.agents,
                seen_at=view.seen_at,
                waiting_for=self._waiting_for,
                refusal=self._actions.refusal,
                events=events,
                map_writes=self._keeper.writes,
                map_conflicts=self._keeper.conflicts,
                store_failures=self._keeper.failures,
                step_errors=self._step_errors,
            )
        )


def _settings(desired: Desired, ring: HashRing | None) -> Settings:
    """While paused the map's own stay in force: the map remembers them, whichever operator looks."""
    return ring.settings if desired.paused and ring is not None else desired.settings


def _is_newer(version: str, ring: HashRing | None) -> bool:
    """A report names a map that this operator does not have (an agent that is merely behind does not count)."""
    known = ring.version if ring is not None else ""
    if version.isdigit() and known.isdigit():
        return int(version) > int(known)
    return version != known
