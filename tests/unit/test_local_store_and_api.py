"""The in-memory store and the API that agents follow it by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from tests.map_store_suite import RING, DeleteMap, MapStoreSuite

from cachecluster_core.hashring import Entry, HashRing
from cachecluster_local import map_store
from cachecluster_local.api import LocalApi
from cachecluster_local.map_store import ChangeType, Expired, MemoryMapStore

pytestmark = pytest.mark.t0

PATH = "/apis/cachecluster.io/v1alpha1/namespaces/local/hashrings"


@pytest.fixture
def store() -> MemoryMapStore:
    return MemoryMapStore("local")


@pytest.fixture
async def api(store: MemoryMapStore) -> AsyncIterator[str]:
    api = LocalApi(store, "127.0.0.1")
    await api.start()
    yield api.url + PATH
    await api.stop()


@pytest.fixture
def delete_map(store: MemoryMapStore) -> DeleteMap:
    async def delete() -> None:
        store.delete()

    return delete


class TestMemoryMapStore(MapStoreSuite):
    """The suite of the port."""


async def test_a_watch_tells_every_change_in_order_and_goes_on(store: MemoryMapStore) -> None:
    ring = await store.create(RING)
    await store.replace(ring)
    store.delete()
    watch = store.watch(0)
    seen = [await anext(watch) for _ in range(3)]
    assert [change.type for change in seen] == [ChangeType.ADDED, ChangeType.MODIFIED, ChangeType.DELETED]
    waiting = asyncio.create_task(anext(watch))
    await asyncio.sleep(0)
    await store.create(RING)
    assert (await waiting).type is ChangeType.ADDED


async def test_a_watch_from_too_far_back_is_told_so(store: MemoryMapStore) -> None:
    ring = await store.create(RING)
    for _ in range(map_store.HISTORY + 1):
        ring = await store.replace(ring)
    with pytest.raises(Expired):
        await anext(store.watch(0))


async def test_an_agent_gets_the_map_or_only_its_metadata_or_not_found(store: MemoryMapStore, api: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{api}/demo") as response:
            assert response.status == 404
            assert (await response.json())["reason"] == "NotFound"
        ring = await store.create(RING)
        async with session.get(f"{api}/demo") as response:
            assert HashRing.from_object(await response.json()) == ring
        accept = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
        async with session.get(f"{api}/demo", headers=accept) as response:
            data = await response.json()
            assert data["kind"] == "PartialObjectMetadata" and "spec" not in data
            assert data["metadata"]["resourceVersion"] == ring.version
        async with session.get(f"{api}/other") as response:
            assert response.status == 404


async def test_a_watch_over_http_begins_after_its_version_and_ends_in_time(store: MemoryMapStore, api: str) -> None:
    ring = await store.create(RING)
    query = {"watch": "1", "fieldSelector": "metadata.name=demo", "timeoutSeconds": "1"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(api, params=query | {"resourceVersion": ring.version}) as response,
    ):
        newer = await store.replace(replace(ring, entries=(Entry(epoch=2),)))
        event = json.loads(await response.content.readline())
        assert event["type"] == "MODIFIED" and HashRing.from_object(event["object"]) == newer
        store.delete()
        assert json.loads(await response.content.readline())["type"] == "DELETED"
        assert await response.content.readline() == b""


async def test_a_watch_over_http_of_forgotten_history_is_gone(store: MemoryMapStore, api: str) -> None:
    ring = await store.create(RING)
    for _ in range(map_store.HISTORY + 1):
        ring = await store.replace(ring)
    async with (
        aiohttp.ClientSession() as session,
        session.get(api, params={"watch": "1", "resourceVersion": "0"}) as it,
    ):
        event = json.loads(await it.content.readline())
        assert event["type"] == "ERROR" and event["object"]["code"] == 410


async def test_the_map_can_be_deleted_by_hand(store: MemoryMapStore, api: str) -> None:
    await store.create(RING)
    async with aiohttp.ClientSession() as session:
        async with session.delete(f"{api}/demo") as response:
            assert response.status == 200
        async with session.delete(f"{api}/demo") as response:
            assert response.status == 404
    assert store.current is None
