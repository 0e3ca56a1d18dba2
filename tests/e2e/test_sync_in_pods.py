"""`durability: sync` in pods: how long a replica can hold up writes, three copies, and a change of it under load.

Every fault of `test_faults_in_pods` is made to such a cluster as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.e2e.acknowledged_writers import AcknowledgedWriters
from tests.e2e.cache_in_pods import CacheInPods, Json, View, made
from tests.e2e.demo_in_pods import Demo
from tests.e2e.installed import Release
from tests.e2e.pod_faults import Fault, FaultTable, under_load
from tests.e2e.pod_gates import GateWatch
from tests.e2e.pod_metrics import samples
from tests.e2e.steady_clients import SteadyClients
from tests.waiting import wait_until

from cachecluster_core.hashring import Entry
from cachecluster_devcluster.cluster import DevCluster

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

STALL_S = 3.0
"""How long a replica that is killed or cut off may hold up a write."""
STARVED_S = 3.0
"""And what a machine may add that cannot keep up."""
ON_S = 30.0
SEEN_S = 20.0
only_sync = pytest.mark.parametrize("struck", ["sync"], indirect=True)


def entries(view: View) -> tuple[Entry, ...]:
    """Of the map, which is there."""
    assert view.ring is not None
    return view.ring.entries


def replicated_by(view: View, pod: Json) -> list[int]:
    """The partitions of which a pod has a replica."""
    uid = pod["metadata"]["uid"]
    kept = enumerate(entries(view))
    return [p for p, it in kept if it.primary is not None and it.primary.pod != uid and uid in [c.pod for c in it.isr]]


def hosts_without(view: View, pod: Json) -> list[str]:
    """The addresses of the other pods."""
    return [it["status"]["podIP"] for it in view.pods if it["metadata"]["uid"] != pod["metadata"]["uid"]]


def assert_stalled_briefly(writes: AcknowledgedWriters, partitions: list[int]) -> float:
    """The longest time without an acknowledged write to one of these partitions, which is not too long; seconds."""
    pauses: list[float] = writes.ask("look")["pause_s"]
    longest = max(pauses[partition] for partition in partitions)
    assert longest < STALL_S + STARVED_S, pauses
    return longest


def kill_replica(fault: Fault, partition: int) -> Json:
    """SIGKILL to the redis process of a replica; its pod."""
    view = fault.cache.view()
    pod = next(pod for pod in view.pods if partition in replicated_by(view, pod))
    processes = fault.cache.processes(pod)
    fault.cache.kill([it for it in processes if it.role == "engine" and it.partition == partition])
    return pod


@only_sync
def test_a_replica_that_is_killed_holds_writes_up_briefly(fault: Fault, say: Callable[[str], None]) -> None:
    assert fault.writes is not None
    fault.strike("kill -9 of a replica's redis process", lambda: kill_replica(fault, 5))
    fault.writes.wait_goes_on(ON_S)
    stall_s = assert_stalled_briefly(fault.writes, [5])
    fault.finish()
    say(f"sync, 2 copies: a replica's redis killed: writes stood still for {stall_s:.2f} s (goal {STALL_S:.0f})")


@only_sync
def test_a_replica_that_is_cut_off_holds_writes_up_briefly(
    fault: Fault, faults: DevCluster, say: Callable[[str], None]
) -> None:
    view, pod = fault.cache.view(), fault.busiest_pod()
    node, partitions = pod["spec"]["nodeName"], replicated_by(view, pod)
    fault.lead_elsewhere(node)
    with AcknowledgedWriters(fault.cache, hosts_without(view, pod)) as writes:
        fault.begin("a replica's node cut from the network")
        faults.cut(node)
        writes.wait_goes_on(ON_S)
        stall_s = assert_stalled_briefly(writes, partitions)
        faults.up(3)
        fault.finish(primary_lost=True)
    assert writes.result == {"missing": {}}
    say(f"sync, 2 copies: replicas cut off: writes stood still for {stall_s:.2f} s (goal {STALL_S:.0f})")


@pytest.fixture(scope="module")
def triple(operator: Release) -> Iterator[CacheInPods]:
    """Three copies of everything, two of which must be in sync."""
    spec = {"nodes": 3, "replicationFactor": 3, "memory": "256Mi", "durability": "sync", "repair": {"delaySeconds": 5}}
    with made(operator, "triple", spec) as cache:
        yield cache


@pytest.fixture
def triple_fault(triple: CacheInPods, operator: Release, fault_table: FaultTable) -> Iterator[Fault]:
    with under_load(triple, operator, fault_table, copies=3) as fault:
        yield fault


def test_primaries_and_a_replica_of_three_copies_are_killed(triple_fault: Fault, say: Callable[[str], None]) -> None:
    fault = triple_fault
    assert fault.writes is not None
    pod = fault.primary_pod(3)
    engines = [it for it in fault.cache.processes(pod) if it.role == "engine" and it.partition == 3]
    fault.strike("kill -9 of a primary's redis process", lambda: fault.cache.kill(engines))
    fault.finish(primary_lost=True)
    fault.strike("kill -9 of a replica's redis process", lambda: kill_replica(fault, 5))
    fault.writes.wait_goes_on(ON_S)
    stall_s = assert_stalled_briefly(fault.writes, [5])
    fault.finish()
    pod = fault.primary_pod(7)
    fault.strike("kill -9 of every process of a pod", lambda: fault.cache.kill(fault.cache.processes(pod)))
    fault.finish(primary_lost=True)
    say(f"sync, 3 copies: a replica's redis killed: writes stood still for {stall_s:.2f} s (goal {STALL_S:.0f})")


def commits(cache: CacheInPods, view: View) -> list[float]:
    """Rounds in which the routers of each pod asked what is acknowledged: only sync asks."""
    return [sum(samples(cache, pod, "cachecluster_router_commits_total")) for pod in view.pods]


def test_durability_is_changed_and_changed_back_under_load(demo: Demo, say: Callable[[str], None]) -> None:
    cache = demo.cache
    cache.wait_whole()
    view = cache.view()
    with GateWatch(cache.cluster, cache.namespace, cache.name, cache.token()) as gates:
        gates.wait_sees([pod["metadata"]["uid"] for pod in view.pods])
        with AcknowledgedWriters(cache) as writes, SteadyClients(cache, 2000, 10) as clients:
            to_sync_s = change_to(cache, view, "sync")
            seen = clients.ask("next")
            assert not seen["errors"], seen
            kill_primary(cache, 9)
            writes.wait_goes_on(ON_S)
            cache.wait_whole()
            assert writes.missing() == {}
            clients.ask("next")
            to_async_s = change_to(cache, view, "async")
            writes.wait_goes_on(ON_S)
            seen = clients.ask("next")
            assert not seen["errors"], seen
    result = clients.result
    assert (result["wrong"], result["counters"], result["missing"]) == ([], [], 0), result
    assert writes.result == {"missing": {}}
    say(f"durability changed under load: to sync in {to_sync_s:.1f} s, back to async in {to_async_s:.1f} s, no error")


def change_to(cache: CacheInPods, view: View, durability: str) -> float:
    """Change it, and wait until the routers of every pod do it; the seconds that took."""
    text = f'{{"spec": {{"durability": "{durability}"}}}}'
    cache.kubectl("patch", "cc", cache.name, "--type=merge", "-p", text)

    def done() -> bool:
        before = commits(cache, view)
        now = commits(cache, view)
        grows = [more > few for more, few in zip(now, before, strict=True)]
        return all(grows) if durability == "sync" else not any(grows)

    return wait_until(done, SEEN_S, f"every router does {durability}")


def kill_primary(cache: CacheInPods, partition: int) -> None:
    """SIGKILL to the redis process of a partition's primary."""
    view = cache.view()
    primary = entries(view)[partition].primary
    assert primary is not None
    processes = cache.processes(view.pod(primary.pod))
    cache.kill([it for it in processes if it.role == "engine" and it.partition == partition])
