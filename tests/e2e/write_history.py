"""What one client knows of the writes to its own key, and what a value that it reads there means.

A write that got no answer, or was answered with INDETERMINATE, may be executed at any later time, over newer ones: that
is not the cluster's fault. An older value under one that was acknowledged is, unless just such a write explains it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Meaning(StrEnum):
    """What a value that was read says."""

    FINE = "fine"
    """The newest acknowledged value, or a newer one."""
    EMPTIED = "emptied"
    """There is no value, although one was acknowledged."""
    UNDONE = "undone"
    """Newer acknowledged writes are gone."""
    LATE = "late"
    """A write of unknown fate was executed after newer ones."""
    WRONG = "wrong"
    """A value that this client did not write, or whose write was refused as not executed."""


@dataclass(slots=True)
class Write:
    """One write. `fate` is "" while nothing was heard of it; seconds are monotonic."""

    sent_at: float
    acknowledged_at: float | None = None
    executed: bool = False
    refused: bool = False
    fate: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """The meaning of a value that was read. `sequence` is the value's write, None when there is none; `undone` are the
    acknowledged writes that are gone."""

    meaning: Meaning
    sequence: int | None
    undone: tuple[Write, ...] = ()


@dataclass
class History:
    """All writes of one client (`owner`) to one key, numbered from 0."""

    owner: str
    writes: list[Write] = field(default_factory=list)
    newest: int = -1
    """The newest write that is known to stand."""
    _writes_read: int = 0
    """How many writes there were at the last read."""

    def send(self, now: float) -> int:
        """Another write is about to be sent; its number."""
        self.writes.append(Write(now))
        return len(self.writes) - 1

    def value(self, sequence: int) -> str:
        """What this write writes."""
        return f"{self.owner}:{sequence}"

    def acknowledged(self, sequence: int, now: float) -> None:
        """The cluster said that it was executed."""
        write = self.writes[sequence]
        write.acknowledged_at, write.executed, write.fate = now, True, "acknowledged"
        self.newest = sequence

    def refused(self, sequence: int, error: str) -> None:
        """The cluster said that it was not executed, and never will be."""
        self.writes[sequence].refused = True
        self.writes[sequence].fate = error

    def unknown(self, sequence: int, error: str) -> None:
        """It may or may not have been executed, or be executed later."""
        self.writes[sequence].fate = error

    @property
    def unsure(self) -> bool:
        """Whether the fate of the last write is unknown and was not read since: whoever writes over it never knows."""
        return len(self.writes) > self._writes_read and not (self.writes[-1].executed or self.writes[-1].refused)

    def read(self, value: bytes | None) -> Finding:
        """What a value means that was read when no write of this client was under way on the same connection.

        It stands from now on: what is missing is told once.
        """
        before, self._writes_read = self.newest, len(self.writes)
        if value is None:
            self.newest = -1
            return Finding(Meaning.EMPTIED if before >= 0 else Meaning.FINE, None)
        sequence = self._sequence(value)
        if sequence is None or self.writes[sequence].refused:
            return Finding(Meaning.WRONG, sequence)
        write = self.writes[sequence]
        self.newest = sequence
        known, write.executed = write.executed, True  # a write is executed once: seen again later, it is not late
        if sequence >= before:
            return Finding(Meaning.FINE, sequence)
        if not known:
            return Finding(Meaning.LATE, sequence)
        gone = [write for write in self.writes[sequence + 1 : before + 1] if write.acknowledged_at is not None]
        # What was read but never acknowledged may be taken back.
        return Finding(Meaning.UNDONE if gone else Meaning.FINE, sequence, tuple(gone))

    def _sequence(self, value: bytes) -> int | None:
        owner, _, number = value.decode(errors="replace").rpartition(":")
        if owner != self.owner or not number.isdigit() or int(number) >= len(self.writes):
            return None
        return int(number)
