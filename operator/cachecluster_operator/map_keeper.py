"""The control loop's hold on the map: what it says, since when this operator knows it, and writing it (O7).

A read that began before a write ended is worthless and repeated. After a write whose outcome is unknown nothing is
known until the map was read again: deciding on the old one could count a wait from a write that never happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from cachecluster_core.hashring import Entry, HashRing

from .ports import Conflict, MapStore, StoreUnavailable

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 1.0
"""How long one read or write of the store may take before its outcome counts as unknown."""
RETRY_S = 0.2
"""Pause between reads while the store does not answer, and before the read after a write that failed."""
MAX_PAUSE_S = 5.0
"""The pause doubles up to this with every further write that fails: a store that refuses the map is not hammered."""


class MapKeeper:
    """Keeps `map`, `known` (False: decide nothing) and `seen_at` (partition -> time its entry was first known)."""

    def __init__(self, store: MapStore, clock: Callable[[], float], on_change: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._stale = asyncio.Event()
        self._stale.set()
        self._fence = 0
        self._failed_writes = 0
        self.map: HashRing | None = None
        self.known = False
        self.seen_at: dict[int, float] = {}
        self.writes = 0
        self.conflicts = 0
        self.failures = 0

    def refresh(self) -> None:
        """Ask for a quorum read soon; what is known stays valid meanwhile."""
        self._stale.set()

    async def run(self) -> None:
        """Reads the map at the start, whenever the store hints at a change, and when asked to; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_hints())
            group.create_task(self._read_when_stale())

    async def write(self, ring: HashRing) -> bool:
        """Create the map (no version) or replace exactly `ring.version`. False: it did not happen, or nobody knows."""
        self._fence += 1
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                written = await (self._store.replace(ring) if ring.version else self._store.create(ring))
        except Conflict:
            self.conflicts += 1
            self._lose("somebody else wrote the map")
            return False
        except (StoreUnavailable, TimeoutError) as error:
            self.failures += 1
            self._failed_writes += 1
            self._lose(f"the outcome of a write is unknown: {error!r}")
            return False
        finally:
            self._fence += 1
        self.writes += 1
        self._failed_writes = 0
        self._adopt(written)
        return True

    async def _follow_hints(self) -> None:
        async for _ in self._store.changes():
            self._stale.set()

    async def _read_when_stale(self) -> None:
        while True:
            await self._stale.wait()
            if not self.known and self._failed_writes:
                await asyncio.sleep(min(MAX_PAUSE_S, RETRY_S * 2 ** (self._failed_writes - 1)))
            self._stale.clear()
            fence = self._fence
            try:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    ring = await self._store.get()
            except (StoreUnavailable, TimeoutError, ValueError) as error:
                self.failures += 1
                logger.warning("the map cannot be read, trying again: %r", error)
                self._stale.set()
                await asyncio.sleep(RETRY_S)
                continue
            if fence != self._fence:
                self._stale.set()
                await asyncio.sleep(0)
            elif not self.known or ring != self.map:
                self._adopt(ring)
                self._on_change()

    def _lose(self, why: str) -> None:
        logger.info("reading the map again: %s", why)
        self.known = False
        self._stale.set()

    def _adopt(self, ring: HashRing | None) -> None:
        now = self._clock()
        before = self.map
        same_object = before is not None and ring is not None and before.uid in ("", ring.uid)
        old = {p: _identity(entry) for p, entry in enumerate(before.entries)} if same_object and before else {}
        new = {p: _identity(entry) for p, entry in enumerate(ring.entries)} if ring else {}
        self.seen_at = {p: self.seen_at[p] if old.get(p) == identity else now for p, identity in new.items()}
        self.map, self.known = ring, True


def _identity(entry: Entry) -> tuple[object, ...]:
    """What makes an entry another one: all that agents act on, so not the learners."""
    return (entry.epoch, entry.state, entry.primary, entry.isr, entry.successor, entry.term)
