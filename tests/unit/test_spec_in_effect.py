"""What is in effect: scale-in, template and engine changes touch no pod, and say so."""

from __future__ import annotations

from typing import Any

import pytest

from cachecluster_core.spec import CacheClusterSpec, parse_spec
from cachecluster_operator.cluster_key import ClusterKey
from cachecluster_operator.in_effect import in_effect
from cachecluster_operator.pod_manifest import build_pod

pytestmark = pytest.mark.t0

KEY = ClusterKey("default", "demo")
CLUSTER = {"apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "demo", "uid": "u"}}


def spec(**changes: Any) -> CacheClusterSpec:
    return parse_spec({"nodes": 3, "replicationFactor": 2, "memory": "256Mi"} | changes)


def pods(count: int, of: CacheClusterSpec | None = None, ready: bool = True) -> list[dict[str, Any]]:
    made = [build_pod(KEY, CLUSTER, of or spec(), number, "image:1") for number in range(count)]
    conditions = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return [pod | {"status": conditions} for pod in made]


def reasons(effect: Any) -> list[str]:
    return [pending.reason for pending in effect.pending]


def test_a_new_cluster_gets_what_it_asks_for() -> None:
    effect = in_effect(spec(), [], None)
    assert effect.desired.nodes == 3 and effect.pending == () and effect.memory == 256 << 20


def test_scale_out_is_in_effect_at_once() -> None:
    effect = in_effect(spec(nodes=5), pods(3), 3)
    assert effect.desired.nodes == 5 and effect.pending == ()
    assert effect.sizing.share > in_effect(spec(), pods(3), 3).sizing.share, "more nodes, fewer copies on each"


@pytest.mark.parametrize("before", [5, None])
def test_scale_in_leaves_all_pods_and_says_so(before: int | None) -> None:
    effect = in_effect(spec(nodes=3), pods(5), before)
    assert effect.desired.nodes == 5 and reasons(effect) == ["ScaleInNotServed"]
    assert "spec.nodes is 3" in effect.pending[0].message


def test_a_pod_that_is_deleted_by_hand_completes_a_scale_in() -> None:
    five = pods(5)
    five[4]["metadata"]["deletionTimestamp"] = "2026-11-24T07:00:00Z"
    assert in_effect(spec(nodes=3), five, 5).desired.nodes == 4
    assert in_effect(spec(nodes=3), pods(3), 4).pending == ()


def test_a_lost_pod_and_its_replacement_are_no_scale_in() -> None:
    assert in_effect(spec(), pods(4), 3).desired.nodes == 3
    lost = pods(3) + pods(4, ready=False)[3:]
    assert in_effect(spec(), lost, None).desired.nodes == 3


def test_a_template_change_names_the_pods_it_leaves() -> None:
    effect = in_effect(spec(podLabels={"team": "a"}), pods(2), 3)
    assert reasons(effect) == ["PodTemplateChangeNotServed"]
    assert "demo-0, demo-1" in effect.pending[0].message


def test_more_memory_counts_once_all_pods_have_it() -> None:
    bigger = spec(memory="512Mi")
    mixed = pods(2) + pods(3, bigger)[2:]
    assert in_effect(bigger, mixed, 3).memory == 256 << 20
    assert in_effect(bigger, pods(3, bigger), 3).memory == 512 << 20


def test_less_memory_counts_at_once() -> None:
    assert in_effect(spec(memory="128Mi"), pods(3), 3).memory == 128 << 20


def test_new_pods_run_redis_while_any_pod_does() -> None:
    redis = spec(engine="redis")
    mixed = in_effect(spec(engine="valkey"), pods(1, redis), 3)
    assert mixed.spec.engine == "redis" and mixed.desired.settings.engine == "redis"
    assert reasons(mixed) == ["PodTemplateChangeNotServed"]
    assert in_effect(spec(engine="valkey"), [], 3).spec.engine == "valkey"
