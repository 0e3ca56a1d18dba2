"""Faults of processes, pods and nodes under load: all keys answer again, all copies come back, status tells it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.cache_in_pods import Json, Process, View, is_ready
from tests.e2e.pod_faults import Fault
from tests.waiting import wait_until

from cachecluster_devcluster.cluster import DevCluster

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

RESTART_S = 30.0


def processes(fault: Fault, pod: Json, role: str, partition: int | None = None) -> list[Process]:
    """The processes of one role in a pod."""
    of_role = [process for process in fault.cache.processes(pod) if process.role == role]
    return [process for process in of_role if partition is None or process.partition == partition]


def restarts(fault: Fault, pod: Json) -> list[int]:
    """How often the kubelet has started each container of a pod again."""
    statuses = fault.cache.view().pod(pod["metadata"]["uid"])["status"]["containerStatuses"]
    return [status["restartCount"] for status in statuses]


def assert_told(events: list[str], *reasons: str) -> None:
    """Each of these was an event since the blow."""
    for reason in reasons:
        assert any(event.startswith(f"{reason}: ") for event in events), (reason, events)


def test_the_redis_process_of_a_primary_is_killed(fault: Fault) -> None:
    pod = fault.primary_pod(3)
    engines = processes(fault, pod, "engine", 3)
    fault.strike("kill -9 of a primary's redis process", lambda: fault.cache.kill(engines))
    assert_told(fault.finish(primary_lost=True), "ElectionStarted", "PrimaryElected", "ReplicaJoined")
    assert fault.primary_pod(3)["metadata"]["uid"] != pod["metadata"]["uid"]


def test_a_router_is_killed(fault: Fault) -> None:
    pod = fault.primary_pod(0)
    routers, before = processes(fault, pod, "router"), restarts(fault, pod)
    fault.strike("kill -9 of a router", lambda: fault.cache.kill(routers))
    fault.finish()
    again = processes(fault, pod, "router")
    assert len(again) == len(routers) and not set(again) & set(routers)
    assert restarts(fault, pod) == before, "the agent starts its routers itself"


def test_an_agent_is_killed(fault: Fault) -> None:
    pod = fault.primary_pod(1)
    agents, routers = processes(fault, pod, "agent"), processes(fault, pod, "router")
    fault.strike("kill -9 of an agent", lambda: fault.cache.kill(agents))
    wait_until(lambda: processes(fault, pod, "agent"), RESTART_S, "another agent")
    fault.finish()
    assert not set(processes(fault, pod, "agent")) & set(agents)
    assert processes(fault, pod, "router") and routers


def test_every_process_of_a_pod_is_killed(fault: Fault) -> None:
    pod = fault.primary_pod(2)
    everything = fault.cache.processes(pod)
    assert {process.container for process in everything} == {"redis", "sidecar"}
    fault.strike("kill -9 of every process of a pod", lambda: fault.cache.kill(everything))
    assert_told(fault.finish(primary_lost=True), "ElectionStarted", "PrimaryElected", "ReplicaJoined")
    after = fault.cache.processes(fault.cache.view().pod(pod["metadata"]["uid"]))
    assert not {process.pid for process in after} & {process.pid for process in everything}


def test_a_pod_is_deleted(fault: Fault) -> None:
    pod = fault.primary_pod(4)
    fault.strike("kubectl delete pod", lambda: delete(fault, pod))
    fault.wait_replaced(pod)
    events = fault.finish()
    assert_told(events, "HandedOver", "ReplicaJoined")
    assert not [event for event in events if event.startswith("ElectionStarted")], "a primary was not handed over"
    assert len(fault.cache.view().pods) == 3


def test_a_pod_is_deleted_by_force(fault: Fault) -> None:
    pod = fault.primary_pod(4)
    flags = ("--force", "--grace-period=0")
    fault.strike(f"kubectl delete pod {' '.join(flags)}", lambda: delete(fault, pod, *flags))
    fault.wait_replaced(pod)
    assert_told(fault.finish(primary_lost=True), "ReplicaJoined")
    assert len(fault.cache.view().pods) == 3


def delete(fault: Fault, pod: Json, *flags: str) -> None:
    """`kubectl delete pod`, without waiting."""
    fault.cache.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false", *flags)


@pytest.fixture
def node_fault(fault: Fault, faults: DevCluster) -> Iterator[Fault]:
    """A fault of a node: it is back before anything else is asked of the cluster."""
    yield fault
    faults.up(3)


def _two_nodes_tell_it(view: View, pod: Json) -> str | None:
    """Why status does not (yet) say that a node is missing."""
    if is_ready(view.pod(pod["metadata"]["uid"])):
        return "the lost node's pod is still called ready"
    ready = view.condition("Ready")
    if (ready["status"], ready["reason"]) != ("False", "NodesNotReady"):
        return f"Ready is {ready}"
    assert view.cluster is not None
    nodes: str = view.cluster["status"]["nodesReady"]
    return None if nodes == "2/3" else f"nodesReady is {nodes}"


def test_a_node_is_cut_off_and_healed(node_fault: Fault) -> None:
    fault, pod = node_fault, node_fault.busiest_pod()
    node = pod["spec"]["nodeName"]
    fault.lead_elsewhere(node)
    fault.strike("node cut from the network", lambda: fault.cache.cluster.cut(node))
    fault.cache.wait_whole(60, nodes=2)
    assert _two_nodes_tell_it(fault.cache.view(), pod) is None
    fault.cache.cluster.heal(node)
    assert_told(fault.finish(primary_lost=True), "ElectionStarted", "PrimaryElected", "ReplicaLeft", "ReplicaJoined")


def test_a_node_is_killed_and_started_again(node_fault: Fault) -> None:
    fault, pod = node_fault, node_fault.busiest_pod()
    node = pod["spec"]["nodeName"]
    fault.lead_elsewhere(node)
    fault.strike("node killed", lambda: fault.cache.cluster.kill(node))
    wait_until(lambda: _two_nodes_tell_it(fault.cache.view(), pod) is None, 30, "status tells of the lost node")
    fault.cache.cluster.start(node)
    assert_told(fault.finish(primary_lost=True), "ElectionStarted", "PrimaryElected", "ReplicaJoined")
