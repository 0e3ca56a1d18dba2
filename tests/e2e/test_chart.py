"""The chart: it lints, its values are checked, its templates are what a restricted namespace and a small RBAC need."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachecluster_operator.options import parse_options

pytestmark = pytest.mark.t2

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/cachecluster-operator"

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def render(helm: Path) -> Render:
    """The chart's manifests, with `--set` arguments. CalledProcessError when the values are refused."""

    def template(*sets: str) -> list[dict[str, Any]]:
        arguments = [argument for value in sets for argument in ("--set", value)]
        command = [helm, "template", "cachecluster-operator", CHART, "--namespace", "system", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return template


def _one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def test_chart_lints(helm: Path) -> None:
    done = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("replicas=many", "replicas"),
        ("image.repository=", "repository"),
        ("metricsPort=80", "metricsPort"),
        ("watchNamespaces[0]=Bad Name", "watchNamespaces"),
        ("replica=2", "replica"),
        ("leaderElection.leaseDuration=0", "leaseDuration"),
    ],
)
def test_bad_value_is_refused_with_its_name(render: Render, value: str, names: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(value)
    assert names in refused.value.stderr


def test_operator_pod_passes_pod_security_restricted(render: Render) -> None:
    pod = _one(render(), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container["securityContext"] == security
    assert container["ports"][0]["name"] == "metrics"
    assert "cpu" not in container["resources"]["limits"]


@pytest.mark.parametrize(
    "sets", [(), ("watchNamespaces={a,b}", "observability=false", "verbose=true", "cacheImage=cache:1")]
)
def test_operator_understands_its_flags(render: Render, sets: tuple[str, ...]) -> None:
    (container,) = _one(render(*sets), "Deployment")["spec"]["template"]["spec"]["containers"]
    options = parse_options([*container["command"][1:], "--operator-namespace=system"], {})
    assert options.lease_name == _one(render(*sets), "Lease")["metadata"]["name"]
    assert options.namespaces == (("a", "b") if sets else None)
    assert options.image == ("cache:1" if sets else "cachecluster:0.1.0")
    assert options.observability is not bool(sets)


def _verbs(rules: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


def test_rights_reach_all_namespaces_only_where_asked_for(render: Render) -> None:
    everywhere = render()
    assert {m["metadata"]["name"] for m in everywhere if m["kind"] == "ClusterRole"} == {
        "system:cachecluster-operator:clusters",
        "system:cachecluster-operator:nodes",
    }
    listed = render("watchNamespaces={a,b}", "rbac.nodes=false")
    assert not [m for m in listed if m["kind"].startswith("ClusterRole")]
    roles = {m["metadata"]["namespace"]: m for m in listed if m["kind"] == "Role"}
    assert set(roles) == {"system", "a", "b"}
    (clusters,) = [
        m for m in everywhere if m["metadata"]["name"] == "system:cachecluster-operator:clusters" and "rules" in m
    ]
    assert roles["a"]["rules"] == roles["b"]["rules"] == clusters["rules"]


def test_rights_are_small(render: Render) -> None:
    manifests = render()
    rules = [rule for m in manifests for rule in m.get("rules", [])]
    verbs = _verbs(rules)
    assert not {verb for _, verb in verbs} & {"*", "deletecollection", "escalate", "bind", "impersonate"}
    assert {resource for resource, verb in verbs if verb == "delete"} == {"pods"}
    assert ("secrets", "list") not in verbs
    assert ("secrets", "watch") not in verbs
    assert not [rule for rule in rules if "*" in rule["resources"] or "*" in rule["apiGroups"]]


def test_rights_cover_what_the_operator_grants_to_pods(render: Render) -> None:
    """The API server lets nobody grant what he does not hold."""
    verbs = _verbs([rule for m in render() for rule in m.get("rules", [])])
    assert {("hashrings", verb) for verb in ("get", "list", "watch")} <= verbs


def test_nothing_is_created_by_hand_with_rbac_off(render: Render) -> None:
    kinds = {m["kind"] for m in render("rbac.create=false")}
    assert kinds == {"Deployment", "ServiceAccount", "Lease", "PodDisruptionBudget"}


def test_single_replica_has_no_disruption_budget(render: Render) -> None:
    assert "PodDisruptionBudget" not in {m["kind"] for m in render("replicas=1")}
