"""How often a copy is looked at, and its offset as it was a while ago. Values only; knows no engine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a copy is looked at, and when it counts as silent. Seconds; `figures_every` is in polls: so often the
    figures for people, memory and keys, are asked for too. `quick` is for a copy whose partition is being handed over.
    """

    steady: float = 0.5
    awaiting_first: float = 0.02
    awaiting_growth: float = 1.5
    syncing: float = 0.1
    quick: float = 0.0015
    silent_after: float = 1.0
    settle: float = 1.5
    retry: float = 0.1
    command_timeout: float = 2.0
    reconnect: float = 0.05
    figures_every: int = 8


class OffsetHistory:
    """A copy's own offset of the last seconds. Times are the loop's."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._offsets: deque[tuple[float, int]] = deque()

    def clear(self) -> None:
        """What comes now counts in another history."""
        self._offsets.clear()

    def remember(self, now: float, offset: int) -> None:
        """The offset was observed now."""
        if not self._offsets or now - self._offsets[-1][0] >= self._pace.steady / 2:
            self._offsets.append((now, offset))
        while len(self._offsets) > 1 and now - self._offsets[1][0] >= self._pace.settle:
            self._offsets.popleft()

    def settled(self, now: float) -> int:
        """The offset as it was at least `Pace.settle` ago; -1 when that is not known yet."""
        if self._offsets and now - self._offsets[0][0] >= self._pace.settle:
            return self._offsets[0][1]
        return -1
