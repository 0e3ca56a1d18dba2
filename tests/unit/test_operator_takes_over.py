"""An operator that starts in the middle of a scale-in: what it takes for wanted before it has heard anybody."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fake_kube_api import FakeKubeApi

from cachecluster_core.hashring import CopyId, Entry, HashRing, State
from cachecluster_core.spec import parse_spec, settings_of
from cachecluster_operator.cluster_key import ClusterKey
from cachecluster_operator.in_effect import InEffect, in_effect
from cachecluster_operator.labels import owner_reference
from cachecluster_operator.managed_cluster import ManagedCluster, Wakeups
from cachecluster_operator.resources import HASH_RING
from cachecluster_operator.zones import Zones

pytestmark = pytest.mark.t0

KEY = ClusterKey("default", "demo")
CLUSTER: dict[str, Any] = {
    "apiVersion": "cachecluster.io/v1alpha1",
    "kind": "CacheCluster",
    "metadata": {"name": "demo", "namespace": "default", "uid": "cc"},
    "spec": {"nodes": 3, "memory": "256Mi"},
}
COPIES = (CopyId("uid-0", "run"), CopyId("uid-1", "run"))
ENTRIES = (Entry(epoch=3, state=State.STABLE, primary=COPIES[0], isr=COPIES, term=2),) * 16


async def effect_at_start(sized_for: int | None, pods: int) -> InEffect:
    """What the operator of a cluster of 3 wanted nodes thinks of `pods` pods, by a map sized for so many nodes."""
    api = FakeKubeApi()
    if sized_for is not None:
        settings = settings_of(parse_spec(CLUSTER["spec"]), nodes=sized_for)
        metadata = {"name": "demo", "namespace": "default", "ownerReferences": [owner_reference(CLUSTER)]}
        ring = HashRing("demo", (), ENTRIES, settings)
        body = {"apiVersion": HASH_RING.api_version, "kind": HASH_RING.kind, "metadata": metadata}
        await api.create(HASH_RING, body | {"spec": ring.to_spec()})
    wakeups = Wakeups(reconcile=lambda: None, status=lambda: None, snapshot=lambda _: None)
    cluster = ManagedCluster(api, KEY, CLUSTER, Zones(api), "image:1", wakeups)
    cluster.parse()
    assert cluster.spec is not None
    existing = [{"metadata": {"uid": f"uid-{number}"}} for number in range(pods)]
    return in_effect(cluster.spec, existing, await cluster.holdings())


async def test_a_scale_in_that_was_under_way_goes_on_before_anybody_reports() -> None:
    effect = await effect_at_start(sized_for=3, pods=5)
    assert effect.desired.nodes == 3 and effect.pending == ()


async def test_a_scale_in_that_nobody_has_decided_waits_for_reports() -> None:
    effect = await effect_at_start(sized_for=5, pods=5)
    assert effect.desired.nodes == 5
    assert [pending.reason for pending in effect.pending] == ["ScaleInUndecided"]


async def test_without_a_map_pods_that_are_too_many_are_none_yet() -> None:
    assert (await effect_at_start(sized_for=None, pods=5)).desired.nodes == 5
    assert (await effect_at_start(sized_for=None, pods=2)).desired.nodes == 3
