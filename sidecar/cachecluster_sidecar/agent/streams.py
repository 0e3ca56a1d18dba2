"""Which attached replicas are known to get the stream: those whose acknowledged offset was seen to grow.

A replica's first acknowledgement comes with the end of its load. When the primary has not noticed the end of the
snapshot's process by then, it sends the stream only after the next one, a second later (replconfCommand and
updateSlavesWaitingBgsave in the engines' replication.c).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cachecluster_core.agent_view import Attached
from cachecluster_core.hashring import CopyId


class Streams:
    """Remembers the first offset that each replica acknowledged since it came online here."""

    def __init__(self) -> None:
        self._first: dict[CopyId, int] = {}

    def look(self, attached: Iterable[Attached]) -> tuple[Attached, ...]:
        """The same replicas as an INFO lists them, with `streams` set."""
        shown = tuple(attached)
        online = [replica for replica in shown if replica.copy is not None and replica.online and replica.offset > 0]
        self._first = {it.copy: self._first.get(it.copy, it.offset) for it in online if it.copy is not None}
        return tuple(replace(replica, streams=self._grew(replica)) for replica in shown)

    def _grew(self, replica: Attached) -> bool:
        return replica.copy is not None and replica.offset > self._first.get(replica.copy, replica.offset)
