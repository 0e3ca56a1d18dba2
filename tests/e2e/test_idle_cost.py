"""What an idle cluster of three nodes costs: CPU and memory of each process, against limits."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable

import pytest
from tests.e2e.cache_in_pods import Process, processes_of
from tests.e2e.demo_in_pods import Demo
from tests.e2e.installed import Release
from tests.resources import Cost, idle_limit, measure

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

SECONDS = 20.0
SETTLED_S = 5.0
SIDECAR_PSS_MIB = 76


def line(pod: str, process: Process, cost: Cost) -> str:
    """For people."""
    number = "" if process.partition is None else f" p{process.partition}"
    return f"{pod:45} {process.role + number:10} {cost.cpu_percent:5.2f} % {cost.pss_mib:7.1f} MiB"


def test_an_idle_cluster_costs_little(demo: Demo, operator: Release, say: Callable[[str], None]) -> None:
    cache = demo.cache
    cache.wait_whole()
    time.sleep(SETTLED_S)  # what was asked before has been answered and forgotten
    system = operator.cluster.kubectl("--namespace", operator.namespace, "get", "pods", "-o", "json")
    pods = [*cache.view().pods, *json.loads(system)["items"]]
    pids = {
        (pod["metadata"]["name"], process): process.pid
        for pod in pods
        for process in processes_of(operator.cluster, pod)
    }
    costs = measure(pids, SECONDS)
    small = []
    sidecars: dict[str, float] = defaultdict(float)
    for (pod, process), cost in costs.items():
        if process.role == "other":
            small.append(cost)
        else:
            say(line(pod, process, cost))
        if process.container == "sidecar":
            sidecars[pod] += cost.pss_mib
    cpu = sum(cost.cpu_percent for cost in small)
    say(f"{len(small)} others (s6): {cpu:.2f} % and {sum(cost.pss_mib for cost in small):.1f} MiB together")
    for pod, total in sidecars.items():
        say(f"{pod:45} sidecar, all processes: {total:.1f} MiB")
    roles = {process.role for _, process in costs}
    assert {"agent", "router", "engine", "operator"} <= roles, roles
    assert len(sidecars) == 3 and max(sidecars.values()) <= SIDECAR_PSS_MIB, sidecars
    clusters = len(cache.get("cc")["items"])  # the operator serves those of other tests of the session, too
    limit = idle_limit(cost for (_, process), cost in costs.items() if process.role == "engine")
    say(f"limit, from what an idle engine takes: {limit:.2f} %; the operator serves {clusters} CacheClusters")
    served = {"operator": clusters}
    busy = [
        line(pod, process, cost)
        for (pod, process), cost in costs.items()
        if cost.cpu_percent > limit * served.get(process.role, 1)
    ]
    assert not busy, (busy, limit, clusters)
