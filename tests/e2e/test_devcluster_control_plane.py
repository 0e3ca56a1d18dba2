"""The development cluster's control plane: stopped, frozen, started twice, and what a crashed launcher leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cachecluster_devcluster import cgroups
from cachecluster_devcluster.api import wait
from cachecluster_devcluster.cluster import DevCluster, sweep
from cachecluster_devcluster.processes import Ledger, ProcessError, start_time
from cachecluster_devcluster.state import State

pytestmark = [pytest.mark.t2, pytest.mark.timeout(300)]  # a cluster that lost its API server is waited for


def test_up_of_a_running_cluster_changes_nothing(devcluster: DevCluster) -> None:
    before = [devcluster.machine(name).init for name in ("hub", "n1", "n2", "n3")]
    devcluster.up(3)
    assert [devcluster.machine(name).init for name in ("hub", "n1", "n2", "n3")] == before


def test_status_tells_three_ready_nodes_in_three_zones(devcluster: DevCluster) -> None:
    status = devcluster.status()
    assert status.api_ready
    assert [(node.name, node.running, node.ready) for node in status.nodes] == [
        (f"n{i}", True, True) for i in (1, 2, 3)
    ]
    zones = devcluster.kubectl(
        "get", "nodes", "-o", r"jsonpath={.items[*].metadata.labels.topology\.kubernetes\.io/zone}"
    )
    assert zones.split() == ["z1", "z2", "z3"]


def test_api_server_killed_and_started_again(faults: DevCluster) -> None:
    assert faults.stop_api()
    assert not faults.status().api_ready
    with pytest.raises(ProcessError):
        faults.kubectl("get", "nodes", "--request-timeout=2s")
    faults.start_api()
    assert "n1" in faults.kubectl("get", "nodes")


def test_api_server_frozen_and_thawed(faults: DevCluster) -> None:
    faults.freeze_api()
    with pytest.raises(ProcessError):
        faults.kubectl("get", "nodes", "--request-timeout=1s")
    faults.thaw_api()
    wait("the API server after the thaw", lambda: faults.status().api_ready, 10)


def test_services_and_names_answer_in_the_hub(devcluster: DevCluster) -> None:
    assert "10.96.0.1" in devcluster.hub_exec(["getent", "hosts", "kubernetes.default"])
    kubeconfig = f"--kubeconfig={devcluster.hub_kubeconfig}"
    kubectl = [str(Path(sys.executable).with_name("kubectl")), kubeconfig]
    answer = devcluster.hub_exec([*kubectl, "--server=https://kubernetes.default.svc", "get", "--raw=/readyz"])
    assert answer == "ok"


@pytest.fixture
def crashed(tmp_path: Path, devcluster: DevCluster) -> Path:
    """The state folder of a cluster whose launcher was killed in the middle of its work."""
    folder = tmp_path / "crashed"
    up = "import sys; from pathlib import Path; from cachecluster_devcluster.cluster import DevCluster as C; "
    up += "C(Path(sys.argv[1])).up(1, owned=True)"
    ledger = Ledger(folder / "pids")
    with subprocess.Popen([sys.executable, "-c", up, str(folder)], start_new_session=True) as launcher:
        try:
            wait("the first machine", lambda: ledger.pid("hub.kube-apiserver") is not None, 30)
        finally:
            os.killpg(launcher.pid, signal.SIGKILL)
    assert ledger.pid("hub") is not None
    return folder


def test_leftovers_of_a_killed_launcher_are_removed(crashed: Path) -> None:
    ledger = Ledger(crashed / "pids")
    pids = [pid for pid in map(ledger.pid, ledger.names()) if pid is not None]
    assert sweep(crashed.parent) == [crashed]
    assert not crashed.exists()
    assert not any(start_time(pid) for pid in pids)
    assert not cgroups.freezer(State(crashed).cgroup_root).exists()


def test_down_without_a_cluster_says_so(tmp_path: Path) -> None:
    assert DevCluster(tmp_path / "none").down() is False
