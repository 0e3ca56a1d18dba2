"""What every implementation of the `MapStore` port must do.

A test module inherits `MapStoreSuite` and brings two fixtures: `store`, an empty store for a map `RING.name`, and
`delete_map`, which deletes the stored map behind the store's back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cachecluster_core.hashring import Entry, HashRing
from cachecluster_operator.ports import Conflict, MapStore

RING = HashRing("demo", entries=(Entry(),))
HINT_S = 5.0

DeleteMap = Callable[[], Awaitable[None]]


class MapStoreSuite:
    """Linearizable reads, compare-and-swap writes, hints."""

    async def test_an_empty_store_has_no_map(self, store: MapStore) -> None:
        assert await store.get() is None

    async def test_what_was_written_is_read(self, store: MapStore) -> None:
        written = await store.create(RING)
        assert written.version and written.uid
        assert replace(written, version="", uid="") == RING
        assert await store.get() == written

    async def test_a_second_map_is_a_conflict(self, store: MapStore) -> None:
        written = await store.create(RING)
        with pytest.raises(Conflict):
            await store.create(RING)
        assert await store.get() == written

    async def test_only_the_current_version_can_be_replaced(self, store: MapStore) -> None:
        first = await store.create(RING)
        second = await store.replace(replace(first, entries=(Entry(epoch=2),)))
        assert second.version != first.version and second.uid == first.uid
        with pytest.raises(Conflict):
            await store.replace(replace(first, entries=(Entry(epoch=3),)))
        assert await store.get() == second

    async def test_a_deleted_map_cannot_be_replaced_and_a_new_one_is_another(
        self, store: MapStore, delete_map: DeleteMap
    ) -> None:
        first = await store.create(RING)
        await delete_map()
        assert await store.get() is None
        with pytest.raises(Conflict):
            await store.replace(first)
        assert (await store.create(RING)).uid != first.uid

    async def test_every_change_is_hinted_at(self, store: MapStore, delete_map: DeleteMap) -> None:
        hints = store.changes()
        for change in (lambda: store.create(RING), delete_map):
            waiting = asyncio.ensure_future(anext(hints))
            await asyncio.sleep(0.05)
            await change()
            async with asyncio.timeout(HINT_S):
                await waiting
