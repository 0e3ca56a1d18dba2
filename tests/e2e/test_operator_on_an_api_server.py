"""The operator against a real API server: children, drift, idempotence, election, two at once, deletion."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.bad_resources import CONDITIONED, Bad
from tests.e2e.operator_process import QUICK_ELECTION, Bench
from tests.waiting import wait_until

from cachecluster_devcluster.cluster import DevCluster
from cachecluster_operator.status import NO_EVICTION

pytestmark = pytest.mark.t2

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("hashrings", "pdb", "roles", "rolebindings", "secrets", "services", "serviceaccounts", "pods")
PROMPT_S = 30.0
_numbers = itertools.count()


@pytest.fixture(scope="module")
def crds(kubectl: Callable[..., str]) -> None:
    kubectl("apply", "-f", str(ROOT / "crds" / "cacheclusters.yaml"), "-f", str(ROOT / "crds" / "hashrings.yaml"))


@pytest.fixture
def bench(devcluster: DevCluster, crds: None, tmp_path: Path) -> Iterator[Bench]:
    """A namespace for a test that starts and ends operators of its own."""
    with _bench(devcluster, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(devcluster: DevCluster, crds: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A namespace with one operator, for tests that look at a CacheCluster of their own."""
    with _bench(devcluster, tmp_path_factory.mktemp("operator")) as made:
        made.operator("a")
        yield made


@contextmanager
def _bench(cluster: DevCluster, directory: Path) -> Iterator[Bench]:
    namespace = f"operator-{os.getpid()}-{next(_numbers)}"
    cluster.kubectl("create", "namespace", namespace)
    bench = Bench(cluster, namespace, directory)
    try:
        yield bench
    finally:
        bench.close()


def expected(name: str) -> set[tuple[str, str]]:
    """What belongs to a cluster of three nodes, as long as its map says nothing of copies in sync."""
    fixed = {
        ("HashRing", name),
        ("PodDisruptionBudget", name),
        ("Role", f"{name}-cache"),
        ("RoleBinding", f"{name}-cache"),
        ("Secret", f"{name}-auth"),  # and a part of the cluster's UID
        ("Service", name),
        ("Service", f"{name}-cluster"),
        ("ServiceAccount", f"{name}-cache"),
    }
    return fixed | {("Pod", f"{name}-{number}") for number in range(3)}


def owned(bench: Bench, name: str) -> list[dict[str, Any]]:
    """Everything that is called as a cluster's children are."""
    return [item for item in bench.get(*KINDS) if item["metadata"]["name"].split("-")[0] == name]


def children(bench: Bench, name: str = "demo") -> set[tuple[str, str]]:
    secret = re.compile(f"^{name}-auth-[0-9a-f]{{8}}$")
    return {(item["kind"], secret.sub(f"{name}-auth", item["metadata"]["name"])) for item in owned(bench, name)}


def versions(bench: Bench) -> dict[tuple[str, str], str]:
    """resourceVersions of everything the operator writes, but for pods, which others write to."""
    items = bench.get(*(kind for kind in KINDS if kind != "pods"), "cacheclusters", "configmaps")
    return {(i["kind"], i["metadata"]["name"]): i["metadata"]["resourceVersion"] for i in items}


def wait_for_children(bench: Bench, name: str = "demo") -> None:
    wait_until(lambda: children(bench, name) >= expected(name), PROMPT_S, "the children to be there")


def test_children_are_made_and_nothing_is_written_when_nothing_differs(bench: Bench) -> None:
    first = bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    assert children(bench) == expected("demo")
    wait_until(lambda: bench.conditions("demo").get("UpToDate") == ("True", "SpecInEffect"), PROMPT_S, "the status")
    first.wait_for("applied ConfigMap " + bench.namespace + "/cachecluster-alerts")
    first.stop()
    before = versions(bench)
    second = bench.operator("b")
    second.wait_for(f"{bench.namespace}/demo: managed")
    bench.kubectl("label", "cc", "demo", "touched=yes")
    time.sleep(3)  # the absence of writes has no event
    assert second.stop() == 0
    after = versions(bench)
    label = ("CacheCluster", "demo")
    assert {key: v for key, v in after.items() if key != label} == {key: v for key, v in before.items() if key != label}


def test_what_is_changed_or_deleted_by_hand_comes_back(shared: Bench) -> None:
    shared.apply("drift")
    wait_for_children(shared, "drift")
    shared.kubectl("patch", "service", "drift", "--type=merge", "-p", '{"spec":{"ports":[{"port":1,"name":"x"}]}}')
    shared.kubectl("delete", "pdb", "drift")
    shared.kubectl("delete", "service", "drift-cluster")
    wait_for_children(shared, "drift")
    ports = ("get", "service", "drift", "-o", "jsonpath={.spec.ports[*].port}")
    wait_until(lambda: "6379" in shared.kubectl(*ports), PROMPT_S, "the port to come back")


def test_a_service_of_somebody_else_is_left_alone_and_told(shared: Bench) -> None:
    shared.kubectl("create", "service", "clusterip", "taken", "--tcp=80:80")
    shared.apply("taken")
    refused = ("False", "ChildrenNotApplied")
    wait_until(lambda: shared.conditions("taken").get("UpToDate") == refused, PROMPT_S, "the condition")
    assert shared.kubectl("get", "svc", "taken", "-o", "jsonpath={.spec.ports[0].port}") == "80"
    assert "Service" in shared.kubectl("get", "cc", "taken", "-o", "jsonpath={.status.message}")
    shared.kubectl("delete", "service", "taken")
    wait_until(lambda: shared.conditions("taken")["UpToDate"][0] == "True", 60, "the condition to go")


def test_pods_that_never_came_up_are_removed_and_replaced_at_once(shared: Bench) -> None:
    shared.apply("stuck")
    wait_for_children(shared, "stuck")
    budget = shared.kubectl("get", "pdb", "stuck", "-o", "jsonpath={.spec.minAvailable}")
    assert budget == str(NO_EVICTION), "no copy is in sync"

    def pods(**labels: str) -> set[str]:
        found = [item["metadata"] for item in owned(shared, "stuck") if item["kind"] == "Pod"]
        return {item["uid"] for item in found if labels.items() <= item["labels"].items()}

    old = pods()
    shared.apply("stuck", nodes=2)
    wait_until(lambda: len(pods()) == 2 and pods() < old, PROMPT_S, "the pod too many to go")
    shared.apply("stuck", nodes=2, podLabels={"team": "a"})
    wait_until(lambda: len(pods(team="a")) == 2 and not pods() & old, PROMPT_S, "pods of the new template")
    wait_until(lambda: shared.conditions("stuck")["UpToDate"][0] == "True", PROMPT_S, "the status")


def test_a_pause_holds_back_what_is_planned_and_is_told(shared: Bench) -> None:
    shared.apply("held")
    wait_for_children(shared, "held")
    shared.kubectl("annotate", "cc", "held", "cachecluster.io/paused=true")
    wait_until(lambda: shared.conditions("held")["Paused"] == ("True", "Paused"), PROMPT_S, "the pause")
    shared.kubectl("scale", "cc", "held", "--replicas=4")
    held_back = ("get", "cc", "held", "-o", "jsonpath={.status.message}")
    wait_until(lambda: "making 1 of 4 pods" in shared.kubectl(*held_back), PROMPT_S, "what is held back")
    time.sleep(2)  # the absence of a pod has no event
    assert ("Pod", "held-3") not in children(shared, "held")
    shared.kubectl("annotate", "cc", "held", "--overwrite", "cachecluster.io/paused=on")
    wait_until(lambda: shared.conditions("held")["Paused"] == ("True", "InvalidValue"), PROMPT_S, "the condition")
    assert 'cachecluster.io/paused is "on"' in shared.kubectl(*held_back)
    shared.kubectl("annotate", "cc", "held", "cachecluster.io/paused-")
    wait_until(lambda: ("Pod", "held-3") in children(shared, "held"), PROMPT_S, "a fourth pod")
    assert shared.conditions("held")["Paused"] == ("False", "NotPaused")


def test_scale_out_by_the_scale_subresource_adds_pods(shared: Bench) -> None:
    shared.apply("wide")
    wait_for_children(shared, "wide")
    shared.kubectl("scale", "cc", "wide", "--replicas=4")
    wait_until(lambda: ("Pod", "wide-3") in children(shared, "wide"), PROMPT_S, "a fourth pod")

    def scale() -> tuple[int, int, str]:
        namespace = f"/apis/cachecluster.io/v1alpha1/namespaces/{shared.namespace}"
        found = json.loads(shared.kubectl("get", "--raw", f"{namespace}/cacheclusters/wide/scale"))
        return found["spec"]["replicas"], found["status"]["replicas"], found["status"].get("selector", "")

    selector = "app.kubernetes.io/component=cache,cachecluster.io/cluster=wide"
    wait_until(lambda: scale() == (4, 4, selector), PROMPT_S, "what a HorizontalPodAutoscaler reads")
    assert len(shared.kubectl("get", "pods", "-l", selector, "-o", "name").split()) == 4


def test_a_cluster_that_is_made_again_gets_children_of_its_own(shared: Bench) -> None:
    shared.apply("again")
    wait_for_children(shared, "again")
    old = {item["metadata"]["uid"] for item in owned(shared, "again")}
    shared.kubectl("delete", "cc", "again")
    shared.apply("again")

    def renewed() -> bool:
        found = owned(shared, "again")
        return len(found) == len(expected("again")) and not old & {item["metadata"]["uid"] for item in found}

    wait_until(renewed, 60, "new children")


@pytest.mark.parametrize("bad", CONDITIONED, ids=lambda bad: bad.title)
def test_what_the_api_server_cannot_refuse_is_refused_by_a_condition_that_names_the_field(
    shared: Bench, bad: Bad
) -> None:
    name = f"bad{next(_numbers)}"
    shared.kubectl("apply", "-f", "-", input_text=json.dumps(bad.resource(name)))
    invalid = ("False", "InvalidSpec")
    wait_until(lambda: shared.conditions(name).get("UpToDate") == invalid, PROMPT_S, "the condition")
    assert bad.names in shared.kubectl("get", "cc", name, "-o", "jsonpath={.status.message}")
    assert children(shared, name) == set()


def test_deleting_a_cluster_with_the_operator_stopped_leaves_nothing(bench: Bench) -> None:
    operator = bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    assert operator.stop() == 0
    bench.kubectl("delete", "cc", "demo")
    took = wait_until(lambda: not children(bench), PROMPT_S, "garbage collection")
    print(f"garbage collected after {took:.1f} s")  # noqa: T201


def test_the_second_operator_takes_over_when_the_first_is_killed_or_stopped(bench: Bench) -> None:
    first = bench.operator("a", *QUICK_ELECTION)
    wait_until(lambda: bench.holder() == "a", PROMPT_S, "the first to lead")
    second = bench.operator("b", *QUICK_ELECTION)
    second.wait_for("waiting for the Lease")
    first.kill()
    took = wait_until(lambda: bench.holder() == "b", PROMPT_S, "the second to take over")
    print(f"taken over {took:.1f} s after SIGKILL")  # noqa: T201
    third = bench.operator("c", *QUICK_ELECTION)
    third.wait_for("waiting for the Lease")
    assert second.stop() == 0
    took = wait_until(lambda: bench.holder() == "c", PROMPT_S, "the third to take over")
    print(f"taken over {took:.1f} s after SIGTERM")  # noqa: T201


def test_a_leader_that_was_frozen_finds_itself_replaced_and_ends(bench: Bench) -> None:
    first = bench.operator("a", *QUICK_ELECTION)
    wait_until(lambda: bench.holder() == "a", PROMPT_S, "the first to lead")
    bench.operator("b", *QUICK_ELECTION)
    first.pause()
    try:
        wait_until(lambda: bench.holder() == "b", PROMPT_S, "the second to take over")
    finally:
        first.resume()
    assert first.process.wait(10) == 1
    assert "no longer the leader" in first.log.read_text()


def test_two_operators_at_once_do_no_harm(bench: Bench) -> None:
    bench.operator("a", "--no-leader-election")
    bench.operator("b", "--no-leader-election")
    bench.apply("demo")
    wait_for_children(bench)
    bench.kubectl("delete", "service", "demo")
    wait_for_children(bench)
    time.sleep(2)  # the absence of more pods has no event
    assert children(bench) == expected("demo")
