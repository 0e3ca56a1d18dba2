"""The gates of this pod: their records in the pod table, and what the routers have confirmed of them.

A gate that is shut for a hand-over is *patient*: routers wait for what is in flight however long it takes, while
otherwise they give it up after a moment. The agent gives the hand-over up instead, and opens the gate again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from cachecluster_core.agent_view import GateChange, GateView, Promise
from cachecluster_core.gate_step import SHUT
from cachecluster_core.pod_table import Marks
from cachecluster_core.promises import promised_since

from .clock import boottime_ns
from .router_hub import GateNotice, RouterHub
from .table import GateRecord, PodTable


class Gates:
    """Nothing is written before `use_table`, nothing announced before `use_hub`."""

    def __init__(self) -> None:
        self._hub: RouterHub | None = None
        self._table: PodTable | None = None
        self._records: dict[int, GateRecord] = {}
        self._marks: Mapping[int, Marks] = {}
        self._patient: frozenset[int] = frozenset()

    def use_hub(self, hub: RouterHub) -> None:
        """Announce to these routers."""
        self._hub = hub

    def use_table(self, table: PodTable, marks: Mapping[int, Marks], patient: frozenset[int]) -> None:
        """Take over the gates as they stand in the table; `patient` are those that were shut for a hand-over.

        `marks` are looked at whenever routers are told of an open gate: they must be those in the table.
        """
        records = {partition: table.gate(partition) for partition in range(table.partitions)}
        self._table = table
        self._marks = marks
        self._records = {partition: record for partition, record in records.items() if record != GateRecord()}
        self._patient = patient

    def views(self, only: Iterable[int] | None = None) -> dict[int, GateView]:
        """What `agent_step` sees of them, or of these."""
        shown = self._records if only is None else [partition for partition in only if partition in self._records]
        return {partition: self._view(partition) for partition in shown}

    def _view(self, partition: int) -> GateView:
        record = self._records[partition]
        return GateView(record.gate_epoch, record.generation, record.deadline_ns, self._confirmed(partition))

    def is_shut(self, partition: int) -> bool:
        """Its record says so, whether routers have confirmed it or not."""
        return self._records.get(partition, GateRecord()).gate_epoch == SHUT

    def open_gates(self) -> dict[int, tuple[int, int]]:
        """Epoch and milliseconds of authority left of every open gate."""
        now = boottime_ns()
        return {
            partition: (record.gate_epoch, (record.deadline_ns - now) // 1_000_000)
            for partition, record in self._records.items()
            if record.gate_epoch != SHUT and record.deadline_ns > now
        }

    def change(self, changes: Iterable[GateChange]) -> None:
        """Write the records, then tell the routers of new generations."""
        announced = []
        for change in changes:
            self._write(change)
            if change.new_generation:
                self._patient -= {change.partition}
                announced.append(change.partition)
            if change.patient:
                self._patient |= {change.partition}
        self._announce(announced)

    def be_patient(self, wanted: frozenset[int]) -> None:
        """Only these are shut for a hand-over: what another gate still waits for may be given up."""
        no_more = self._patient - wanted
        self._patient &= wanted
        self._announce(sorted(partition for partition in no_more if self.is_shut(partition)))

    def notices(self) -> list[GateNotice]:
        """All gates, for a router that knows none."""
        return [self._notice(partition) for partition in self._records]

    def promised(self, pod: str, promises: Mapping[int, Mapping[str, Promise]]) -> None:
        """While the map cannot be read: routers that start meanwhile may know the gates that this `pod` keeps open by
        what others have promised since."""
        if self._hub is None or not self._hub.waiting:
            return
        since = {}
        for partition, record in self._records.items():
            marks = self._marks.get(partition, Marks())
            if record.gate_epoch != SHUT and marks.required_epoch == record.gate_epoch:
                others = {copy.pod for copy in marks.required} - {pod}
                asked_at_ns = promised_since(promises.get(partition, {}), others, record.gate_epoch)
                if asked_at_ns is not None:
                    since[partition] = asked_at_ns
        self._hub.promised(since, self._notice)

    async def shut_all(self, timeout_s: float, changed: asyncio.Event) -> None:
        """Shut every gate, and wait until the routers have confirmed it; `changed` is set when they say something."""
        self._patient = frozenset()
        for partition, record in list(self._records.items()):
            if record.gate_epoch != SHUT:
                self._write(GateChange(partition, record.seen_epoch, SHUT, record.deadline_ns, True))
        self._announce(self._records)
        give_up_at = asyncio.get_running_loop().time() + timeout_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(give_up_at):
                while not all(self._confirmed(partition) for partition in self._records):
                    changed.clear()
                    await changed.wait()

    def _write(self, change: GateChange) -> None:
        assert self._table is not None
        before = self._records.get(change.partition, GateRecord())
        record = GateRecord(
            seen_epoch=change.seen_epoch,
            gate_epoch=change.gate_epoch,
            deadline_ns=change.deadline_ns,
            generation=before.generation + change.new_generation,
        )
        self._table.write_gate(change.partition, record)
        self._records[change.partition] = record

    def _announce(self, partitions: Iterable[int]) -> None:
        notices = [self._notice(partition) for partition in partitions]
        if notices and self._hub is not None:
            self._hub.announce(notices)

    def _notice(self, partition: int) -> GateNotice:
        record = self._records[partition]
        more: dict[str, Any] = {}
        if record.gate_epoch == SHUT:
            more = {"patient": True} if partition in self._patient else {}
        elif (marks := self._marks.get(partition, Marks())).required_epoch == record.gate_epoch:
            more = {"required": [str(copy) for copy in marks.required]}
        return (partition, record.generation, more) if more else (partition, record.generation)

    def _confirmed(self, partition: int) -> bool:
        generation = self._records[partition].generation
        return generation == 0 or self._hub is None or self._hub.confirmed(partition, generation)
