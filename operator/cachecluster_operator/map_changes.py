"""What happened between two maps of a cluster, for metrics. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cachecluster_core.hashring import Entry, HashRing, State


@dataclass(frozen=True, slots=True)
class MapChanges:
    """Partitions that began to elect, got a primary after that, were given up, or were handed over as planned; and
    copies that came in sync."""

    electing: tuple[int, ...] = ()
    failed_over: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    repaired: int = 0
    moved: int = 0


NOTHING = MapChanges()


def map_changes(before: HashRing | None, after: HashRing | None) -> MapChanges:
    """The changes; none when either map is missing or they are of different sizes.

    Maps that were written between the two leave no trace but in the terms: a partition whose term grew while it was
    Stable in both has failed over once at least.
    """
    if before is None or after is None or before is after or len(before.entries) != len(after.entries):
        return NOTHING
    pairs = [(index, old, new) for index, (old, new) in enumerate(zip(before.entries, after.entries, strict=True))]
    pairs = [(index, old, new) for index, old, new in pairs if old is not new]
    return MapChanges(
        electing=tuple(index for index, old, new in pairs if _began(old, new, State.ELECTING)),
        failed_over=tuple(index for index, old, new in pairs if _failed_over(old, new)),
        lost=tuple(index for index, old, new in pairs if _began(old, new, State.LOST)),
        repaired=sum(_repaired(old, new) for _, old, new in pairs),
        moved=sum(old.state is State.MOVING and new.primary == old.successor for _, old, new in pairs),
    )


def _began(old: Entry, new: Entry, state: State) -> bool:
    return new.state is state and old.state is not state


def _failed_over(old: Entry, new: Entry) -> bool:
    if old.state is State.ELECTING:
        return new.state is State.STABLE
    return old.state is State.STABLE and new.state is State.STABLE and new.term > old.term


def _repaired(old: Entry, new: Entry) -> int:
    """Copies that joined a set which had a primary before and has the same one now."""
    if old.primary is None or old.primary != new.primary:
        return 0
    return len(set(new.isr) - set(old.isr))
