"""`Zones`: the zones of nodes. Nodes are not watched: their objects change every few seconds. A node is asked for once,
and again from time to time while it has no zone: a cloud controller, or a person, may label it later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .kube_api import ApiError, KubeApi, NotFound, Unreachable
from .resources import NODE

log = logging.getLogger(__name__)

ZONE_LABEL = "topology.kubernetes.io/zone"


class Zones:
    """Zones by node name. Without the permission to read nodes every zone that is not known yet is ''.

    `retry_s` is the pause while nobody answers; `recheck_s` how soon a node without a zone may be asked for again, or
    any node after a refusal.
    """

    def __init__(
        self,
        api: KubeApi,
        retry_s: float = 5.0,
        recheck_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._retry_s = retry_s
        self._recheck_s = recheck_s
        self._clock = clock
        self._known: dict[str, str] = {}
        self._without: dict[str, float] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused_at: float | None = None

    def of(self, node: str) -> str:
        """The zone of a node; '' while it is not known, or when it has none."""
        return self._known.get(node, "")

    def want(self, node: str, on_known: Callable[[], None]) -> None:
        """Find out the zone of a node and call back when it has one; nothing when it is known already, or was asked for
        a moment ago. To be said again from time to time."""
        asked_at = (at for at in (self._without.get(node), self._refused_at) if at is not None)
        if node in self._known or any(self._clock() - at < self._recheck_s for at in asked_at):
            return
        asked = node in self._listeners
        listeners = self._listeners.setdefault(node, [])
        if on_known not in listeners:
            listeners.append(on_known)
        if not asked:
            task = asyncio.create_task(self._ask(node), name=f"zone-of-{node}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the questions that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, node: str) -> None:
        while True:
            try:
                found = await self._api.get(NODE, None, node)
                break
            except Unreachable:
                await asyncio.sleep(self._retry_s)
            except NotFound:
                found = None
                break
            except ApiError as error:
                if self._refused_at is None:
                    log.warning("zones are unknown, pods are spread over nodes only: %s", error)
                self._refused_at = self._clock()
                self._listeners.pop(node, None)
                return
        self._refused_at = None
        listeners = self._listeners.pop(node, ())
        zone = ((found["metadata"].get("labels")) or {}).get(ZONE_LABEL, "") if found is not None else ""
        if not zone:
            self._without[node] = self._clock()
            return
        self._known[node] = zone
        self._without.pop(node, None)
        for on_known in listeners:
            on_known()
