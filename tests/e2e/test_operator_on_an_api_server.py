"""The operator against a real API server: children, drift, idempotence, election, two at once, deletion."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.operator_process import Bench
from tests.waiting import wait_until

from cachecluster_devcluster.cluster import DevCluster

pytestmark = pytest.mark.t2

ROOT = Path(__file__).resolve().parents[2]
CHILDREN = {
    ("HashRing", "demo"),
    ("PodDisruptionBudget", "demo"),
    ("Role", "demo-cache"),
    ("RoleBinding", "demo-cache"),
    ("Secret", "demo-auth"),
    ("Service", "demo"),
    ("Service", "demo-cluster"),
    ("ServiceAccount", "demo-cache"),
    ("Pod", "demo-0"),
    ("Pod", "demo-1"),
    ("Pod", "demo-2"),
}
KINDS = ("hashrings", "pdb", "roles", "rolebindings", "secrets", "services", "serviceaccounts", "pods")
PROMPT_S = 15.0
_numbers = itertools.count()


@pytest.fixture
def bench(devcluster: DevCluster, kubectl: Callable[..., str], tmp_path: Path) -> Iterator[Bench]:
    kubectl("apply", "-f", str(ROOT / "crds" / "cacheclusters.yaml"), "-f", str(ROOT / "crds" / "hashrings.yaml"))
    namespace = f"operator-{os.getpid()}-{next(_numbers)}"
    kubectl("create", "namespace", namespace)
    bench = Bench(devcluster, namespace, tmp_path)
    yield bench
    bench.close()


def children(bench: Bench) -> set[tuple[str, str]]:
    names = ((item["kind"], item["metadata"]["name"]) for item in bench.get(*KINDS))
    return {(kind, name) for kind, name in names if name.startswith("demo")}


def versions(bench: Bench) -> dict[tuple[str, str], str]:
    """resourceVersions of everything the operator writes, but for pods, which others write to."""
    items = bench.get(*(kind for kind in KINDS if kind != "pods"), "cacheclusters", "configmaps")
    return {(i["kind"], i["metadata"]["name"]): i["metadata"]["resourceVersion"] for i in items}


def wait_for_children(bench: Bench) -> None:
    wait_until(lambda: children(bench) >= CHILDREN, PROMPT_S, "the children to be there")


def test_children_are_made_and_nothing_is_written_when_nothing_differs(bench: Bench) -> None:
    first = bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    assert children(bench) == CHILDREN
    wait_until(lambda: bench.conditions("demo").get("UpToDate") == ("True", "SpecInEffect"), PROMPT_S, "the status")
    wait_until(lambda: len(bench.get("configmaps")) > 1, PROMPT_S, "dashboards and alerts")
    first.stop()
    before = versions(bench)
    second = bench.operator("b")
    second.wait_for(f"{bench.namespace}/demo: managed")
    second.wait_for("is now suspected" if bench.get("pods")[0]["status"].get("podIP") else "managed")
    bench.kubectl("label", "cc", "demo", "touched=yes")
    time.sleep(3)  # the absence of writes has no event
    assert second.stop() == 0
    after = versions(bench)
    label = ("CacheCluster", "demo")
    assert {key: v for key, v in after.items() if key != label} == {key: v for key, v in before.items() if key != label}


def test_what_is_changed_or_deleted_by_hand_comes_back(bench: Bench) -> None:
    bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    bench.kubectl("patch", "service", "demo", "--type=merge", "-p", '{"spec":{"selector":{"stolen":"yes"}}}')
    bench.kubectl("delete", "pdb", "demo")
    bench.kubectl("delete", "service", "demo-cluster")
    wait_for_children(bench)
    # A merge patch added a label; server-side apply leaves fields of others, but the operator's are as they were.
    selector = "{.spec.selector.cachecluster\\.io/cluster}"
    wait_until(
        lambda: bench.kubectl("get", "svc", "demo", "-o", f"jsonpath={selector}") == "demo", PROMPT_S, "selector"
    )


def test_a_service_of_somebody_else_is_left_alone_and_told(bench: Bench) -> None:
    bench.kubectl("create", "service", "clusterip", "demo", "--tcp=80:80")
    bench.operator("a")
    bench.apply("demo")
    refused = ("False", "ChildrenNotApplied")
    wait_until(lambda: bench.conditions("demo").get("UpToDate") == refused, PROMPT_S, "the condition")
    assert bench.kubectl("get", "svc", "demo", "-o", "jsonpath={.spec.ports[0].port}") == "80"
    assert "Service" in bench.kubectl("get", "cc", "demo", "-o", "jsonpath={.status.message}")
    bench.kubectl("delete", "service", "demo")
    wait_until(lambda: bench.conditions("demo").get("UpToDate", ("", ""))[0] == "True", 40, "the condition to go")


def test_scale_in_and_template_changes_touch_no_pod(bench: Bench) -> None:
    bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    uids = {pod["metadata"]["uid"] for pod in bench.get("pods")}
    bench.apply("demo", nodes=2)
    scale_in = ("False", "ScaleInNotServed")
    wait_until(lambda: bench.conditions("demo")["UpToDate"] == scale_in, PROMPT_S, "the condition of scale-in")
    bench.apply("demo", podLabels={"team": "a"})
    template = ("False", "PodTemplateChangeNotServed")
    wait_until(lambda: bench.conditions("demo")["UpToDate"] == template, PROMPT_S, "the condition of the template")
    assert {pod["metadata"]["uid"] for pod in bench.get("pods")} == uids


def test_scale_out_by_the_scale_subresource_adds_pods(bench: Bench) -> None:
    bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    bench.kubectl("scale", "cc", "demo", "--replicas=4")
    wait_until(lambda: len(bench.get("pods")) == 4, PROMPT_S, "a fourth pod")


def test_deleting_a_cluster_with_the_operator_stopped_leaves_nothing(bench: Bench) -> None:
    operator = bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    assert operator.stop() == 0
    bench.kubectl("delete", "cc", "demo")
    took = wait_until(lambda: not children(bench), PROMPT_S, "garbage collection")
    print(f"garbage collected after {took:.1f} s")  # noqa: T201


def test_a_cluster_that_is_made_again_gets_children_of_its_own(bench: Bench) -> None:
    bench.operator("a")
    bench.apply("demo")
    wait_for_children(bench)
    old = {item["metadata"]["uid"] for item in bench.get(*KINDS) if item["metadata"]["name"].startswith("demo")}
    bench.kubectl("delete", "cc", "demo")
    bench.apply("demo")

    def renewed() -> bool:
        found = [item for item in bench.get(*KINDS) if item["metadata"]["name"].startswith("demo")]
        return len(found) == len(CHILDREN) and not old & {item["metadata"]["uid"] for item in found}

    wait_until(renewed, 40, "new children")


def test_the_second_operator_takes_over_when_the_first_is_killed_or_stopped(bench: Bench) -> None:
    first = bench.operator("a")
    wait_until(lambda: bench.holder() == "a", PROMPT_S, "the first to lead")
    second = bench.operator("b")
    second.wait_for("waiting for the Lease")
    first.kill()
    took = wait_until(lambda: bench.holder() == "b", PROMPT_S, "the second to take over")
    print(f"taken over {took:.1f} s after SIGKILL")  # noqa: T201
    third = bench.operator("c")
    third.wait_for("waiting for the Lease")
    assert second.stop() == 0
    took = wait_until(lambda: bench.holder() == "c", PROMPT_S, "the third to take over")
    print(f"taken over {took:.1f} s after SIGTERM")  # noqa: T201


def test_a_leader_that_was_frozen_finds_itself_replaced_and_ends(bench: Bench) -> None:
    first = bench.operator("a")
    wait_until(lambda: bench.holder() == "a", PROMPT_S, "the first to lead")
    bench.operator("b")
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
    assert children(bench) == CHILDREN
