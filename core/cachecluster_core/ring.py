"""The ring: mmh3 consistent hashing of pods with virtual nodes.

After Karger et al., "Consistent Hashing and Random Trees" (1997). The ring only gives an order of preference; how many
copies a pod takes, and which zones they stand in, is `placement`'s. All pods weigh the same: they hold equal memory.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from functools import lru_cache

import mmh3

VIRTUAL_NODES = 64


def _point(text: str) -> int:
    return int(mmh3.hash64(text.encode(), signed=False)[0])


@lru_cache(maxsize=1024)
def _points_of(name: str) -> tuple[tuple[int, str], ...]:
    return tuple((_point(f"{name}/{index}"), name) for index in range(VIRTUAL_NODES))


class Ring:
    """Points of all pods on the circle of 64-bit hashes.

    Names, not UIDs, are hashed: a pod made anew under its old name stands where the old one stood.
    """

    def __init__(self, names: Iterable[str]) -> None:
        known = sorted(set(names))
        self._count = len(known)
        self._points = sorted(point for name in known for point in _points_of(name))
        self._twice = [name for _, name in self._points] * 2

    def walk(self, partition: int) -> tuple[str, ...]:
        """All names, each once, in clockwise order from the partition's point."""
        start = bisect.bisect_left(self._points, (_point(f"partition/{partition}"), ""))
        seen: dict[str, None] = {}
        step = 4 * self._count + VIRTUAL_NODES  # most often all names are among so many
        for begin in range(start, start + len(self._points), step):
            seen |= dict.fromkeys(self._twice[begin : begin + step])
            if len(seen) == self._count:
                break
        return tuple(seen)
