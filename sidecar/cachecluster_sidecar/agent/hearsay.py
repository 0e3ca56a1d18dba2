"""What other agents know of the map while the API server does not answer this one: for routes only, never authority.

POST /v1/map  {"version": "<the one known here>"} -> {"map": <HashRing object>}, or {} when that is the one known there
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp

from cachecluster_core.hashring import HashRing

from .peer_agents import PeerAgents, Refused

log = logging.getLogger(__name__)

MAP_PATH = "/v1/map"
MAX_VERSION = 64

UNANSWERED = (OSError, TimeoutError, aiohttp.ClientError, Refused, ValueError)


class Hearsay:
    """`newest` is the best map known; `on_news` is called when that changed. One member is asked at a time, in turn."""

    def __init__(self, pod: str, peers: PeerAgents, on_news: Callable[[], None]) -> None:
        self._pod = pod
        self._peers = peers
        self._on_news = on_news
        self._heard: HashRing | None = None
        self._turn = itertools.count()
        self._asking: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def newest(self, known: HashRing | None) -> HashRing | None:
        """The map known by an own read, or by an earlier agent's, with what was heard since."""
        return known if known is None or self._heard is None else newest(known, self._heard)

    def read_failed(self, known: HashRing | None) -> None:
        """Ask the next member, unless one is being asked."""
        ring = self.newest(known)
        if ring is None or self._asking is not None:
            return
        hosts = [member.host for uid, member in ring.members if uid != self._pod and member.host]
        if hosts:
            self._asking = self._loop.create_task(self._ask(hosts[next(self._turn) % len(hosts)], ring.version))

    def read_succeeded(self) -> None:
        """The map itself tells everything."""
        self._heard = None

    @property
    def idle(self) -> bool:
        """Nobody is being asked."""
        return self._asking is None

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self, host: str, version: str) -> None:
        try:
            answer = await self._peers.post(host, MAP_PATH, {"version": version})
            told = answer.get("map") if isinstance(answer, dict) else None
            if told is not None:
                self._take(HashRing.from_object(told))
        except UNANSWERED as error:
            log.info("the agent on %s does not tell its map: %r", host, error)
        finally:
            self._asking = None

    def _take(self, told: HashRing) -> None:
        """Keep the best of what was heard: the member that was asked may be blind itself, and behind."""
        before = self._heard
        self._heard = told if before is None or before.uid != told.uid else newest(before, told)
        if self._heard is not before:
            self._on_news()


def version_from_json(data: Any) -> str:
    """The version that an asking agent knows. ValueError when it does not say."""
    version = data.get("version") if isinstance(data, dict) else None
    if not isinstance(version, str) or len(version) > MAX_VERSION:
        raise ValueError("version: a short text expected")
    return version


def map_to_json(ring: HashRing | None, known: str) -> dict[str, Any]:
    """The answer to an agent that knows this version."""
    if ring is None or ring.version == known:
        return {}
    metadata = {"name": ring.name, "uid": ring.uid, "resourceVersion": ring.version}
    return {"map": {"metadata": metadata, "spec": ring.to_spec()}}


def newest(known: HashRing, heard: HashRing) -> HashRing:
    """Of every partition the entry with the higher epoch; a map that is behind in all of them says nothing.

    Maps are written one after the other, so whichever has a higher epoch anywhere is the newer one in all else.
    """
    if (known.uid, len(known.entries)) != (heard.uid, len(heard.entries)):
        return known
    pairs = list(zip(known.entries, heard.entries, strict=True))
    if not any(theirs.epoch > ours.epoch for ours, theirs in pairs):
        return known
    entries = tuple(theirs if theirs.epoch > ours.epoch else ours for ours, theirs in pairs)
    return replace(heard, entries=entries)
