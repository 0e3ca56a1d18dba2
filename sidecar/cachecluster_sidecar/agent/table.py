"""The pod table as a file: making, checking, mending and writing it; its layout is `cachecluster_core.pod_table`'s.

The agent is the only writer; routers map the same file. Fields of a gate record are stored one aligned 8-byte word at
a time, between two changes of `seq`. That is enough on x86-64, where a processor's stores are seen in their order.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from cachecluster_core import pod_table
from cachecluster_core.pod_table import Marks


class TableMismatch(Exception):
    """The file on disk belongs to a cluster with another number of partitions."""


@dataclass(frozen=True, slots=True)
class GateRecord:
    """A gate record without its sequence number. `deadline_ns` is CLOCK_BOOTTIME."""

    seen_epoch: int = 0
    gate_epoch: int = 0
    deadline_ns: int = 0
    generation: int = 0


class PodTable:
    """The mapped file. Writes are visible to routers at once and survive the agent's process, not the machine."""

    def __init__(self, path: Path, partitions: int) -> None:
        self.path = path
        self.partitions = partitions
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), pod_table.table_bytes(partitions))
        self._bytes = memoryview(self._map)
        self._words = self._bytes[: pod_table.mark_offset(0, partitions)].cast("Q")
        self._sequences = [self._newest_slot(partition)[0] for partition in range(partitions)]

    @classmethod
    def open(cls, path: Path, partitions: int, boot_id: str) -> Self:
        """Map the table, making or renewing the file first where that is needed.

        A valid table of this boot is kept as it is, but for records that a dead agent left half written: their gates
        are shut. After another boot gates are shut and times void, floors and marks are kept. TableMismatch when the
        file is valid for another number of partitions: there is no safe way on.
        """
        found = read_header(path)
        if found is None:
            _write_new(path, partitions, boot_id, {}, {})
        elif found[0] != partitions:
            raise TableMismatch(f"{path} has {found[0]} partitions, the map has {partitions}: delete the pod")
        elif found[1] != boot_id:
            _renew(cls(path, partitions), boot_id)
        table = cls(path, partitions)
        table._mend()
        return table

    def close(self) -> None:
        """Unmap the file."""
        self._words.release()
        self._bytes.release()
        self._map.close()

    def gate(self, partition: int) -> GateRecord:
        """The gate record of a partition, as this process wrote or found it."""
        word = self._word(partition)
        return GateRecord(
            seen_epoch=self._words[word + pod_table.SEEN_EPOCH],
            gate_epoch=self._words[word + pod_table.GATE_EPOCH],
            deadline_ns=self._words[word + pod_table.DEADLINE_NS],
            generation=self._words[word + pod_table.GENERATION],
        )

    def write_gate(self, partition: int, record: GateRecord) -> None:
        """Store a gate record so that no reader ever acts on a mixture of old and new."""
        word = self._word(partition)
        sequence = self._words[word + pod_table.SEQ] | 1
        self._words[word + pod_table.SEQ] = sequence
        self._words[word + pod_table.SEEN_EPOCH] = record.seen_epoch
        self._words[word + pod_table.GATE_EPOCH] = record.gate_epoch
        self._words[word + pod_table.DEADLINE_NS] = record.deadline_ns
        self._words[word + pod_table.GENERATION] = record.generation
        self._words[word + pod_table.SEQ] = sequence + 1

    def write_readable(self, partition: int, until_ns: int) -> None:
        """Until when the copy here may answer reads; 0: not at all. One aligned word, which needs no lock."""
        self._words[self._word(partition) + pod_table.READABLE_NS] = until_ns

    def readable_ns(self, partition: int) -> int:
        """What was written last."""
        return self._words[self._word(partition) + pod_table.READABLE_NS]

    def marks(self, partition: int) -> Marks:
        """The marks of a partition: the newest slot that was written to its end."""
        return self._newest_slot(partition)[1]

    def write_marks(self, partition: int, marks: Marks) -> None:
        """Store marks in the older slot, so that a torn write leaves the earlier ones. ValueError when too long."""
        sequence = self._sequences[partition] + 1
        data = pod_table.encode_marks(marks, sequence)
        offset = self._slot_offset(partition, sequence % 2)
        self._bytes[offset : offset + len(data)] = data
        self._sequences[partition] = sequence

    def _mend(self) -> None:
        for partition in range(self.partitions):
            if self._words[self._word(partition) + pod_table.SEQ] % 2:
                torn = self.gate(partition)
                self.write_gate(partition, replace(torn, gate_epoch=0, generation=torn.generation + 1))

    def _newest_slot(self, partition: int) -> tuple[int, Marks]:
        slots = []
        for index in range(2):
            offset = self._slot_offset(partition, index)
            slots.append(pod_table.decode_marks(bytes(self._bytes[offset : offset + pod_table.MARK_SLOT_BYTES])))
        valid = [slot for slot in slots if slot is not None]
        return max(valid, key=lambda slot: slot[0]) if valid else (0, Marks())

    def _slot_offset(self, partition: int, index: int) -> int:
        return pod_table.mark_offset(partition, self.partitions) + index * pod_table.MARK_SLOT_BYTES

    @staticmethod
    def _word(partition: int) -> int:
        return pod_table.gate_offset(partition) // 8


def read_header(path: Path) -> tuple[int, str] | None:
    """(partitions, boot id) of a table file, or None when there is no valid one."""
    try:
        with path.open("rb") as file:
            header = file.read(pod_table.HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    if len(header) < pod_table.HEADER_BYTES:
        return None
    magic, partitions, boot_id = pod_table.HEADER.unpack_from(header)
    if magic != pod_table.MAGIC or size != pod_table.table_bytes(partitions):
        return None
    return partitions, boot_id.decode("ascii", "replace")


def _renew(old: PodTable, boot_id: str) -> None:
    """Write the table anew for this boot: nothing of the processes and times of the last one is left."""
    gates, marks = {}, {}
    for partition in range(old.partitions):
        record = old.gate(partition)
        gates[partition] = replace(record, gate_epoch=0, deadline_ns=0, generation=record.generation + 1)
        marks[partition] = replace(old.marks(partition), promised_until_ns=0)
    path, partitions = old.path, old.partitions
    old.close()
    _write_new(path, partitions, boot_id, gates, marks)


def _write_new(
    path: Path, partitions: int, boot_id: str, gates: Mapping[int, GateRecord], marks: Mapping[int, Marks]
) -> None:
    """Make the file under another name and rename it: readers see no table or a whole one."""
    temporary = path.with_name(f".{path.name}.new")
    data = bytearray(pod_table.table_bytes(partitions))
    pod_table.HEADER.pack_into(data, 0, pod_table.MAGIC, partitions, boot_id.encode("ascii"))
    temporary.write_bytes(data)
    temporary.chmod(0o600)
    table = PodTable(temporary, partitions)
    for partition, record in gates.items():
        table.write_gate(partition, record)
    for partition, mark in marks.items():
        table.write_marks(partition, mark)
    table.close()
    temporary.replace(path)
