"""The ring: mmh3 consistent hashing of pods with virtual nodes.

After Karger et al., "Consistent Hashing and Random Trees" (1997). The ring only gives an order of preference; how many
copies a pod takes, and which zones they stand in, is `placement`'s.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator

import mmh3

VIRTUAL_NODES = 64


def _point(text: str) -> int:
    return int(mmh3.hash64(text.encode(), signed=False)[0])


class Ring:
    """Points of all pods on the circle of 64-bit hashes.

    `weights` scales a pod's number of virtual nodes (1.0 when absent). Names, not UIDs, are hashed: a pod made anew
    under its old name stands where the old one stood.
    """

    def __init__(self, names: Iterable[str], weights: dict[str, float] | None = None) -> None:
        self._points: list[tuple[int, str]] = []
        self._names = sorted(set(names))
        for name in self._names:
            count = max(1, round(VIRTUAL_NODES * (weights or {}).get(name, 1.0)))
            self._points += [(_point(f"{name}/{index}"), name) for index in range(count)]
        self._points.sort()

    def walk(self, partition: int) -> Iterator[str]:
        """All names, each once, in clockwise order from the partition's point."""
        start = bisect.bisect_left(self._points, (_point(f"partition/{partition}"), ""))
        seen: set[str] = set()
        for offset in range(len(self._points)):
            name = self._points[(start + offset) % len(self._points)][1]
            if name not in seen:
                seen.add(name)
                yield name
            if len(seen) == len(self._names):
                return
