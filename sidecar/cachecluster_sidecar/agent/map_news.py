"""What of a map that was just read concerns this pod most."""

from __future__ import annotations

from cachecluster_core.hashring import HashRing


def filled_from(ring: HashRing | None, pod: str) -> tuple[int, ...]:
    """The partitions whose learners are filled from this pod's primaries."""
    entries = ring.entries if ring is not None else ()
    return tuple(
        partition
        for partition, entry in enumerate(entries)
        if entry.learners and entry.primary is not None and entry.primary.pod == pod
    )


def changed_entries(before: HashRing | None, after: HashRing | None) -> set[int]:
    """The partitions whose entry is another one than before; none when that cannot be told."""
    if before is None or after is None:
        return set()
    return {p for p, (old, new) in enumerate(zip(before.entries, after.entries, strict=False)) if old != new}
