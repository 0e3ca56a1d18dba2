"""Asking other agents for promises while the map cannot be read, and what they have promised (A8).

`agent_step` decides whom to ask and what a promise is worth; here it is asked, every half a second while it is wanted,
with one request to each pod for all partitions. Promises are kept in memory only: after a restart they are asked for
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from cachecluster_core.agent_view import Promise, PromiseAsk
from cachecluster_core.hashring import HashRing

from .clock import boottime_ns
from .handover_messages import MAX_PARTITIONS
from .peer_agents import PeerAgents, Refused

log = logging.getLogger(__name__)

PROMISE_PATH = "/v1/promise"
PERIOD_S = 0.5
ANSWER_S = 1.0
"""A promise counts from before it was asked for: one that comes late from a busy machine is still worth most of D."""
MAX_AUTHORITY_S = 600.0

UNANSWERED = (OSError, TimeoutError, aiohttp.ClientError, Refused, ValueError)

Asks = Mapping[int, PromiseAsk]


class PromiseTalk:
    """`promises` is for the next step; `on_change` says that there are new ones."""

    def __init__(self, pod: str, peers: PeerAgents, on_change: Callable[[], None]) -> None:
        self.promises: dict[int, dict[str, Promise]] = {}
        self._pod = pod
        self._peers = peers
        self._on_change = on_change
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._asked_at: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()

    def carry_out(self, asks: Mapping[str, Asks], ring: HashRing | None) -> None:
        """Ask whom the step wants to be asked, unless that was done a moment ago."""
        if not asks:
            self.promises.clear()
            return
        now = self._loop.time()
        for pod, wanted in asks.items():
            member = ring.member(pod) if ring is not None else None
            if member is None or not member.host or pod in self._asking:
                continue
            if now - self._asked_at.get(pod, -PERIOD_S) < PERIOD_S * 0.9:
                continue
            self._asked_at[pod] = now
            self._asking[pod] = self._loop.create_task(self._ask(pod, member.host, wanted))

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, pod: str, host: str, wanted: Asks) -> None:
        asked_at_ns = boottime_ns()
        try:
            answer = await self._peers.post(host, PROMISE_PATH, asks_to_json(self._pod, pod, wanted), ANSWER_S)
            granted = _granted(answer)
        except UNANSWERED as error:
            log.warning("no promise from %s: %r", pod, error)
            return
        finally:
            self._asking.pop(pod, None)
        refused = sorted(set(wanted) - granted)
        if refused:
            log.warning("%s does not promise about partitions %s", pod, refused)
        for partition in granted & set(wanted):
            given = self.promises.setdefault(partition, {})
            given[pod] = Promise(wanted[partition].epoch, asked_at_ns)
        self._on_change()


def asks_to_json(asker: str, asked: str, wanted: Asks) -> dict[str, Any]:
    """The body of a request: who asks whom for what."""
    asks = {str(partition): [ask.epoch, ask.authority_s] for partition, ask in wanted.items()}
    return {"asker": asker, "asked": asked, "asks": asks}


def asks_from_json(data: Any) -> tuple[str, str, dict[int, PromiseAsk]]:
    """The reverse: the asker's and the asked pod's UID, and the asks. ValueError when it is not one."""
    match data:
        case {"asker": str(asker), "asked": str(asked), "asks": dict(asks)} if len(asks) <= MAX_PARTITIONS:
            return asker, asked, dict(map(_one_ask, asks.items()))
    raise ValueError("not a request for promises")


def _one_ask(item: tuple[Any, Any]) -> tuple[int, PromiseAsk]:
    match item:
        case (str(text), [int(epoch), float() | int() as authority_s]) if text.isdecimal():
            partition = int(text)
            if partition < MAX_PARTITIONS and epoch > 0 and 0 < authority_s <= MAX_AUTHORITY_S:
                return partition, PromiseAsk(epoch, float(authority_s))
    raise ValueError(f"not an ask: {item!r}")


def _granted(answer: Any) -> set[int]:
    match answer:
        case {"promised": list(partitions)} if all(isinstance(partition, int) for partition in partitions):
            return set(partitions)
    raise ValueError(f"not an answer to a request for promises: {answer!r}")
