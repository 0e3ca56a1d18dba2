"""The map's keeper: reads that are overtaken, writes with unknown outcome, and since when an entry is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.waiting import until

from cachecluster_core.hashring import CopyId, Entry, HashRing, State
from cachecluster_local.map_store import MemoryMapStore
from cachecluster_operator.map_keeper import MapKeeper
from cachecluster_operator.ports import StoreUnavailable

pytestmark = pytest.mark.t0

ONE, TWO = CopyId("uid-1", "r1"), CopyId("uid-2", "r2")
RING = HashRing("demo", entries=(Entry(), Entry()))


class ShakyStore(MemoryMapStore):
    """A store whose calls fail when told to, before or after they took effect; `reading` gates reads."""

    def __init__(self) -> None:
        super().__init__("default")
        self.fail_reads = False
        self.lose_write_answers = False
        self.reading = asyncio.Event()
        self.reading.set()
        self.read_begun = asyncio.Event()
        self.reads = 0

    async def get(self) -> HashRing | None:
        ring = await super().get()
        self.read_begun.set()
        await self.reading.wait()
        self.reads += 1
        if self.fail_reads:
            raise StoreUnavailable("not now")
        return ring

    async def replace(self, ring: HashRing) -> HashRing:
        written = await super().replace(ring)
        if self.lose_write_answers:
            raise StoreUnavailable("the answer was lost")
        return written


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> ShakyStore:
    return ShakyStore()


@pytest.fixture
async def keeper(store: ShakyStore, clock: Clock) -> AsyncIterator[MapKeeper]:
    keeper = MapKeeper(store, clock, lambda: None)
    task = asyncio.create_task(keeper.run())
    yield keeper
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def elected(ring: HashRing, partition: int) -> HashRing:
    entries = list(ring.entries)
    before = entries[partition]
    entries[partition] = before.changed(state=State.STABLE, primary=ONE, isr=(ONE, TWO), term=before.epoch)
    return replace(ring, entries=tuple(entries))


async def test_a_missing_map_is_known_to_be_missing(keeper: MapKeeper) -> None:
    await until(lambda: keeper.known)
    assert keeper.map is None
    assert keeper.seen_at == {}


async def test_an_own_write_counts_from_after_it_returned_and_only_for_what_it_changed(
    keeper: MapKeeper, clock: Clock
) -> None:
    await until(lambda: keeper.known)
    assert await keeper.write(RING)
    assert keeper.seen_at == {0: 100.0, 1: 100.0}
    clock.now = 107.0
    assert keeper.map is not None
    assert await keeper.write(elected(keeper.map, 1))
    assert keeper.seen_at == {0: 100.0, 1: 107.0}
    assert keeper.writes == 2


async def test_a_change_of_learners_alone_does_not_make_an_entry_new(keeper: MapKeeper, clock: Clock) -> None:
    await until(lambda: keeper.known)
    assert await keeper.write(RING)
    clock.now = 107.0
    assert keeper.map is not None
    entries = (replace(keeper.map.entries[0], learners=("uid-3",)), keeper.map.entries[1])
    assert await keeper.write(replace(keeper.map, entries=entries))
    assert keeper.seen_at[0] == 100.0


async def test_a_conflict_makes_the_map_unknown_until_it_was_read_again(keeper: MapKeeper, store: ShakyStore) -> None:
    await until(lambda: keeper.known)
    await store.create(RING)
    assert not await keeper.write(RING)
    assert not keeper.known and keeper.conflicts == 1
    await until(lambda: keeper.known)
    assert keeper.map == store.current


async def test_a_write_with_unknown_outcome_counts_from_the_read_that_found_it(
    keeper: MapKeeper, store: ShakyStore, clock: Clock
) -> None:
    await until(lambda: keeper.known)
    assert await keeper.write(RING)
    store.lose_write_answers = store.fail_reads = True
    assert keeper.map is not None
    clock.now = 103.0
    assert not await keeper.write(elected(keeper.map, 0))
    assert not keeper.known
    clock.now = 109.0
    store.fail_reads = False
    await until(lambda: keeper.known)
    assert keeper.map == store.current
    assert keeper.seen_at == {0: 109.0, 1: 100.0}


async def test_a_read_that_a_write_overtakes_is_not_believed(keeper: MapKeeper, store: ShakyStore) -> None:
    await until(lambda: keeper.known)
    assert await keeper.write(RING)
    await until(lambda: keeper.map == store.current)
    store.reading.clear()
    store.read_begun.clear()
    keeper.refresh()
    await store.read_begun.wait()
    assert keeper.map is not None
    assert await keeper.write(elected(keeper.map, 0))
    reads = store.reads
    store.reading.set()
    await until(lambda: store.reads >= reads + 2)
    assert keeper.map == store.current


async def test_a_map_deleted_by_hand_is_noticed_and_a_new_one_counts_anew(
    keeper: MapKeeper, store: ShakyStore, clock: Clock
) -> None:
    await until(lambda: keeper.known)
    assert await keeper.write(RING)
    store.delete()
    await until(lambda: keeper.map is None)
    clock.now = 120.0
    await store.create(RING)
    await until(lambda: keeper.map is not None)
    assert keeper.seen_at == {0: 120.0, 1: 120.0}


async def test_what_is_known_stays_known_while_a_mere_refresh_fails(keeper: MapKeeper, store: ShakyStore) -> None:
    await until(lambda: keeper.known)
    store.fail_reads = True
    failures = keeper.failures
    keeper.refresh()
    await until(lambda: keeper.failures > failures)
    assert keeper.known


async def test_a_store_that_refuses_every_write_is_not_hammered(
    keeper: MapKeeper, store: ShakyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(ring: HashRing) -> HashRing:
        raise StoreUnavailable("422: this map is not allowed")

    monkeypatch.setattr(store, "create", refuse)
    loop = asyncio.get_running_loop()
    pauses = []
    for _ in range(4):
        await until(lambda: keeper.known)
        began = loop.time()
        assert not await keeper.write(RING)
        await until(lambda: keeper.known)
        pauses.append(loop.time() - began)
    assert pauses[0] < 0.5 < pauses[2] < pauses[3]
