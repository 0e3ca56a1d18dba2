"""`Zones`: the zone of a node, asked for once a node. Nodes are not watched: their objects change every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .kube_api import ApiError, KubeApi, NotFound, Unreachable
from .resources import NODE

log = logging.getLogger(__name__)

ZONE_LABEL = "topology.kubernetes.io/zone"


class Zones:
    """Zones by node name. Without the permission to read nodes every zone is ''."""

    def __init__(self, api: KubeApi, retry_s: float = 5.0) -> None:
        self._api = api
        self._retry_s = retry_s
        self._known: dict[str, str] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._forbidden = False

    def of(self, node: str) -> str:
        """The zone of a node; '' while it is not known, or when it has none."""
        return self._known.get(node, "")

    def want(self, node: str, on_known: Callable[[], None]) -> None:
        """Find out the zone of a node and call back; nothing when it is known already."""
        if node in self._known or self._forbidden:
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
                log.warning("zones are unknown, pods are spread over nodes only: %s", error)
                self._forbidden = True
                self._listeners.pop(node, None)
                return
        if found is not None:
            self._known[node] = ((found["metadata"].get("labels")) or {}).get(ZONE_LABEL, "")
        for on_known in self._listeners.pop(node, ()):
            on_known()
