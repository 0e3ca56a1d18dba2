"""What an agent knows about the copy of one partition on its pod, read off an `AgentView`. Facts, no decisions."""

from __future__ import annotations

from .agent_view import NOWHERE, AgentView, CopyView, GateView
from .gate_step import SHUT
from .hashring import CopyId, Entry, HashRing
from .pod_table import Marks
from .promises import is_promised
from .report import Process

NO_COPY, NO_MARKS, NO_GATE = CopyView(), Marks(), GateView()


class CopyState:
    """One partition of the view. `marks` are those of the pod table, `identity` is the copy that runs here now."""

    def __init__(self, view: AgentView, partition: int) -> None:
        self.view = view
        self.partition = partition
        self.marks = view.marks.get(partition, NO_MARKS)
        self.gate = view.gates.get(partition, NO_GATE)
        self.copy = view.copies.get(partition, NO_COPY)
        self.identity = CopyId(view.pod, self.copy.run_id)
        self.entry = _entry_above_floor(view.map, partition, self.marks)

    @property
    def shut(self) -> bool:
        """The gate is shut for certain: all routers have confirmed it, or its deadline has passed."""
        return self.gate.gate_epoch == SHUT and (self.gate.confirmed or self.view.now_ns >= self.gate.deadline_ns)

    @property
    def adopted(self) -> bool:
        """The running process is the one that the marks are about."""
        return self.copy.run_id != "" and self.marks.run_id == self.copy.run_id

    @property
    def intact(self) -> bool:
        """The copy holds a history of the partition; False makes it a *new* copy (A4)."""
        copy = self.copy
        has_history = copy.source is None or copy.link_up or copy.has_stream
        return (
            copy.process is Process.UP
            and self.adopted
            and self.marks.rank_term > 0
            and not copy.syncing
            and has_history
        )

    @property
    def sealed(self) -> bool:
        """Its history is frozen and nothing of it is on its way to anybody: its offset is final."""
        return self.shut and self.copy.source == NOWHERE and self.intact and not self.copy.busy

    @property
    def named(self) -> bool:
        """The map gives this pod a copy of the partition."""
        return self.entry is not None and self.view.pod in self.entry.pods()

    def is_promised(self, entry: Entry, marks: Marks) -> bool:
        """A promise forbids to be sealed at this entry (A8)."""
        settings = self.view.map.settings if self.view.map is not None else None
        return is_promised(marks, entry.epoch, self.view.now_ns, settings)

    def address(self, copy: CopyId | None) -> tuple[str, int] | None:
        """Where a copy's redis can be replicated from."""
        member = self.view.map.member(copy.pod) if self.view.map is not None and copy is not None else None
        if member is None or not member.host:
            return None
        return member.host, self.view.replication_port + self.partition

    def in_step(self) -> set[CopyId]:
        """Attached replicas that follow within `isrMaxLagBytes`, or, with sync, have everything of 1.5 s ago.

        An acknowledged 0 cannot be told from none; the primary's ping, every second, makes it grow.
        """
        assert self.view.map is not None
        settings = self.view.map.settings
        floor = self.copy.settled_offset - (0 if settings.sync else settings.isr_max_lag_bytes)
        attached = self.copy.attached
        return {it.copy for it in attached if it.copy is not None and it.online and it.offset >= max(floor, 1)}


def _entry_above_floor(ring: HashRing | None, partition: int, marks: Marks) -> Entry | None:
    """The map's entry, unless this pod has seen a higher epoch (A1): then nothing is done about the partition."""
    if ring is None or partition >= len(ring.entries):
        return None
    entry = ring.entries[partition]
    return entry if entry.epoch >= marks.seen_epoch else None
