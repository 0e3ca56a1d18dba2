"""The resync: lists that are older than what the watch has told meanwhile change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.fake_kube_api import FakeKubeApi
from tests.waiting import until

from cachecluster_operator import reconcile
from cachecluster_operator.event_recorder import EventRecorder
from cachecluster_operator.kube_api import Json
from cachecluster_operator.metrics import OperatorMetrics
from cachecluster_operator.reconcile import Reconciler
from cachecluster_operator.resources import CACHE_CLUSTER, Resource

pytestmark = pytest.mark.t0


class LateApi(FakeKubeApi):
    """Lists of CacheClusters are old when they arrive: `meanwhile` is called first."""

    def __init__(self) -> None:
        super().__init__()
        self.lists = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def list(self, resource: Resource, namespace: str | None, label_selector: str = "") -> tuple[list[Json], str]:
        found = await super().list(resource, namespace, label_selector)
        if resource == CACHE_CLUSTER:
            self.meanwhile()
            self.lists += 1
        return found


def cluster_of(generation: int, number: int) -> Json:
    """One that nothing is made for: its spec is not valid."""
    version = {"generation": generation, "resourceVersion": str(number)}
    metadata = {"name": "demo", "namespace": "default", "uid": "cc"} | version
    return {"apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": metadata, "spec": {}}


@asynccontextmanager
async def resyncing(api: FakeKubeApi, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reconciler]:
    monkeypatch.setattr(reconcile, "RESYNC_S", 0.02)
    api.objects["CacheCluster", "default", "demo"] = cluster_of(2, 0)
    reconciler = Reconciler(api, None, "image:1", EventRecorder(api, "test"), OperatorMetrics())
    task = asyncio.create_task(reconciler.run())
    reconciler.seen(CACHE_CLUSTER, cluster_of(2, 0))
    yield reconciler
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def observed(api: FakeKubeApi) -> int | None:
    status: Json = api.objects["CacheCluster", "default", "demo"].get("status") or {}
    return status.get("observedGeneration")


async def test_a_list_does_not_bring_back_a_spec_that_was_changed_since(monkeypatch: pytest.MonkeyPatch) -> None:
    api = LateApi()
    async with resyncing(api, monkeypatch) as reconciler:
        await until(lambda: observed(api) == 2)
        api.meanwhile = lambda: reconciler.seen(CACHE_CLUSTER, cluster_of(3, 1000))
        await until(lambda: observed(api) == 3)


async def test_a_list_does_not_bring_back_a_cluster_that_was_deleted_since(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", reconcile.log.name)
    api = LateApi()
    async with resyncing(api, monkeypatch) as reconciler:
        await until(lambda: observed(api) == 2)
        api.meanwhile = lambda: reconciler.gone(CACHE_CLUSTER, cluster_of(2, 0))
        await until(lambda: "no longer managed" in caplog.text)
        lists = api.lists
        await until(lambda: api.lists > lists + 2)
    assert caplog.text.count(": managed") == 1


async def test_everything_is_read_again_soon_after_the_api_server_did_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Far sooner than by itself: watches may take long to notice that it is back."""
    monkeypatch.setattr(reconcile, "RESYNC_AGAIN_S", 0.05)
    api = LateApi()
    reconciler = Reconciler(api, None, "image:1", EventRecorder(api, "test"), OperatorMetrics())
    task = asyncio.create_task(reconciler.run())
    reconciler.seen(CACHE_CLUSTER, cluster_of(2, 0))
    api.away = True
    await until(lambda: caplog.text.count("resync: ") > 1)
    assert api.lists == 0
    api.away = False
    await until(lambda: api.lists == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
