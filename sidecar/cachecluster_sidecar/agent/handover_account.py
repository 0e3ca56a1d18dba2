"""Counts the hand-overs of this pod's primaries for the metrics."""

from __future__ import annotations

from collections.abc import Mapping

from cachecluster_core.agent_view import TakenOver
from cachecluster_core.hashring import HashRing
from cachecluster_core.pod_table import HandOver, Marks

from ..metrics import SidecarMetrics


class HandOverAccount:
    """Only what this process saw happen is counted, so that a restart counts nothing twice."""

    def __init__(self, pod: str, metrics: SidecarMetrics) -> None:
        self._pod = pod
        self._metrics = metrics
        self._sent: dict[int, HandOver] = {}

    def marks_changed(self, partition: int, before: Marks, after: Marks) -> None:
        """New marks were written."""
        old, new = before.hand_over, after.hand_over
        if new == old:
            return
        if new.gave_up:
            self._metrics.handover_given_up()
        elif new.token_offset >= 0:
            self._sent[partition] = new

    def settle(self, ring: HashRing | None, taken_over: Mapping[int, TakenOver], now_ns: int) -> None:
        """Count what has come to its end: by the successor's word, or by a map that names another primary."""
        for partition, sent in list(self._sent.items()):
            news = taken_over.get(partition)
            entry = ring.entries[partition] if ring is not None and partition < len(ring.entries) else None
            if news is not None and news.epoch == sent.epoch:
                served = True
            elif entry is not None and entry.epoch > sent.epoch:
                served = entry.primary is not None and entry.primary.pod != self._pod
            else:
                continue
            del self._sent[partition]
            if served:
                self._metrics.handover_done((now_ns - sent.shut_ns) / 1e9)
