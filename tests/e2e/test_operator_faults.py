"""The operator is away, or there are two of it, or somebody deleted the map: the data does not care."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.cache_in_pods import CacheInPods, until_all_gone
from tests.e2e.installed import Release
from tests.e2e.pod_faults import Fault
from tests.waiting import wait_until

from cachecluster_core.hashring import HashRing
from cachecluster_devcluster import image

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

GONE_S = 60.0
CHILDREN = "pods,services,secrets,serviceaccounts,roles,rolebindings,poddisruptionbudgets,hashrings"
BRIEF = {
    "apiVersion": "cachecluster.io/v1alpha1",
    "kind": "CacheCluster",
    "metadata": {"name": "brief"},
    "spec": {"nodes": 2, "replicationFactor": 2, "memory": "128Mi", "partitions": 4},
}


@contextmanager
def stopped(operator: Release) -> Iterator[None]:
    """No operator runs within; afterwards two do again."""
    system = ("--namespace", operator.namespace)

    def scale(replicas: int) -> None:
        operator.cluster.kubectl(*system, "scale", "deployment", operator.name, f"--replicas={replicas}")

    scale(0)
    try:
        selector = "app.kubernetes.io/name=cachecluster-operator"
        operator.cluster.kubectl(*system, "wait", "pod", "-l", selector, "--for=delete", "--timeout=60s")
        yield
    finally:
        scale(2)
        operator.cluster.kubectl(*system, "rollout", "status", "deployment", operator.name, "--timeout=60s")


def ring_of(fault: Fault) -> HashRing:
    """The map, which is there."""
    ring = fault.cache.ring()
    assert ring is not None
    return ring


def test_a_pod_is_killed_while_the_operator_is_stopped(fault: Fault, operator: Release) -> None:
    pod = fault.primary_pod(6)
    with stopped(operator):
        before = ring_of(fault)
        fault.wait_answers()
        force = ("--force", "--grace-period=0", "--wait=true")
        fault.begin("operator stopped, a pod killed, operator started")
        fault.cache.kubectl("delete", "pod", pod["metadata"]["name"], *force)
        assert ring_of(fault) == before
    fault.wait_answers(60)
    fault.finish(primary_lost=True)
    assert len(fault.cache.view().pods) == 3
    assert pod["metadata"]["uid"] not in [uid for uid, _ in ring_of(fault).members]


@contextmanager
def second_operator(operator: Release, log: Path) -> Iterator[None]:
    """An operator that asks no Lease, beside the one that holds it."""
    flags = {
        "--kubeconfig": str(operator.cluster.hub_kubeconfig),
        "--namespace": operator.watched,
        "--operator-namespace": operator.namespace,
        "--image": image.DEFAULT_TAG,
        "--metrics-port": "0",
    }
    program = [sys.executable, "-m", "cachecluster_operator.main", "--no-leader-election", "--no-observability"]
    command = operator.cluster.hub_command([*program, *(word for pair in flags.items() for word in pair)])
    with log.open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield
            assert process.poll() is None, log.read_text()[-4000:]
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_two_operators_at_once_do_no_harm(fault: Fault, operator: Release, tmp_path: Path) -> None:
    log = tmp_path / "second-operator.log"
    before = ring_of(fault)
    with second_operator(operator, log):
        wait_until(lambda: "managed" in log.read_text(), 30, "the second operator works on the cluster")
        fault.wait_answers()
        engines = [it for it in fault.cache.processes(fault.primary_pod(5)) if it.role == "engine"]
        fault.strike("two operators; all redis of a pod killed", lambda: fault.cache.kill(engines))
        fault.finish(primary_lost=True)
        victim = fault.primary_pod(7)
        name = victim["metadata"]["name"]
        force = ("--force", "--grace-period=0", "--wait=false")
        fault.strike("two operators; a pod killed", lambda: fault.cache.kubectl("delete", "pod", name, *force))
        fault.wait_replaced(victim)
        fault.finish(primary_lost=True)
    after = ring_of(fault)
    assert all(new.epoch >= old.epoch for old, new in zip(before.entries, after.entries, strict=True))
    assert len(fault.cache.view().pods) == 3


def test_the_map_is_deleted_by_hand(fault: Fault) -> None:
    before = ring_of(fault)
    delete = ("delete", "hashring", fault.cache.name, "--wait=false")
    fault.strike("HashRing deleted by hand", lambda: fault.cache.kubectl(*delete))
    events = fault.finish()
    after = ring_of(fault)
    assert after.uid != before.uid
    assert all(new.epoch > old.epoch for old, new in zip(before.entries, after.entries, strict=True))
    assert any(event.startswith("MapRebuilt: ") for event in events), events


@pytest.fixture
def brief(operator: Release) -> Iterator[CacheInPods]:
    """Another small cluster."""
    cache = CacheInPods(operator, "brief")
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(BRIEF))
    cache.wait_ready()
    yield cache
    cache.kubectl("delete", "cc", cache.name, "--ignore-not-found")


def test_a_cluster_deleted_while_the_operator_is_stopped_leaves_nothing(
    brief: CacheInPods, operator: Release, say: Callable[[str], None]
) -> None:
    owned = brief.kubectl("get", CHILDREN, "-l", "cachecluster.io/cluster=brief", "-o", "name").split()
    assert {name.partition("/")[0].partition(".")[0] for name in owned} == {
        "pod", "service", "secret", "serviceaccount", "role", "rolebinding", "poddisruptionbudget", "hashring",
    }  # fmt: skip
    with stopped(operator):
        brief.kubectl("delete", "cc", brief.name, "--wait=false")
        seconds = until_all_gone(brief, CHILDREN, GONE_S)
    say(f"{len(owned)} objects were garbage collected {seconds:.1f} s after their CacheCluster, without an operator")
