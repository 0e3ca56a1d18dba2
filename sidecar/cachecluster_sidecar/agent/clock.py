"""The clock of authority: CLOCK_BOOTTIME in nanoseconds, and the kernel's boot id that says which boot it counts from.

CLOCK_BOOTTIME goes on while the machine sleeps (CLOCK_MONOTONIC does not), so a suspended pod wakes up without
authority. Routers compare deadlines with the same clock.
"""

from __future__ import annotations

import time
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boottime_ns() -> int:
    """Nanoseconds of CLOCK_BOOTTIME, now."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The kernel's boot id, 36 characters. OSError when /proc is not there."""
    return _BOOT_ID.read_text(encoding="ascii").strip()
