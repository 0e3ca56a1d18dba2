"""Slots and partitions: which partition a key belongs to.

A slot is CRC16 (XMODEM) of the key, or of its `{hash tag}`, modulo 16384, as in the Redis Cluster specification. A
partition is one of `partitions` equal, contiguous ranges of slots; `partitions` is a power of two up to 512.
"""

from __future__ import annotations

import binascii

SLOTS = 16384
MAX_PARTITIONS = 512


def slot_of_key(key: bytes) -> int:
    """The slot of a key, 0..16383; only the first non-empty `{...}` of the key counts when there is one."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def partition_of_slot(slot: int, partitions: int) -> int:
    """The partition that holds a slot."""
    return slot * partitions // SLOTS


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition that holds a key."""
    return partition_of_slot(slot_of_key(key), partitions)


def slot_range(partition: int, partitions: int) -> tuple[int, int]:
    """First and last slot of a partition, both inclusive."""
    width = SLOTS // partitions
    return partition * width, (partition + 1) * width - 1
