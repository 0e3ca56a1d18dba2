"""The map's store in memory: what etcd and the API server are to a real cluster, for one map.

It gives the control loop the `MapStore` port and the local API the history that watches need.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cachecluster_core.hashring import HashRing
from cachecluster_operator.ports import Conflict

HISTORY = 1000
"""How many changes a watch may be behind."""


class ChangeType(StrEnum):
    """The types of watch events."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the stored map; of a deletion `ring` is the map that was deleted, under the deletion's version."""

    type: ChangeType
    ring: HashRing


class Expired(Exception):
    """The version asked for is older than the history that is kept."""


class MemoryMapStore:
    """A MapStore. Versions are increasing decimal numbers, as the API server's."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.current: HashRing | None = None
        self._version = 0
        self._history: deque[Change] = deque(maxlen=HISTORY)
        self._changed = asyncio.Event()

    @property
    def version(self) -> str:
        """The version of the newest change."""
        return str(self._version)

    async def get(self) -> HashRing | None:
        """The map as it is now."""
        return self.current

    async def create(self, ring: HashRing) -> HashRing:
        """Store the first map. Conflict when there is one."""
        if self.current is not None:
            raise Conflict(f"there is a map at version {self.current.version} already")
        return self._store(ChangeType.ADDED, replace(ring, uid=str(uuid.uuid4())))

    async def replace(self, ring: HashRing) -> HashRing:
        """Replace exactly the version that `ring` was made from. Conflict otherwise."""
        current = self.current
        if current is None or (current.version, current.uid) != (ring.version, ring.uid):
            raise Conflict(f"version {ring.version} is not the current one")
        return self._store(ChangeType.MODIFIED, ring)

    def delete(self) -> HashRing | None:
        """Delete the map, as somebody by hand would; returns it."""
        ring, self.current = self.current, None
        if ring is not None:
            self._record(ChangeType.DELETED, ring)
        return ring

    async def changes(self) -> AsyncIterator[None]:
        """Yields after every change."""
        seen = self._version
        while True:
            seen = await self._beyond(seen)
            yield None

    async def watch(self, version: int) -> AsyncIterator[Change]:
        """All changes after `version`, as they come. Expired when some of them are no longer known."""
        while True:
            if version < self._version - len(self._history):
                raise Expired(f"too old resource version: {version} ({self._version})")
            for change in [change for change in self._history if int(change.ring.version) > version]:
                version = int(change.ring.version)
                yield change
            await self._beyond(version)

    async def _beyond(self, version: int) -> int:
        while self._version <= version:
            await self._changed.wait()
        return self._version

    def _store(self, change: ChangeType, ring: HashRing) -> HashRing:
        ring.check()
        self.current = self._record(change, ring)
        return self.current

    def _record(self, change: ChangeType, ring: HashRing) -> HashRing:
        self._version += 1
        stored = replace(ring, version=str(self._version))
        self._history.append(Change(change, stored))
        self._changed.set()
        self._changed = asyncio.Event()
        return stored

    def to_object(self, ring: HashRing) -> dict[str, Any]:
        """The HashRing object as the API server would show it."""
        return {
            "apiVersion": "cachecluster.io/v1alpha1",
            "kind": "HashRing",
            "metadata": self.to_metadata(ring),
            "spec": ring.to_spec(),
        }

    def to_metadata(self, ring: HashRing) -> dict[str, str]:
        """Its metadata alone."""
        return {
            "name": ring.name,
            "namespace": self.namespace,
            "uid": ring.uid,
            "resourceVersion": ring.version,
        }
