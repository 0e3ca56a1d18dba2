"""An operator that starts and finds something in its way: a spec that has been spoilt, children or pods that cannot be
made. Elections, repair and the disruption budget go on all the same, and the status says what it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.fake_kube_api import FakeKubeApi
from tests.waiting import until

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_core.spec import parse_spec, settings_of
from cachecluster_operator import manifests
from cachecluster_operator.cluster_key import ClusterKey
from cachecluster_operator.event_recorder import EventRecorder
from cachecluster_operator.in_effect import in_effect_by_map
from cachecluster_operator.kube_api import ApiError, Json
from cachecluster_operator.labels import MEMORY_ANNOTATION, TEMPLATE_ANNOTATION, owner_reference, pod_labels
from cachecluster_operator.metrics import OperatorMetrics
from cachecluster_operator.reconcile import Reconciler
from cachecluster_operator.resources import CACHE_CLUSTER, HASH_RING, SECRET, Resource

pytestmark = pytest.mark.t0

KEY = ClusterKey("default", "demo")
VALID = {"nodes": 2, "memory": "256Mi", "resources": {"redis": {"limits": {"memory": "1Gi"}}}}
SPOILT = VALID | {"memory": "1Gi"}
UNREADABLE = {"nodes": "two", "fencing": {"trustConnectionRefused": "perhaps"}}
COPIES = (CopyId("uid-0", "run"), CopyId("uid-1", "run"))
ENTRIES = (Entry(epoch=3, state=State.STABLE, primary=COPIES[0], isr=COPIES, term=2),) * 16
SETTINGS = replace(settings_of(parse_spec(VALID)), lost_after_s=77.0)
GONE = (("uid-9", Member("demo-9", "")),)
"""A member that no entry names and that does not exist: the first decision takes it out of the map."""
RING = HashRing("demo", GONE, ENTRIES, SETTINGS)


def cluster_of(spec: Json) -> Json:
    metadata = {"name": "demo", "namespace": "default", "uid": "cc", "generation": 2, "resourceVersion": "1"}
    return {"apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": metadata, "spec": spec}


def pod(number: int) -> Json:
    metadata = {
        "name": f"demo-{number}",
        "namespace": "default",
        "uid": f"uid-{number}",
        "resourceVersion": "1",
        "labels": pod_labels(KEY),
        "annotations": {TEMPLATE_ANNOTATION: "as it was", MEMORY_ANNOTATION: str(256 << 20)},
        "ownerReferences": [owner_reference(cluster_of(VALID))],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {}}


class RefusingApi(FakeKubeApi):
    """Takes no objects of the kinds in `refused`."""

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.refused = refused

    async def create(self, resource: Resource, manifest: Json) -> Json:
        if resource.kind in self.refused:
            text = f'pods "{manifest["metadata"]["name"]}" is forbidden: exceeded quota: few'
            raise ApiError(403, "Forbidden", text)
        return await super().create(resource, manifest)

    async def apply(self, resource: Resource, manifest: Json, subresource: str | None = None) -> Json:
        if resource.kind in self.refused:
            raise ApiError(403, "Forbidden", f"no {resource.kind} today")
        return await super().apply(resource, manifest, subresource)


async def fill(api: FakeKubeApi, spec: Json, with_map: bool = True) -> None:
    """A cluster as an earlier operator left it."""
    cluster = cluster_of(spec)
    api.objects["CacheCluster", "default", "demo"] = cluster
    await api.create(SECRET, manifests.secret(KEY, cluster, manifests.new_secret_values()))
    if with_map:
        metadata = {"name": "demo", "namespace": "default", "ownerReferences": [owner_reference(cluster)]}
        body = {"apiVersion": HASH_RING.api_version, "kind": HASH_RING.kind, "metadata": metadata}
        await api.create(HASH_RING, body | {"spec": RING.to_spec()})
    api.objects |= {("Pod", "default", f"demo-{number}"): pod(number) for number in range(2)}
    api.writes.clear()


@asynccontextmanager
async def reconciling(api: FakeKubeApi) -> AsyncIterator[Reconciler]:
    recorder = EventRecorder(api, "test")
    reconciler = Reconciler(api, None, "image:1", recorder, OperatorMetrics())
    tasks = [asyncio.create_task(reconciler.run()), asyncio.create_task(recorder.run())]
    reconciler.seen(CACHE_CLUSTER, api.objects["CacheCluster", "default", "demo"])
    yield reconciler
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def stored_map(api: FakeKubeApi) -> HashRing:
    return HashRing.from_object(api.objects["HashRing", "default", "demo"])


def conditions(api: FakeKubeApi, part: str) -> dict[str, str]:
    status: dict[str, Any] = api.objects["CacheCluster", "default", "demo"].get("status") or {}
    return {c["type"]: c[part] for c in status.get("conditions") or ()}


def reasons(api: FakeKubeApi) -> dict[str, str]:
    return conditions(api, "reason")


@pytest.mark.parametrize("spec", [SPOILT, UNREADABLE], ids=["too small", "unreadable"])
async def test_a_spec_spoilt_before_the_operator_started_does_not_stop_its_cluster(spec: Json) -> None:
    api = FakeKubeApi()
    await fill(api, spec)
    async with reconciling(api):
        await until(lambda: ("PodDisruptionBudget", "default", "demo") in api.objects)
        await until(lambda: stored_map(api).members != GONE)
        await until(lambda: reasons(api).get("UpToDate") == "InvalidSpec" == reasons(api)["Progressing"])
    assert stored_map(api).settings == SETTINGS
    assert [name for kind, _, name in api.objects if kind == "Pod"] == ["demo-0", "demo-1"]
    assert "spec." in api.objects["CacheCluster", "default", "demo"]["status"]["message"]


async def test_an_invalid_spec_without_a_map_makes_nothing() -> None:
    api = FakeKubeApi()
    await fill(api, SPOILT, with_map=False)
    async with reconciling(api):
        await until(lambda: reasons(api).get("Ready") == "InvalidSpec")
    assert {kind for kind, _, _ in api.objects} <= {"CacheCluster", "Secret", "Pod", "Event"}


async def test_a_cluster_with_a_spoilt_spec_goes_on_with_a_valid_one() -> None:
    api = FakeKubeApi()
    await fill(api, SPOILT)
    async with reconciling(api) as reconciler:
        await until(lambda: reasons(api).get("UpToDate") == "InvalidSpec")
        cluster = cluster_of(VALID)
        cluster["metadata"] |= {"generation": 3, "resourceVersion": "1000"}
        reconciler.seen(CACHE_CLUSTER, cluster)
        await until(lambda: stored_map(api).settings.lost_after_s == 60.0)
        await until(lambda: reasons(api).get("UpToDate") == "PodsOutdated")


def test_without_a_valid_spec_nothing_planned_is_begun() -> None:
    effect = in_effect_by_map(RING, [pod(0), pod(1)], SPOILT)
    assert effect.desired.paused and effect.desired.nodes == 2 and effect.desired.partitions == 16
    assert effect.template is None and effect.memory == 256 << 20
    for given, nodes in ((SPOILT | {"nodes": 4}, 4), (UNREADABLE, 2)):
        assert in_effect_by_map(RING, [pod(0), pod(1)], given).desired.nodes == nodes, "pods that are gone are missed"
    assert effect.sizing.maxmemory == int(dict(SETTINGS.engine_config)["maxmemory"])
    assert effect.desired.trust_connection_refused


def test_what_cannot_be_read_of_fencing_proves_nothing_and_what_can_be_read_holds() -> None:
    assert not in_effect_by_map(RING, [pod(0)], UNREADABLE).desired.trust_connection_refused
    refusing = SPOILT | {"fencing": {"trustConnectionRefused": False}, "repair": {"delaySeconds": 5}}
    desired = in_effect_by_map(RING, [pod(0)], refusing).desired
    assert not desired.trust_connection_refused and desired.timing.repair_delay == 5.0


async def test_children_that_cannot_be_made_do_not_keep_failover_from_running() -> None:
    api = RefusingApi(refused=("ServiceAccount",))
    await fill(api, VALID)
    async with reconciling(api):
        await until(lambda: stored_map(api).members != GONE)
        await until(lambda: ("PodDisruptionBudget", "default", "demo") in api.objects)
        await until(lambda: reasons(api).get("UpToDate") == "ChildrenNotApplied")


async def test_pods_that_the_api_server_refuses_are_told_with_its_reason() -> None:
    api = RefusingApi(refused=("Pod",))
    api.objects["CacheCluster", "default", "demo"] = cluster_of({"nodes": 2, "memory": "256Mi"})
    async with reconciling(api):
        await until(lambda: "exceeded quota: few" in conditions(api, "message").get("Progressing", ""))
        await until(lambda: any(kind == "Event" for kind, _, _ in api.objects))
        api.refused = ()
        await until(lambda: ("Pod", "default", "demo-1") in api.objects)
        await until(lambda: "exceeded quota" not in conditions(api, "message")["Progressing"])
    events = [obj for (kind, _, _), obj in api.objects.items() if kind == "Event" and obj["type"] == "Warning"]
    assert [event["reason"] for event in events] == ["FailedCreate"]
