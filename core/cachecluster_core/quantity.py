"""Kubernetes quantities as CacheCluster uses them: whole bytes and CPU shares, parsed once at the border."""

from __future__ import annotations

import re
from decimal import Decimal

BYTES_PATTERN = r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"
CPU_PATTERN = r"^([0-9]+(\.[0-9]+)?|[0-9]+m)$"

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "Pi": 1 << 50,
}
_BYTES = re.compile(BYTES_PATTERN)
_CPU = re.compile(CPU_PATTERN)


def parse_bytes(value: int | str) -> int:
    """Bytes of `256Mi`, `1.5G` or a plain number, fractions of a byte dropped. ValueError says what is accepted."""
    text = str(value)
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size: write a number and a unit, such as 256Mi or 4Gi")
    unit = match.group(2) or ""
    return int(Decimal(text.removesuffix(unit)) * _UNITS[unit])


def parse_cpu(value: int | str) -> int:
    """Thousandths of a CPU of `500m`, `0.5` or `2`. ValueError says what is accepted."""
    text = str(value)
    if _CPU.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not an amount of CPU: write 500m, 0.5 or 2")
    if text.endswith("m"):
        return int(text[:-1])
    return int(Decimal(text) * 1000)


def format_bytes(count: int) -> str:
    """Bytes for people and for manifests: exact in the largest binary unit that divides them, else plain bytes."""
    for unit, size in (("Gi", GIB), ("Mi", MIB), ("Ki", KIB)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def round_up_to_mib(count: int) -> int:
    """The next whole MiB."""
    return -(-count // MIB) * MIB
