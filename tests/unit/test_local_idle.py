"""What an idle cluster of three nodes costs, process by process."""

from __future__ import annotations

import pytest
from tests.resources import idle_limit, measure
from tests.unit.conftest import LocalFactory

pytestmark = [pytest.mark.t1, pytest.mark.timeout(120)]

SETTLE_S = 5.0
WATCH_S = 15.0
MAX_SIDECAR_MIB = 80.0


def test_an_idle_sidecar_is_small_and_nothing_of_ours_is_busy(local_cluster: LocalFactory) -> None:
    local = local_cluster()
    state = local.state()
    pids = {"control loop, store and supervision of all nodes": int(state["launcher"])}
    for node in state["nodes"]:
        pids[f"{node['name']} agent"] = node["pids"]["agent"]
        pids[f"{node['name']} router"] = node["pids"]["routers"][0]
        pids |= {f"{node['name']} engine {p}": pid for p, pid in node["pids"]["engines"].items()}
    measure(pids, SETTLE_S)
    costs = measure(pids, WATCH_S)
    for name, cost in costs.items():
        print(f"{name:50} {cost.cpu_percent:5.2f} % {cost.pss_mib:6.1f} MiB")  # noqa: T201 - figures for people
    for node in state["nodes"]:
        sidecar = costs[f"{node['name']} agent"].pss_mib + costs[f"{node['name']} router"].pss_mib
        assert sidecar <= MAX_SIDECAR_MIB
    busiest = max((name for name in costs if "engine" not in name), key=lambda name: costs[name].cpu_percent)
    limit = idle_limit(cost for name, cost in costs.items() if "engine" in name)
    print(f"limit, from what an idle engine takes {limit:18.2f} %")  # noqa: T201 - figures for people
    assert costs[busiest].cpu_percent <= limit, busiest
