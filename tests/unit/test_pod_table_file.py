"""The pod table on disk: what survives an agent, a torn write, another boot; and that readers never see a mixture."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import pytest

from cachecluster_core import pod_table
from cachecluster_core.hashring import CopyId
from cachecluster_core.pod_table import Marks
from cachecluster_sidecar.agent.table import GateRecord, PodTable, TableMismatch, read_header

pytestmark = pytest.mark.t0

BOOT, OTHER_BOOT = "a" * 36, "b" * 36
RECORD = GateRecord(seen_epoch=7, gate_epoch=7, deadline_ns=1 << 62, generation=3)
MARKS = Marks(seen_epoch=7, rank_term=5, run_id="r" * 40, required=(CopyId("pod", "r"),), promised_until_ns=99)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pod-table"


def test_a_new_table_is_empty_whole_and_private(path: Path) -> None:
    table = PodTable.open(path, 4, BOOT)
    assert [table.gate(p) for p in range(4)] == [GateRecord()] * 4
    assert [table.marks(p) for p in range(4)] == [Marks()] * 4
    assert path.stat().st_size == pod_table.table_bytes(4) and path.stat().st_mode & 0o777 == 0o600
    assert read_header(path) == (4, BOOT)
    table.close()


def test_the_next_agent_of_the_same_boot_finds_everything_and_an_open_gate_stays_open(path: Path) -> None:
    table = PodTable.open(path, 4, BOOT)
    inode = path.stat().st_ino
    table.write_gate(2, RECORD)
    table.write_marks(2, MARKS)
    table.close()
    again = PodTable.open(path, 4, BOOT)
    assert again.gate(2) == RECORD and again.marks(2) == MARKS
    assert path.stat().st_ino == inode, "routers have the file mapped"
    again.close()


def test_after_another_boot_gates_are_shut_and_times_void_but_floors_and_marks_stay(path: Path) -> None:
    table = PodTable.open(path, 4, BOOT)
    table.write_gate(2, RECORD)
    table.write_marks(2, MARKS)
    table.close()
    again = PodTable.open(path, 4, OTHER_BOOT)
    assert again.gate(2) == GateRecord(seen_epoch=7, gate_epoch=0, deadline_ns=0, generation=4)
    assert again.marks(2).seen_epoch == 7 and again.marks(2).run_id == MARKS.run_id
    assert again.marks(2).promised_until_ns == 0
    assert read_header(path) == (4, OTHER_BOOT)
    again.close()


def test_a_gate_record_that_an_agent_left_half_written_is_shut_at_a_new_generation(path: Path) -> None:
    table = PodTable.open(path, 4, BOOT)
    table.write_gate(1, RECORD)
    table.close()
    with path.open("r+b") as file:
        file.seek(pod_table.gate_offset(1))
        file.write(struct.pack("<Q", 3))  # odd: the agent died while it wrote
    again = PodTable.open(path, 4, BOOT)
    mended = again.gate(1)
    assert mended.gate_epoch == 0 and mended.generation == RECORD.generation + 1
    assert mended.seen_epoch == RECORD.seen_epoch
    again.close()


def test_a_torn_write_of_marks_leaves_the_earlier_ones(path: Path) -> None:
    table = PodTable.open(path, 4, BOOT)
    table.write_marks(3, Marks(seen_epoch=1))
    table.write_marks(3, Marks(seen_epoch=2))
    table.close()
    for index in range(2):  # whichever slot holds the newer marks: damage it, and find the other
        data = bytearray(path.read_bytes())
        offset = pod_table.mark_offset(3, 4) + index * pod_table.MARK_SLOT_BYTES
        data[offset + pod_table.MARK_HEAD.size + 3] ^= 0xFF
        damaged = path.with_name(f"damaged-{index}")
        damaged.write_bytes(data)
        again = PodTable.open(damaged, 4, BOOT)
        assert again.marks(3).seen_epoch in (1, 2)
        again.write_marks(3, Marks(seen_epoch=9))
        assert again.marks(3).seen_epoch == 9
        again.close()


def test_marks_alternate_and_the_newest_counts(path: Path) -> None:
    table = PodTable.open(path, 2, BOOT)
    for epoch in range(1, 8):
        table.write_marks(0, Marks(seen_epoch=epoch))
        assert table.marks(0).seen_epoch == epoch
    table.close()
    again = PodTable.open(path, 2, BOOT)
    assert again.marks(0).seen_epoch == 7
    again.close()


def test_marks_that_do_not_fit_are_refused(path: Path) -> None:
    table = PodTable.open(path, 2, BOOT)
    with pytest.raises(ValueError, match="do not fit"):
        table.write_marks(0, Marks(required=tuple(CopyId("p" * 36, "r" * 40) for _ in range(40))))
    table.close()


def test_another_number_of_partitions_is_refused_and_the_file_left_alone(path: Path) -> None:
    PodTable.open(path, 4, BOOT).close()
    before = path.read_bytes()
    with pytest.raises(TableMismatch, match="4 partitions"):
        PodTable.open(path, 8, BOOT)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * pod_table.table_bytes(4), b"CCTABLE1" + b"\0" * 100])
def test_a_file_that_is_no_table_is_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    table = PodTable.open(path, 4, BOOT)
    assert read_header(path) == (4, BOOT)
    table.close()


def test_the_record_is_odd_while_it_changes_and_laid_out_as_routers_read_it(path: Path) -> None:
    table = PodTable.open(path, 4, BOOT)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as reader:
        table.write_gate(1, RECORD)
        sequence, seen, epoch, deadline, generation = pod_table.GATE.unpack_from(reader, pod_table.gate_offset(1))
        assert sequence == 2
        assert (seen, epoch, deadline, generation) == (7, 7, 1 << 62, 3)
        table.write_gate(1, GateRecord(generation=4))
        assert pod_table.GATE.unpack_from(reader, pod_table.gate_offset(1)) == (4, 0, 0, 0, 4)
    table.close()
