"""What processes cost: CPU and memory, read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """CPU in per cent of one core, memory as proportional set size."""

    cpu_percent: float
    pss_mib: float


def cpu_seconds(pid: int) -> float:
    """User and system time so far, threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def pss_mib(pid: int) -> float:
    """Proportional set size in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(pids: Mapping[str, int], seconds: float) -> dict[str, Cost]:
    """Watch processes for so long."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    return {name: Cost(100 * (cpu_seconds(pid) - before[name]) / elapsed, pss_mib(pid)) for name, pid in pids.items()}
