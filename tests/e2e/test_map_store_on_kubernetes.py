"""The conformance suite of the map's store on a real API server. A poll stands in for the watch."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.map_store_suite import RING, DeleteMap, MapStoreSuite

from cachecluster_devcluster.cluster import DevCluster
from cachecluster_operator.cluster_key import ClusterKey
from cachecluster_operator.kube_api import HttpKubeApi
from cachecluster_operator.kube_config import load
from cachecluster_operator.kube_map_store import KubeMapStore
from cachecluster_operator.labels import common_labels
from cachecluster_operator.ports import StoreUnavailable
from cachecluster_operator.resources import CONFIG_MAP, HASH_RING

pytestmark = pytest.mark.t2

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def namespace(devcluster: DevCluster, kubectl: Callable[..., str]) -> Iterator[str]:
    name = f"map-store-{os.getpid()}"
    kubectl("apply", "-f", str(ROOT / "crds" / "cacheclusters.yaml"), "-f", str(ROOT / "crds" / "hashrings.yaml"))
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
async def store(devcluster: DevCluster, namespace: str) -> AsyncIterator[KubeMapStore]:
    configuration = await load(str(devcluster.kubeconfig))
    api = HttpKubeApi(configuration)
    key = ClusterKey(namespace, RING.name)
    owner = {"metadata": {"name": f"owner-{next(_numbers)}", "namespace": namespace}}
    made = await api.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap"} | owner)
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": made["metadata"]["name"]}
    store = KubeMapStore(api, key, reference | {"uid": made["metadata"]["uid"]}, common_labels(key))

    await _remove(api, key)
    watching = asyncio.create_task(_notify(api, key, store))
    yield store
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await api.close()
    # aiohttp leaves the end of TLS connections to the loop.
    await asyncio.sleep(0.25)


@pytest.fixture
def delete_map(store: KubeMapStore, kubectl: Callable[..., str], namespace: str) -> DeleteMap:
    async def delete() -> None:
        await asyncio.to_thread(kubectl, "--namespace", namespace, "delete", "hashring", RING.name)

    return delete


async def _notify(api: HttpKubeApi, key: ClusterKey, store: KubeMapStore) -> None:
    before: object = None
    while True:
        found = await api.get(HASH_RING, key.namespace, key.name)
        now = found["metadata"]["resourceVersion"] if found is not None else None
        if now != before:
            before = now
            store.notify()
        await asyncio.sleep(0.02)


async def _remove(api: HttpKubeApi, key: ClusterKey) -> None:
    found = await api.get(HASH_RING, key.namespace, key.name)
    if found is not None:
        await api.delete(HASH_RING, key.namespace, key.name, found["metadata"]["uid"])


class TestKubeMapStore(MapStoreSuite):
    """The suite."""


async def test_a_map_that_cannot_be_understood_is_never_overwritten(
    store: KubeMapStore, kubectl: Callable[..., str], namespace: str
) -> None:
    await store.create(RING)
    patch = '{"spec": {"entries": [{"epoch": 2, "state": "Stable", "term": 1, "reason": "", "since": 0}]}}'
    arguments = ("--namespace", namespace, "patch", "hashring", RING.name, "--type=merge", "-p", patch)
    await asyncio.to_thread(kubectl, *arguments)
    with pytest.raises(StoreUnavailable, match="no map may say"):
        await store.get()
