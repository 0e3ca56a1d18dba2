"""Manifests of a cluster: security, ownership, what follows from the spec, and what changes the template."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from cachecluster_core.spec import CacheClusterSpec, parse_spec
from cachecluster_core.spec_parts import Router, RouterLimits
from cachecluster_operator import manifests, pod_manifest
from cachecluster_operator.cluster_key import ClusterKey
from cachecluster_operator.labels import CLUSTER_LABEL, pod_labels
from cachecluster_operator.pod_manifest import build_pod, template_fingerprint
from cachecluster_operator.pod_view import pod_view

pytestmark = pytest.mark.t0

KEY = ClusterKey("shop", "demo")
CLUSTER = {
    "apiVersion": "cachecluster.io/v1alpha1",
    "kind": "CacheCluster",
    "metadata": {"name": "demo", "namespace": "shop", "uid": "cc-uid"},
}
MINIMAL: dict[str, Any] = {"nodes": 3, "replicationFactor": 2, "memory": "256Mi"}


def spec(**changes: Any) -> CacheClusterSpec:
    return parse_spec(MINIMAL | changes)


def pod(**changes: Any) -> dict[str, Any]:
    return build_pod(KEY, CLUSTER, spec(**changes), 4, "image:1")


def containers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["name"]: c for c in manifest["spec"]["initContainers"] + manifest["spec"]["containers"]}


def children() -> list[dict[str, Any]]:
    secret = manifests.secret(KEY, CLUSTER, manifests.new_secret_values())
    budget = manifests.disruption_budget(KEY, CLUSTER, 1)
    return [
        secret,
        budget,
        *manifests.access_children(KEY, CLUSTER),
        *manifests.service_children(KEY, CLUSTER),
        pod(),
    ]


@pytest.mark.parametrize("manifest", children(), ids=lambda manifest: manifest["kind"])
def test_everything_is_owned_by_its_cluster_and_labelled(manifest: dict[str, Any]) -> None:
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("CacheCluster", "cc-uid", True)
    assert not owner["blockOwnerDeletion"], "deleting must not need a permission on finalizers"
    assert manifest["metadata"]["namespace"] == "shop"
    assert manifest["metadata"]["labels"][CLUSTER_LABEL] == "demo"


def test_the_pod_is_restricted_and_gives_no_token_to_the_engines() -> None:
    manifest = pod()
    security = manifest["spec"]["securityContext"]
    assert security["runAsNonRoot"] and security["seccompProfile"]["type"] == "RuntimeDefault"
    assert manifest["spec"]["automountServiceAccountToken"] is False
    assert manifest["spec"]["enableServiceLinks"] is False
    for container in containers(manifest).values():
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {name: {mount["name"] for mount in c["volumeMounts"]} for name, c in containers(manifest).items()}
    assert mounts["redis"] == {"run", "data"}
    assert {"token", "secrets"} <= mounts["sidecar"]


def test_what_the_sidecar_runs_cannot_be_written_by_the_engines() -> None:
    found = containers(pod())
    shared = [mount["mountPath"] for mount in found["redis"]["volumeMounts"]]
    scan = next(line.partition("=")[2] for line in found["sidecar"]["command"][2].splitlines() if "scan=" in line)
    assert not any(scan.startswith(path) for path in shared)


def test_engines_outlive_the_agent() -> None:
    manifest = pod()
    (redis,) = manifest["spec"]["initContainers"]
    assert redis["name"] == "redis" and redis["restartPolicy"] == "Always" and "startupProbe" in redis


def test_there_is_no_cpu_limit_unless_asked_for() -> None:
    assert all("cpu" not in c["resources"]["limits"] for c in containers(pod()).values())
    limited = pod(resources={"sidecar": {"limits": {"cpu": "2"}}})
    assert containers(limited)["sidecar"]["resources"]["limits"]["cpu"] == "2"


def test_the_spec_reaches_the_pod() -> None:
    manifest = pod(
        image="other:2",
        engine="redis",
        router={"workers": 3},
        nodeSelector={"disk": "fast"},
        tolerations=[{"key": "cache", "operator": "Exists", "effect": "NoSchedule"}],
        priorityClassName="high",
        podLabels={"team": "a"},
        podAnnotations={"note": "b"},
        placement={"zones": "require", "nodes": "prefer"},
    )
    environment = {entry["name"]: entry.get("value") for entry in containers(manifest)["sidecar"]["env"]}
    assert manifest["metadata"]["name"] == "demo-4"
    assert {c["image"] for c in containers(manifest).values()} == {"other:2"}
    assert environment["CACHECLUSTER_ENGINE"] == "redis" and environment["CACHECLUSTER_ROUTER_WORKERS"] == "3"
    assert manifest["spec"]["nodeSelector"] == {"disk": "fast"} and manifest["spec"]["priorityClassName"] == "high"
    assert manifest["spec"]["tolerations"] == [{"key": "cache", "operator": "Exists", "effect": "NoSchedule"}]
    assert manifest["metadata"]["labels"]["team"] == "a" and manifest["metadata"]["annotations"]["note"] == "b"
    spreading = {c["topologyKey"]: c["whenUnsatisfiable"] for c in manifest["spec"]["topologySpreadConstraints"]}
    assert spreading == {
        "topology.kubernetes.io/zone": "DoNotSchedule",
        "kubernetes.io/hostname": "ScheduleAnyway",
    }


def test_users_are_mounted_from_their_secret_in_the_sidecar_only_and_a_pod_starts_without_it() -> None:
    manifest = pod(auth={"secretRef": {"name": "people", "key": "acl"}})
    volume = next(volume for volume in manifest["spec"]["volumes"] if volume["name"] == "users")
    items = [{"key": "acl", "path": "users.acl"}]
    assert volume["secret"] == {"secretName": "people", "items": items, "defaultMode": 0o440, "optional": True}
    mounts = {name: {it["name"]: it for it in c["volumeMounts"]} for name, c in containers(manifest).items()}
    assert "users" not in mounts["redis"] and mounts["sidecar"]["users"]["readOnly"]
    environment = {entry["name"]: entry.get("value") for entry in containers(manifest)["sidecar"]["env"]}
    assert environment["CACHECLUSTER_USERS_FILE"] == f"{mounts['sidecar']['users']['mountPath']}/users.acl"


def test_a_pod_is_put_where_it_is_wanted_once_those_that_leave_are_gone() -> None:
    for leaving, expected in (
        ([], None),
        ([7, 2], [{"key": "cachecluster.io/number", "operator": "NotIn", "values": ["2", "7"]}]),
    ):
        made = build_pod(KEY, CLUSTER, spec(), 4, "image:1", leaving)
        assert made["metadata"]["labels"]["cachecluster.io/number"] == "4"
        for constraint in made["spec"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == pod_labels(KEY)
            assert constraint["labelSelector"].get("matchExpressions") == expected


def test_pods_of_a_cluster_are_what_its_services_and_its_budget_select() -> None:
    labels = pod()["metadata"]["labels"]
    selectors = [service["spec"]["selector"] for service in manifests.service_children(KEY, CLUSTER)]
    selectors.append(manifests.disruption_budget(KEY, CLUSTER, 0)["spec"]["selector"]["matchLabels"])
    for selector in selectors:
        assert selector == pod_labels(KEY) and selector.items() <= labels.items()


def test_a_budget_says_how_many_stay_whatever_the_scale_is() -> None:
    budget = manifests.disruption_budget(KEY, CLUSTER, 4)["spec"]
    assert budget["minAvailable"] == 4 and "maxUnavailable" not in budget, "an object with both is not valid"


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"nodes": 5}, False),
        ({"eviction": "noeviction"}, False),
        ({"lostAfterSeconds": 90}, False),
        ({"memory": 268435456}, False),
        ({"memory": "512Mi"}, True),
        ({"engine": "redis"}, True),
        ({"image": "other:2"}, True),
        ({"router": {"workers": 2}}, True),
        ({"podLabels": {"team": "a"}}, True),
        ({"router": {"limits": {"pipelinedCommands": 5, "unreadReplies": "2Mi", "idleSeconds": 60}}}, False),
        ({"router": {"limits": {"parkedSize": "65536Ki", "parkedSeconds": 2}}}, False),
        ({"router": {"limits": {"parkedSize": "65Mi"}}}, True),
        ({"placement": {"zones": "require"}}, True),
        ({"auth": {"secretRef": {"name": "people"}}}, True),
    ],
)
def test_the_template_changes_only_with_what_pods_are_made_of(changes: dict[str, Any], changed: bool) -> None:
    assert (template_fingerprint(spec(**changes)) != template_fingerprint(spec())) == changed


PINNED = [
    ({}, "4dc67fb9ba6190d1"),
    ({"router": {"workers": 2, "maxClients": 10000}, "placement": {"zones": "require"}}, "c9e64ec758794ead"),
    ({"engine": "redis", "image": "other:2", "partitions": 32, "replicationFactor": 3}, "755be728997c2b13"),
    (
        {
            "resources": {"sidecar": {"limits": {"cpu": "2"}}},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "cache", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "high",
            "podLabels": {"team": "a"},
            "podAnnotations": {"note": "b"},
        },
        "f89bc85ab775c3d1",
    ),
    ({"auth": {"secretRef": {"name": "people"}}}, "7aa449db5690ec0e"),
]


@pytest.mark.parametrize(("changes", "fingerprint"), PINNED)
def test_fingerprints_are_what_earlier_operators_made_of_the_same_spec(
    changes: dict[str, Any], fingerprint: str
) -> None:
    """They stand on pods: other ones here would replace all pods at an upgrade of the operator."""
    assert template_fingerprint(spec(**changes)) == fingerprint


def test_what_the_api_server_fills_in_changes_no_fingerprint() -> None:
    """It writes the defaults of its CRD into objects, whatever the operator's are."""
    filled = {
        "partitions": 16, "engine": "valkey",
        "router": {"workers": 1, "maxClients": 10000, "limits": RouterLimits().model_dump(by_alias=True)},
        "placement": {"zones": "prefer", "nodes": "prefer"},
        "resources": {"redis": {"requests": {}, "limits": {}}, "sidecar": {}}, "nodeSelector": {}, "tolerations": [],
    }  # fmt: skip
    assert template_fingerprint(spec(**filled)) == template_fingerprint(spec())
    named, with_key = ({"auth": {"secretRef": {"name": "people"} | key}} for key in ({}, {"key": "users.acl"}))
    assert template_fingerprint(spec(**named)) == template_fingerprint(spec(**with_key))


def test_other_defaults_of_a_later_operator_change_no_fingerprint() -> None:
    class LaterRouter(Router):
        workers: int = 4
        max_clients: int = 20000

    class LaterSpec(CacheClusterSpec):
        router: Router = Field(default_factory=LaterRouter)
        replication_factor: int = 3

    minimal = {"nodes": 3, "memory": "256Mi"}
    for given in ({}, {"replicationFactor": 2}, {"replicationFactor": 3}, {"router": {"workers": 4}}):
        later = LaterSpec.model_validate(minimal | given)
        assert template_fingerprint(later) == template_fingerprint(parse_spec(minimal | given)), given


def test_another_image_or_manifest_of_the_operator_outdates_no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pod()
    monkeypatch.setattr(pod_manifest, "GRACE_SECONDS", 90)
    after = build_pod(KEY, CLUSTER, spec(), 4, "image:2")
    assert before["spec"] != after["spec"]
    assert not pod_view(
        after | {"metadata": before["metadata"] | {"uid": "u"}}, "", template_fingerprint(spec())
    ).outdated
    assert before["metadata"]["annotations"] == after["metadata"]["annotations"]


def test_a_pod_has_the_time_to_hand_over_and_to_send_its_clients_away() -> None:
    """The agent's limits: 20 s as a primary, 10 s of taking clients at the same time, 5 s for those that are busy."""
    assert pod()["spec"]["terminationGracePeriodSeconds"] >= 2 * (20 + 5)


def test_passwords_differ_and_come_back_from_the_secret() -> None:
    values = manifests.new_secret_values()
    assert len(set(values.values())) == len(manifests.SECRET_KEYS)
    secret = manifests.secret(KEY, CLUSTER, values)
    assert manifests.secret_values(secret) == values
    del secret["data"]["peer-token"]
    with pytest.raises(ValueError, match="peer-token"):
        manifests.secret_values(secret)


def test_the_role_is_for_the_own_map_only() -> None:
    role = manifests.access_children(KEY, CLUSTER)[1]
    assert role["rules"] == [
        {
            "apiGroups": ["cachecluster.io"],
            "resources": ["hashrings"],
            "resourceNames": ["demo"],
            "verbs": ["get", "list", "watch"],
        }
    ]
