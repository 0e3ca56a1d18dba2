"""The chart on a real cluster: the operator runs, says what it cannot serve, is watched, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.bad_resources import CONDITIONED, GOOD, Bad, cache_cluster
from tests.e2e.installed import Release
from tests.prometheus import running_prometheus
from tests.waiting import wait_until

from cachecluster_devcluster import image
from cachecluster_devcluster.cluster import DevCluster
from cachecluster_operator.alerts import NAME, alert_groups
from cachecluster_operator.dashboards import dashboards, panel_queries

pytestmark = pytest.mark.t3

READY = "60s"
PROMETHEUS = "127.0.0.1:9090"

Inside = Callable[..., str]


@pytest.fixture(scope="module")
def inside(operator: Release) -> Inside:
    """kubectl in the namespace that the operator watches."""

    def kubectl(*arguments: str, input_text: str | None = None) -> str:
        return operator.cluster.kubectl("--namespace", operator.watched, *arguments, input_text=input_text)

    return kubectl


@pytest.fixture(scope="module")
def shown(inside: Inside) -> str:
    """The name of a CacheCluster that is Ready."""
    inside("apply", "-f", "-", input_text=json.dumps(cache_cluster("shown", GOOD)))
    inside("wait", "cc/shown", "--for=condition=Ready", f"--timeout={READY}")
    return "shown"


def test_one_of_two_operators_leads(operator: Release) -> None:
    system = ("--namespace", operator.namespace)
    ready = operator.cluster.kubectl(*system, "get", "deploy", operator.name, "-o", "jsonpath={.status.readyReplicas}")
    assert ready == "2"
    holder = ("get", "lease", operator.name, "-o", "jsonpath={.spec.holderIdentity}")
    wait_until(lambda: operator.cluster.kubectl(*system, *holder), 20, "a leader")
    assert operator.cluster.kubectl(*system, *holder) in operator.cluster.kubectl(*system, "get", "pods", "-o", "name")


@pytest.mark.parametrize("bad", CONDITIONED, ids=lambda bad: bad.title)
def test_what_cannot_be_served_is_told_by_a_condition(inside: Inside, bad: Bad) -> None:
    inside("apply", "-f", "-", input_text=json.dumps(bad.resource("odd")))
    try:
        wait_until(lambda: bad.names in _not_ready(inside, "odd"), 20, f"a condition that names {bad.names}")
        assert inside("get", "pods", "-l", "cachecluster.io/cluster=odd", "-o", "name") == ""
    finally:
        inside("delete", "cc", "odd")


def _not_ready(inside: Inside, name: str) -> str:
    """The message of a Ready condition that is False."""
    status = json.loads(inside("get", "cc", name, "-o", "json")).get("status", {})
    conditions = [c for c in status.get("conditions", ()) if (c["type"], c["status"]) == ("Ready", "False")]
    return " ".join(condition["message"] for condition in conditions)


def test_dashboards_and_alerts_are_there(operator: Release) -> None:
    def config_map(name: str) -> dict[str, Any]:
        text = operator.cluster.kubectl("--namespace", operator.namespace, "get", "configmap", name, "-o", "json")
        found: dict[str, Any] = json.loads(text)
        return found

    names = operator.cluster.kubectl("--namespace", operator.namespace, "get", "configmap", "-o", "name")
    wait_until(lambda: NAME in names or NAME in _config_maps(operator), 20, "dashboards and alerts")
    for name, text in dashboards().items():
        stored = config_map(name)
        assert stored["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert stored["data"] == {f"{name}.json": text}
    (rules,) = config_map(NAME)["data"].values()
    assert yaml.safe_load(rules) == alert_groups()


def _config_maps(operator: Release) -> str:
    return operator.cluster.kubectl("--namespace", operator.namespace, "get", "configmap", "-o", "name")


@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")
def test_every_panel_shows_data_of_the_pods_and_the_operator(
    operator: Release, inside: Inside, shown: str, tmp_path: Path
) -> None:
    jobs = {
        "pods": _targets(operator.cluster, operator.watched, f"cachecluster.io/cluster={shown}"),
        "operator": _targets(operator.cluster, operator.namespace, "app.kubernetes.io/name=cachecluster-operator"),
    }
    assert [len(targets) for targets in jobs.values()] == [3, 2]
    host = f"{shown}.{operator.watched}.svc.cluster.local"
    commands = "".join(f"SET key-{number} {number}\n" for number in range(200))
    empty = panel_queries(operator.watched, shown, interval="5s")
    with running_prometheus(tmp_path / "prometheus", PROMETHEUS, jobs, operator.cluster.hub_command) as prometheus:

        def all_answer() -> bool:
            inside("exec", "-i", f"{shown}-0", "-c", "sidecar", "--", "redis-cli", "-h", host, input_text=commands)
            empty[:] = prometheus.empty(empty)
            return not empty

        try:
            wait_until(all_answer, 60, "data in every panel")
        except TimeoutError:
            pytest.fail("no data for " + "; ".join(f"{board}, {panel}: {expr}" for board, panel, expr in empty))


def _targets(cluster: DevCluster, namespace: str, selector: str) -> list[str]:
    """Where the scrape annotations of pods point."""
    pods = json.loads(cluster.kubectl("--namespace", namespace, "get", "pods", "-l", selector, "-o", "json"))["items"]
    port = "prometheus.io/port"
    return [f"{pod['status']['podIP']}:{pod['metadata']['annotations'][port]}" for pod in pods]


def test_uninstall_leaves_nothing_in_the_namespace(operator: Release) -> None:
    """A second release beside the first: whatever the operator itself made goes with the release's Lease."""
    other = Release(operator.cluster, operator.helm, "other-cachecluster-operator", "other-system", "other-caches")
    other.install(image.DEFAULT_TAG, "replicas=1", "rbac.nodes=false")
    try:
        wait_until(lambda: NAME in _config_maps(other), 30, "dashboards and alerts")
        other.uninstall()
        wait_until(lambda: _config_maps(other).split() == ["configmap/kube-root-ca.crt"], 20, "garbage collection")
        kinds = "deploy,lease,sa,role,rolebinding,pdb,secret"
        left = other.cluster.kubectl("--namespace", other.namespace, "get", kinds, "-o", "name").split()
        assert left == ["serviceaccount/default"]
    finally:
        other.remove_namespaces()
