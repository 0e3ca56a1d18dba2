"""The layout of the pod table, the small memory-mapped file that agent and routers of a pod share.

Only the layout and the marks stand here; opening and mapping the file is the sidecar's. All numbers are little-endian.

    offset 0    header, 64 bytes: magic (8 bytes), partitions (u64), boot id of the kernel (36 bytes ASCII), padding
    offset 64   one gate record of 64 bytes per partition, read by routers for every batch (fields below, 8 bytes each)
    then        one mark area of 4096 bytes per partition, read and written by the agent only: two alternating slots

A gate record is written with a sequence lock: `seq` is odd while the record changes. A reader that still finds it odd
after a few tries must take the gate as shut (the agent may have died in the middle; the next one mends it).

One more word of the record stands outside of that lock, for it is of use by itself: READABLE_NS, until when
(CLOCK_BOOTTIME) the copy here may answer reads in its primary's place. Agents that do not know it leave it 0: never.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

from .hashring import CopyId

MAGIC = b"CCTABLE1"
HEADER = struct.Struct("<8sQ36s12x")
HEADER_BYTES = 64
GATE = struct.Struct("<QQQqQ24x")
GATE_BYTES = 64
MARK_AREA_BYTES = 4096
MARK_SLOT_BYTES = MARK_AREA_BYTES // 2
MARK_HEAD = struct.Struct("<QII")

# Index of each field of a gate record, in 8-byte words: for writers that store word by word.
SEQ, SEEN_EPOCH, GATE_EPOCH, DEADLINE_NS, GENERATION, READABLE_NS = range(6)


def table_bytes(partitions: int) -> int:
    """Size of the whole file."""
    return HEADER_BYTES + partitions * (GATE_BYTES + MARK_AREA_BYTES)


def gate_offset(partition: int) -> int:
    """Where the gate record of a partition begins."""
    return HEADER_BYTES + partition * GATE_BYTES


def mark_offset(partition: int, partitions: int) -> int:
    """Where the mark area of a partition begins."""
    return HEADER_BYTES + partitions * GATE_BYTES + partition * MARK_AREA_BYTES


@dataclass(frozen=True, slots=True)
class HandOver:
    """What a primary has done about the `Moving` entry of this epoch (A5). Times are nanoseconds of CLOCK_BOOTTIME.

    `since_ns` is when it took the entry, `shut_ns` when it shut its gate for the hand-over (0: not yet),
    `token_offset` the final offset in the token (-1: no token was sent). `gave_up` says that no token of this epoch
    was or will ever be sent. At most one of the last two is set.
    """

    epoch: int = 0
    since_ns: int = 0
    shut_ns: int = 0
    token_offset: int = -1
    gave_up: bool = False


@dataclass(frozen=True, slots=True)
class Marks:
    """What an agent must not forget about a partition, whatever happens to its process.

    `seen_epoch` is the floor: nothing below it is ever acted on (A1). `rank_term` is the term of the last primary that
    this copy was, or had its link up with (A4). `born_epoch` is the epoch at which the running process was started,
    `run_id` its identity. `required` is the set of copies that the primary requires at `required_epoch` (A7); every
    router had confirmed it at `required_since_ns` (0: not yet), and `required_offset` is the primary's own offset as
    asked for after that (-1: not yet known): who has acknowledged it holds all that was answered before.
    `hand_over` is the last hand-over that this pod's primary took part in, `taken_over_epoch` the epoch of the last
    token on which a copy here became primary (A6). `promised_epoch` and `promised_until_ns` belong to promises.
    """

    seen_epoch: int = 0
    rank_term: int = 0
    born_epoch: int = 0
    run_id: str = ""
    required_epoch: int = 0
    required: tuple[CopyId, ...] = field(default=())
    required_since_ns: int = 0
    required_offset: int = -1
    promised_epoch: int = 0
    promised_until_ns: int = 0
    hand_over: HandOver = HandOver()
    taken_over_epoch: int = 0


def encode_marks(marks: Marks, sequence: int) -> bytes:
    """One mark slot: sequence, length and CRC32 of the JSON that follows. ValueError when it does not fit."""
    data = asdict(marks)
    data["required"] = [str(copy) for copy in marks.required]
    body = json.dumps(data, separators=(",", ":")).encode()
    if len(body) > MARK_SLOT_BYTES - MARK_HEAD.size:
        raise ValueError(f"marks of {len(body)} bytes do not fit in a slot of {MARK_SLOT_BYTES}")
    return MARK_HEAD.pack(sequence, len(body), zlib.crc32(body)) + body


def decode_marks(slot: bytes) -> tuple[int, Marks] | None:
    """The sequence and marks of one slot, or None when it was never written or its writing was cut short."""
    sequence, length, crc = MARK_HEAD.unpack_from(slot)
    if sequence == 0 or length > MARK_SLOT_BYTES - MARK_HEAD.size:
        return None
    body = slot[MARK_HEAD.size : MARK_HEAD.size + length]
    if zlib.crc32(body) != crc:
        return None
    data: dict[str, Any] = json.loads(body)
    data["required"] = tuple(CopyId.parse(copy) for copy in data["required"])
    data["hand_over"] = HandOver(**data["hand_over"])
    return sequence, Marks(**data)
