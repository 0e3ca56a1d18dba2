"""When a replica is to ask its primary anew: the engine by itself waits for a second after a link that failed.

A replica that follows before its primary was promoted is answered -NOMASTERLINK; a moment later it would be served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PAUSES_S = (0.1, 0.2, 0.4)
"""After each Follow of the same source; then the engine's own retries do."""

Source = tuple[str, int]


class AskAgain:
    """`look` is called when a pause is over: the copy observes its engine and tells `observed`. `due` stays until
    another command comes."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.due = False
        self._look = look
        self._source: Source | None = None
        self._asked = 0
        self._pause_over = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def followed(self, source: Source) -> None:
        """A Follow of this source has been carried out."""
        self.stop()
        if source != self._source:
            self._source, self._asked = source, 0
        if self._asked < len(PAUSES_S):
            self._timer = self._loop.call_later(PAUSES_S[self._asked], self._end_pause)
            self._asked += 1

    def forget(self) -> None:
        """The copy follows nobody, or has found whom it follows."""
        self.stop()
        self._source = None

    def stop(self) -> None:
        """A command is being carried out: what was due is not any more."""
        self.due = self._pause_over = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def observed(self, link_up: bool) -> bool:
        """The engine was looked at. True when it has just become time to ask anew."""
        if link_up:
            self.forget()
        elif self._pause_over and not self.due:
            self.due = True
            return True
        return False

    def _end_pause(self) -> None:
        self._timer = None
        self._pause_over = True
        self._look()
