"""What an idle cluster of three nodes costs: CPU and memory of each process, against limits."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.cache_in_pods import Process, processes_of
from tests.e2e.demo_in_pods import Demo
from tests.e2e.installed import Release

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

SECONDS = 20.0
SETTLED_S = 5.0
SIDECAR_PSS_MB = 80
CPU_PERCENT = 2.0
TICKS = os.sysconf("SC_CLK_TCK")
UTIME = 11
"""Of the fields of /proc/PID/stat behind the name; stime is the next."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process: percent of a core, and megabytes (10^6) of memory, shared pages counted by their share."""

    pod: str
    process: Process
    cpu_percent: float
    pss_mb: float

    def line(self) -> str:
        """For people."""
        number = "" if self.process.partition is None else f" p{self.process.partition}"
        return f"{self.pod:45} {self.process.role + number:10} {self.cpu_percent:5.2f} % {self.pss_mb:7.1f} MB"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[UTIME]) + int(fields[UTIME + 1])) / TICKS


def pss_mb(pid: int) -> float:
    """Proportional set size."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024 / 1e6


def measure(pods: dict[str, list[Process]], seconds: float) -> list[Cost]:
    """What each process took within `seconds`."""
    every = [(pod, process) for pod, processes in pods.items() for process in processes]
    before = {process.pid: cpu_seconds(process.pid) for _, process in every}
    began = time.monotonic()
    time.sleep(seconds)  # idle is what is measured
    return [
        Cost(
            pod, process, (cpu_seconds(process.pid) - before[process.pid]) / (time.monotonic() - began) * 100,
            pss_mb(process.pid),
        )
        for pod, process in every
    ]  # fmt: skip


def test_an_idle_cluster_costs_little(demo: Demo, operator: Release, say: Callable[[str], None]) -> None:
    cache = demo.cache
    cache.wait_whole()
    time.sleep(SETTLED_S)  # what was asked before has been answered and forgotten
    system = operator.cluster.kubectl("--namespace", operator.namespace, "get", "pods", "-o", "json")
    pods = [*cache.view().pods, *json.loads(system)["items"]]
    costs = measure({pod["metadata"]["name"]: processes_of(operator.cluster, pod) for pod in pods}, SECONDS)
    for cost in costs:
        if cost.process.role != "other":
            say(cost.line())
    small = [cost for cost in costs if cost.process.role == "other"]
    cpu = sum(cost.cpu_percent for cost in small)
    say(f"{len(small)} others (s6): {cpu:.2f} % and {sum(cost.pss_mb for cost in small):.1f} MB together")
    sidecars: dict[str, float] = defaultdict(float)
    for cost in costs:
        if cost.process.container == "sidecar":
            sidecars[cost.pod] += cost.pss_mb
    for pod, total in sidecars.items():
        say(f"{pod:45} sidecar, all processes: {total:.1f} MB")
    roles = {cost.process.role for cost in costs}
    assert {"agent", "router", "engine", "operator"} <= roles, roles
    assert len(sidecars) == 3 and max(sidecars.values()) <= SIDECAR_PSS_MB, sidecars
    clusters = len(cache.get("cc")["items"])  # the operator serves those of other tests of the session, too
    say(f"the operator serves {clusters} CacheClusters")
    served = {"operator": clusters}
    busy = [cost.line() for cost in costs if cost.cpu_percent > CPU_PERCENT * served.get(cost.process.role, 1)]
    assert not busy, (busy, clusters)
