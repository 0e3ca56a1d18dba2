"""Carries out what `operator_step` wants done to pods, beside the control loop, which never waits for it.

The step repeats an action until its effect shows in the pods. Here each is in flight at most once and repeated at most
once a second; a failed one is simply asked for again. Pods are created by one decision at a time: a later one does not
see those that are still being made, and would count them as missing when another number has become the lowest.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable

from cachecluster_core.operator_view import CreatePod, DeletePod, Event, MarkNotReady, PodAction

from .ports import PodControl, PodRefused

logger = logging.getLogger(__name__)

REPEAT_S = 1.0
"""Shortest time between two tries of the same action."""
ACTION_TIMEOUT_S = 10.0
"""An action that takes longer is given up, and asked for again."""
REFUSALS_TOLD = 8
"""Most refusals that become events before all pods are made: a policy may word each of them otherwise."""

_Key = tuple[type, int | str]


def _key(action: PodAction) -> _Key:
    """What makes two actions the same; the reason's wording does not."""
    return (type(action), action.number if isinstance(action, CreatePod) else action.uid)


class PodActions:
    """Runs pod actions as tasks; `on_done` is called after each, to decide again. `refusal` is why a pod was not
    allowed to be made, '' when one was made since or none is wanted."""

    def __init__(self, pods: PodControl, clock: Callable[[], float], on_done: Callable[[], None]) -> None:
        self._pods = pods
        self._clock = clock
        self._on_done = on_done
        self.refusal = ""
        self._refusals_told: set[str] = set()
        self._events: list[Event] = []
        self._running: dict[_Key, asyncio.Task[None]] = {}
        self._ended_at: dict[_Key, float] = {}

    def carry_out(self, actions: Iterable[PodAction]) -> None:
        """Begin those that neither run now nor ended a moment ago. Returns at once."""
        now = self._clock()
        self._ended_at = {key: at for key, at in self._ended_at.items() if now - at < REPEAT_S}
        actions = tuple(actions)
        if not any(isinstance(action, CreatePod) for action in actions):
            self.refusal = ""
            self._refusals_told.clear()
        busy = self._running.keys() | self._ended_at.keys()
        creating = any(kind is CreatePod for kind, _ in busy)
        for action in actions:
            key = _key(action)
            if key not in busy and not (creating and isinstance(action, CreatePod)):
                self._running[key] = asyncio.create_task(self._run(key, action))

    def take_events(self) -> tuple[Event, ...]:
        """What is to be told since the last call."""
        events, self._events = tuple(self._events), []
        return events

    async def stop(self) -> None:
        """Cancel what is still running."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: _Key, action: PodAction) -> None:
        try:
            async with asyncio.timeout(ACTION_TIMEOUT_S):
                await self._perform(action)
            if isinstance(action, CreatePod):
                self.refusal = ""
        except PodRefused as error:
            self._refused(str(error))
        except Exception as error:
            logger.warning("%s failed: %r", action, error)
        finally:
            self._ended_at[key] = self._clock()
            del self._running[key]
        self._on_done()

    def _refused(self, reason: str) -> None:
        """Keep it, and tell it once: the number of the pod and what a quota counts do not make it another one."""
        self.refusal = reason
        key = re.sub(r"\d+", "", reason)
        if key not in self._refusals_told and len(self._refusals_told) < REFUSALS_TOLD:
            self._refusals_told.add(key)
            self._events.append(Event("FailedCreate", reason, warning=True))

    async def _perform(self, action: PodAction) -> None:
        match action:
            case CreatePod(number):
                await self._pods.create(number)
            case DeletePod(uid, name, reason):
                await self._pods.delete(uid, name, reason)
            case MarkNotReady(uid, name):
                await self._pods.mark_not_ready(uid, name)
