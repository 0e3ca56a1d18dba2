"""Looking into suspicions: probes of a suspect by this operator and, through their streams, by peers (O1, O3).

One task per suspect, for as long as it is one. What a probe means is `suspicion`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from .suspicion import AgentTrack, Answer, Probed

logger = logging.getLogger(__name__)

BUDGET_S = 0.3
"""How long a probe may take."""
PEER_ANSWER_S = BUDGET_S + 0.2
"""How long to wait for a peer's answer: its own probe may take all of the budget."""
PAUSE_S = 0.5
"""Pause between rounds for a suspect."""
SILENCE_PAUSE_S = 0.1
"""... and while a partition waits for the proof that the suspect is silent."""


class Peer(Protocol):
    """A reporting agent that can look at another pod (an `AgentStream`)."""

    async def probe(self, target: AgentTrack, cluster_port: int, agent_port: int) -> Probed:
        """What the peer found; ConnectionError when it cannot be asked."""
        ...


class ProbeWorld(Protocol):
    """What the investigations must know of the control loop."""

    def peers_of(self, uid: str) -> Iterable[Peer]:
        """The agents that report now, without this one."""
        ...

    def owns_address(self, track: AgentTrack) -> bool:
        """There is a pod object with this UID and host, and no other with that host."""
        ...

    def awaits_silence(self, uid: str) -> bool:
        """A partition waits for the proof that this pod's gates are shut."""
        ...

    def probed(self) -> None:
        """A probe ended: decide again."""
        ...


async def probe_ports(host: str, cluster_port: int, agent_port: int, timeout_s: float = BUDGET_S) -> Probed:
    """Connect to both ports of a pod, as this process. The gates are not asked."""
    cluster, agent = await asyncio.gather(*(_knock(host, port, timeout_s) for port in (cluster_port, agent_port)))
    return Probed(cluster, agent)


async def _knock(host: str, port: int, timeout_s: float) -> Answer:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return Answer.REFUSED
    except (OSError, TimeoutError):
        return Answer.TIMEOUT
    writer.transport.abort()
    return Answer.ANSWERED


class Prober:
    """Keeps one investigation running for every current suspect."""

    def __init__(self, world: ProbeWorld, clock: Callable[[], float], cluster_port: int, agent_port: int) -> None:
        self._world = world
        self._clock = clock
        self._ports = (cluster_port, agent_port)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._hurry = asyncio.Event()

    def set_suspects(self, suspects: Iterable[AgentTrack]) -> None:
        """Begin investigations of new suspects, end those of pods that report again."""
        wanted = {track.uid: track for track in suspects}
        for uid in self._tasks.keys() - wanted.keys():
            self._tasks.pop(uid).cancel()
        for uid in wanted.keys() - self._tasks.keys():
            self._tasks[uid] = asyncio.create_task(self._investigate(wanted[uid]))

    def hurry(self) -> None:
        """Probe every suspect again at once: the map was written, and only later evidence counts."""
        self._hurry.set()
        self._hurry = asyncio.Event()

    async def stop(self) -> None:
        """End all investigations."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _investigate(self, track: AgentTrack) -> None:
        while True:
            hurry = self._hurry
            try:
                await self._round(track)
            except Exception:
                logger.exception("probing %s failed", track.uid)
            pause = SILENCE_PAUSE_S if self._world.awaits_silence(track.uid) else PAUSE_S
            try:
                async with asyncio.timeout(pause):
                    await hurry.wait()
            except TimeoutError:
                continue

    async def _round(self, track: AgentTrack) -> None:
        probes: list[Coroutine[Any, Any, None]] = [self._own_probe(track)]
        track.begin_round()
        probes += [self._peer_probe(track, peer) for peer in self._world.peers_of(track.uid)]
        await asyncio.gather(*probes)

    async def _own_probe(self, track: AgentTrack) -> None:
        began_at = self._clock()
        self._conclude(track, await probe_ports(track.host, *self._ports), began_at, by_peer=False)

    async def _peer_probe(self, track: AgentTrack, peer: Peer) -> None:
        began_at = self._clock()
        try:
            async with asyncio.timeout(PEER_ANSWER_S):
                probed = await peer.probe(track, *self._ports)
        except (TimeoutError, ConnectionError, ValueError) as error:
            logger.debug("no answer about %s from a peer: %r", track.uid, error)
            return
        self._conclude(track, probed, began_at, by_peer=True)

    def _conclude(self, track: AgentTrack, probed: Probed, began_at: float, *, by_peer: bool) -> None:
        track.take_probe(probed, began_at, by_peer=by_peer, owns_address=self._world.owns_address(track))
        self._world.probed()
