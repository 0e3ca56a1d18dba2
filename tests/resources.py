"""What processes cost: CPU and memory, read from /proc."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Name = TypeVar("Name")
TICKS = os.sysconf("SC_CLK_TCK")
IDLE_ENGINES = 20
"""What an idle process of ours may cost, in idle engines: each of these wakes ten times a second, as ours do, and takes
0.1 % of a core where nothing else runs, and four times that on a machine that is shared. The ratio stays."""


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


def measure(pids: Mapping[Name, int], seconds: float) -> dict[Name, Cost]:
    """Watch processes for so long."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    return {name: Cost(100 * (cpu_seconds(pid) - before[name]) / elapsed, pss_mib(pid)) for name, pid in pids.items()}


def idle_limit(engines: Iterable[Cost]) -> float:
    """The CPU in per cent of a core that an idle process of ours may take, from what engines took at the same time."""
    return IDLE_ENGINES * statistics.fmean(cost.cpu_percent for cost in engines)
