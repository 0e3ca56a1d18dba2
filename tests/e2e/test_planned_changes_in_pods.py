"""Everything an operations engineer plans, done to pods under load: no client sees an error, and nothing is lost.

CACHECLUSTER_TEST_KEYS (20000) and CACHECLUSTER_TEST_OPERATOR_KILLS (3) make it heavier.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.cache_in_pods import CacheInPods, Json, Process, processes_of
from tests.e2e.installed import Release
from tests.e2e.pod_changes import Changes, ChangeTable, Story
from tests.e2e.steady_clients import SteadyClients
from tests.waiting import wait_until

from cachecluster_devcluster import components, image
from cachecluster_devcluster.cluster import DevCluster
from cachecluster_operator.labels import METRICS_PORT

KEYS = int(os.environ.get("CACHECLUSTER_TEST_KEYS", "20000"))
KILLS = int(os.environ.get("CACHECLUSTER_TEST_OPERATOR_KILLS", "3"))
pytestmark = [pytest.mark.t4, pytest.mark.timeout(420 + 30 * KILLS)]

TABLE = Path(__file__).resolve().parents[2] / "build" / "planned-changes.json"
NAME = "planned"
NODES = ("n1", "n2", "n3")
OTHERS = "cachecluster.io/cluster!=demo"
"""Other tests count on where the pods of the shared cluster are."""
SECOND_TAG = "localhost/cachecluster:second"
FAT = 12_900_000
"""Bytes that a copy may use with three nodes of 128Mi (14.5 million), and not with two of 160Mi (12.7 million)."""
MISSING_TAG = "localhost/cachecluster:missing"
CLUSTER = {
    "apiVersion": "cachecluster.io/v1alpha1",
    "kind": "CacheCluster",
    "metadata": {"name": NAME},
    "spec": {"nodes": 3, "replicationFactor": 2, "memory": "128Mi", "repair": {"delaySeconds": 5}},
}


@pytest.fixture(scope="module")
def change_table(say: Callable[[str], None]) -> Iterator[ChangeTable]:
    """Shown at the end of the session, and left in build/planned-changes.json."""
    table = ChangeTable()
    yield table
    table.write(TABLE)
    for line in table.lines():
        say(line)


@pytest.fixture(scope="module")
def running(operator: Release, change_table: ChangeTable) -> Iterator[Changes]:
    """The cluster, and clients that never pause; in the end their counters are exact."""
    cache = CacheInPods(operator, NAME)
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(CLUSTER))
    try:
        cache.wait_ready()
        with Story(cache) as story, SteadyClients(cache, KEYS) as clients:
            yield Changes(cache, clients, story, change_table)
        result = clients.result
        assert (result["missing"], result["counters"]) == (0, []), result
    finally:
        cache.kubectl("delete", "cc", NAME, "--ignore-not-found")


@pytest.fixture
def changes(running: Changes) -> Changes:
    """The same, with nothing left to do, also of what another test began."""
    running.scale(3)
    running.wait_complete(3)
    return running


def test_nodes_are_added_and_removed(changes: Changes) -> None:
    with changes.phase("kubectl scale 3 -> 5") as phase:
        changes.scale(5)
        changes.wait_balanced(5)
    phase.assert_told("ScalingOut", "Complete", events=("ScalingOut", "ScalingCompleted"))
    with changes.phase("kubectl scale 5 -> 3") as phase:
        changes.scale(3)
        changes.wait_complete(3)
    phase.assert_told("ScalingIn", "Complete", events=("ScalingIn", "PodEmptied", "ScalingCompleted"))


def uids(changes: Changes) -> set[str]:
    """Of the pods that are there."""
    return {pod["metadata"]["uid"] for pod in changes.cache.view().pods}


def tag_on_every_node(changes: Changes) -> None:
    """Another name for the image."""
    ctr = ("ctr", "--address", components.CONTAINERD_SOCKET, "--namespace", "k8s.io")
    for node in NODES:
        changes.cache.cluster.node_exec(node, [*ctr, "images", "tag", "--force", image.DEFAULT_TAG, SECOND_TAG])


def test_a_roll_to_an_image_that_is_not_there_takes_no_pod_away_and_goes_on_with_one_that_is(changes: Changes) -> None:
    tag_on_every_node(changes)
    before = uids(changes)
    wanted = None if changes.cache.get("cc", NAME)["spec"].get("image") else SECOND_TAG
    with changes.phase("roll: spec.image to one that is not there"):
        changes.patch(image=MISSING_TAG)
        wait_until(lambda: "ImagePullBackOff" in message(changes, "Progressing"), 60, "status tells of the image")
        assert before < uids(changes), "a pod was taken away for one that does not start"
    with changes.phase("roll: spec.image") as phase:
        changes.patch(image=wanted)
        changes.wait_complete(3)
    assert not before & uids(changes)
    images = {container["image"] for pod in changes.cache.view().pods for container in pod["spec"]["containers"]}
    assert images == {wanted or image.DEFAULT_TAG}
    phase.assert_told("Rolling", "Complete", events=("PodReplaced", "RollCompleted"))


def message(changes: Changes, kind: str) -> str:
    """What a condition says."""
    text: str = changes.cache.view().condition(kind)["message"]
    return text


def test_every_node_is_drained(changes: Changes) -> None:
    cluster = changes.cache.cluster
    drain = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s", f"--pod-selector={OTHERS}")
    for node in NODES:
        with changes.phase(f"kubectl drain {node}") as phase:
            try:
                cluster.kubectl("drain", node, *drain)
                left = [pod for pod in changes.cache.view().pods if pod["spec"].get("nodeName") == node]
                assert not left, left
            finally:
                cluster.kubectl("uncordon", node)
            changes.wait_complete(3)
        phase.assert_told("Complete")


def test_primaries_return_to_a_node_that_was_lost(changes: Changes, faults: DevCluster) -> None:
    node = node_of_a_pod(changes)
    with changes.phase(f"{node} killed (not planned)", counted=False):
        faults.kill(node)
        changes.wait_told("Ready", "NodesNotReady", 60)
        changes.wait_answers()
        changes.clients.ask("forgive")
    with changes.phase(f"{node} returned, rebalance") as phase:
        faults.start(node)
        changes.wait_balanced(3)
    phase.assert_told("Complete")


def node_of_a_pod(changes: Changes) -> str:
    """A node that has one of the cluster's pods, and not the leading operator."""
    leader = leading_operator(changes)
    assert leader is not None
    nodes = {pod["spec"]["nodeName"] for pod in changes.cache.view().pods}
    found: str = min(nodes - {leader["spec"]["nodeName"]})
    return found


def test_a_pause_holds_a_scale_and_a_roll_back_but_not_failover(changes: Changes) -> None:
    before = uids(changes)
    memory = changes.cache.get("cc", NAME)["spec"]["memory"]
    with changes.phase("paused: scale and roll held back"):
        changes.pause(True)
        changes.scale(4)
        changes.patch(memory="160Mi" if memory == "128Mi" else "128Mi")
        changes.wait_told("Progressing", "Paused")
        assert "held back" in message(changes, "Paused")
    with changes.phase("paused: a primary's redis killed (not planned)", counted=False):
        kill_a_primary(changes, 3)
        changes.wait_answers()
        changes.clients.ask("forgive")
    assert uids(changes) == before
    with changes.phase("roll: spec.memory") as phase:
        changes.scale(3)
        changes.pause(False)
        changes.wait_complete(3)
    assert not before & uids(changes)
    phase.assert_told("Rolling", "Complete", events=("PodReplaced", "RollCompleted"))


def kill_a_primary(changes: Changes, partition: int) -> None:
    """SIGKILL to its redis process; returns when another one leads."""
    view = changes.cache.view()
    assert view.ring is not None
    old = view.ring.entries[partition].primary
    assert old is not None
    processes = changes.cache.processes(view.pod(old.pod))
    changes.cache.kill([it for it in processes if it.role == "engine" and it.partition == partition])
    wait_until(lambda: led_by_another(changes, partition, old), 20, "a fail-over")


def led_by_another(changes: Changes, partition: int, copy: object) -> bool:
    """Whether somebody else leads a partition now."""
    ring = changes.cache.ring()
    return ring is not None and ring.entries[partition].primary not in (None, copy)


def test_a_scale_in_that_does_not_fit_is_refused(changes: Changes) -> None:
    names = [f"{{fat}}:{number}" for number in range(13)]
    with changes.phase("a scale-in that does not fit is refused"):
        for name in names:
            changes.redis_cli("SETRANGE", name, "899999", "x")
        wait_until(lambda: largest_copy(changes) > FAT, 30, "agents see how large the copy is")
        before = uids(changes)
        changes.scale(2)
        changes.wait_told("UpToDate", "ScaleInRefused")
        assert uids(changes) == before
        changes.scale(3)
        changes.redis_cli("DEL", *names)
        changes.wait_complete(3)
    assert uids(changes) == before


def largest_copy(changes: Changes) -> float:
    """What the largest copy uses, by the metrics of the pods; bytes."""
    urls = [f"http://{pod['status']['podIP']}:{METRICS_PORT}/metrics" for pod in changes.cache.view().pods]
    lines = changes.cache.cluster.hub_exec(["curl", "--silent", "--fail", *urls]).splitlines()
    return max(float(line.split()[-1]) for line in lines if line.startswith("cachecluster_copy_used_memory_bytes{"))


def leading_operator(changes: Changes) -> Json | None:
    """The operator's pod that holds the Lease."""
    operator = changes.cache.operator
    system = ("--namespace", operator.namespace)
    lease = json.loads(operator.cluster.kubectl(*system, "get", "lease", operator.name, "-o", "json"))
    pods: list[Json] = json.loads(operator.cluster.kubectl(*system, "get", "pods", "-o", "json"))["items"]
    return next((pod for pod in pods if pod["metadata"]["name"] == lease["spec"]["holderIdentity"]), None)


def operator_processes(changes: Changes) -> list[Process]:
    """Of the operator that leads; none while nobody does."""
    pod = leading_operator(changes)
    if pod is None:
        return []
    return [process for process in processes_of(changes.cache.cluster, pod) if process.role == "operator"]


def kill_operator(changes: Changes) -> None:
    """kill -9 of the one that leads; its pod goes too, or kubelet would wait longer before each further start."""
    pod = leading_operator(changes)
    assert pod is not None
    changes.cache.kill(operator_processes(changes))
    gone = ("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0", "--wait=false")
    changes.cache.operator.cluster.kubectl("--namespace", changes.cache.operator.namespace, *gone)


def test_the_operator_is_killed_at_random_through_a_scale(changes: Changes) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    left = KILLS
    with changes.phase(f"scale 3 -> 5 -> 3, operator killed {KILLS} times"):
        for nodes in (5, 3):
            changes.scale(nodes)
            kills = left if nodes == 3 else (left + 1) // 2
            for _ in range(kills):
                time.sleep(chance.uniform(0, 8))
                wait_until(lambda: operator_processes(changes), 60, "somebody leads")
                kill_operator(changes)
            left -= kills
            changes.wait_complete(nodes, 400)
    # What the status says may be of the operator that was killed: until one that leads now has answered.
    changes.pause(True)
    changes.wait_told("Paused", "Paused", 60)
    changes.pause(False)
    changes.wait_told("Paused", "NotPaused")
