"""The two ports between the control loop and the world: the map's store, and the pods.

Each has a Kubernetes implementation in this package and an in-memory one in `cachecluster_local`; one conformance
suite runs against both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from cachecluster_core.hashring import HashRing
from cachecluster_core.operator_step import Pod


class Conflict(Exception):
    """The map was changed by somebody else since it was read: read again, decide again (O7)."""


class StoreUnavailable(Exception):
    """The store did not answer or refused: nothing is known, and a write may or may not have happened."""


class PodRefused(Exception):
    """A pod was not made because somebody does not allow it, such as a quota; the text is for people."""


class MapStore(Protocol):
    """Where the map of one cluster lives: linearizable reads, compare-and-swap writes."""

    async def get(self) -> HashRing | None:
        """The map by a quorum read, None when there is none. StoreUnavailable when unknown."""
        ...

    async def create(self, ring: HashRing) -> HashRing:
        """Make the map; returns it with its version. Conflict when there is one already."""
        ...

    async def replace(self, ring: HashRing) -> HashRing:
        """Replace the map if its version is still `ring.version`; returns it with the new one. Conflict otherwise."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yields whenever the stored map may have changed or been deleted, by anybody. Only a hint; never ends."""
        ...


class PodControl(Protocol):
    """The pods of one cluster. All calls are idempotent; the effects show in the next `pods`."""

    def pods(self) -> tuple[Pod, ...]:
        """The pod objects as last seen."""
        ...

    async def create(self, number: int) -> None:
        """Make pod `<cluster>-<number>`, unless an object of that name exists. PodRefused when that is not allowed."""
        ...

    async def delete(self, uid: str, name: str, reason: str) -> None:
        """Delete exactly this pod (UID precondition); fine when it is gone."""
        ...

    async def mark_not_ready(self, uid: str, name: str) -> None:
        """Set the pod's Ready condition False; fine when it is gone."""
        ...
