"""`KeyedQueue`: which keys need work. Coalesces, never runs one key twice at once, backs off on failure.

A level-triggered work queue: a key that is added while it waits is still worked on once; a key that is added while
it is being worked on is worked on once more afterwards. What the work is, is the caller's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

log = logging.getLogger(__name__)


class KeyedQueue(Generic[Key]):
    """`work(key)` is called for every key added; it may return in how many seconds to be called again (None: not).

    When it raises, the key is tried again after `first_retry_s`, doubling up to `max_retry_s` until it succeeds.
    Errors of the types `expected` are logged in one line, others with a traceback, once in a row. The number of keys
    that wait is bounded by the number of keys that exist.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[float | None]],
        name: str,
        first_retry_s: float = 0.2,
        max_retry_s: float = 30.0,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self._work = work
        self._name = name
        self._first_retry_s = first_retry_s
        self._max_retry_s = max_retry_s
        self._expected = expected
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}

    def add(self, key: Key) -> None:
        """This key needs work now."""
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: Key, delay_s: float) -> None:
        """This key needs work at the latest in `delay_s` seconds; an earlier date stands."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay_s
        timer = self._timers.get(key)
        if key in self._waiting or (timer is not None and timer.when() <= due):
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_at(due, self._timer_due, key)

    def forget(self, key: Key) -> None:
        """Drop the failures and the date of a key that no longer exists."""
        self._cancel_timer(key)
        self._failures.pop(key, None)

    async def run(self, workers: int) -> None:
        """Work until cancelled, on up to `workers` keys at once."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker())
        finally:
            for key in list(self._timers):
                self._cancel_timer(key)

    async def _worker(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._running.add(key)
            try:
                delay_s = await self._attempt(key)
            finally:
                self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            elif delay_s is not None:
                self.add_after(key, delay_s)

    async def _attempt(self, key: Key) -> float | None:
        try:
            delay_s = await self._work(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay_s = min(self._first_retry_s * 2 ** min(failures - 1, 20), self._max_retry_s)
            # The first lines of a story are enough; the rest would only repeat it.
            trace = failures == 1 and not isinstance(error, self._expected)
            log.warning(
                "%s of %s failed (%d in a row), again in %.1f s: %s",
                self._name, key, failures, delay_s, error, exc_info=trace,
            )  # fmt: skip
        else:
            self._failures.pop(key, None)
        return delay_s

    def _timer_due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
