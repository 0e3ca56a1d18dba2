"""What INFO says of replication, on both engines: the agent's idea of a copy's history hangs on it.

Each test brings two or three real engines into one situation and holds the engine to what `observation.py` says.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.agent_support import ENGINES, PASSWORDS, Engines, running_engines, until

from cachecluster_core.agent_view import CopyView, Follow, Promote, Restart, Seal, Start
from cachecluster_core.hashring import CopyId
from cachecluster_core.report import Process
from cachecluster_local.processes import send_signal
from cachecluster_sidecar.agent.copy import LocalCopy
from cachecluster_sidecar.agent.engine_connection import EngineConnection

pytestmark = pytest.mark.t1


class Pair:
    """A primary (partition 0) and a replica (partition 1) of it; polled like the agent's loop does."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.primary = engines.copy(0)
        self.replica = engines.copy(1)
        self._poller = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            for copy in list(self.engines.copies.values()):
                if copy.due <= now:
                    copy.poll(now)
            await asyncio.sleep(0.005)

    def close(self) -> None:
        self._poller.cancel()

    async def run(self, copy: LocalCopy, command: Start | Promote | Seal | Follow | Restart) -> CopyView:
        copy.execute(command, {})
        await until(lambda: not copy.busy)
        return copy.view()

    async def ask(self, copy: LocalCopy, *commands: tuple[str, ...]) -> list[object]:
        path = self.engines.engine.files.socket(copy.partition)
        connection = await EngineConnection.connect(path, PASSWORDS["agent"], lambda: None, 1.0)
        try:
            return list(await connection.request(commands))
        finally:
            connection.close()

    def follow(self) -> Follow:
        announce = str(CopyId("pod-b", self.replica.view().run_id))
        return Follow(1, "127.0.0.1", self.engines.engine.replication_port, announce)

    async def attach(self) -> None:
        for copy in (self.primary, self.replica):
            await self.run(copy, Start(copy.partition))
        await self.run(self.primary, Promote(0))
        await self.run(self.replica, self.follow())
        await until(lambda: self.replica.view().link_up)
        await until(lambda: any(replica.online for replica in self.primary.view().attached))

    async def write(self, count: int = 1) -> None:
        await self.ask(self.primary, *(("SET", f"k{i}", "v" * 100) for i in range(count)))
        offset = await self.primary_offset()
        await until(lambda: self.replica.view().offset >= offset)

    async def primary_offset(self) -> int:
        (info,) = await self.ask(self.primary, ("INFO", "replication"))
        assert isinstance(info, bytes)
        return int(info.partition(b"\nmaster_repl_offset:")[2].partition(b"\r")[0])


@pytest.fixture(params=ENGINES)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with running_engines(request.param, tmp_path) as engines:
        running = Pair(engines)
        yield running
        running.close()


async def test_a_fresh_copy_has_no_stream_and_a_link_gives_it_one(pair: Pair) -> None:
    view = await pair.run(pair.replica, Start(1))
    assert not view.has_stream and view.offset == 1 and view.source == ("127.0.0.1", 1)
    await pair.attach()
    view = pair.replica.view()
    assert view.has_stream and view.link_up and not view.syncing


async def test_the_primary_names_its_replica_by_pod_and_process(pair: Pair) -> None:
    await pair.attach()
    await pair.write(10)
    copy = CopyId("pod-b", pair.replica.view().run_id)
    await until(lambda: [replica.copy for replica in pair.primary.view().attached] == [copy])
    assert pair.primary.view().source is None and not pair.primary.view().has_stream
    assert pair.replica.view().announce == str(copy)


async def test_a_seal_keeps_offset_and_stream_and_a_new_link_is_a_partial_resync(pair: Pair) -> None:
    await pair.attach()
    await pair.write(10)
    sealed = await pair.run(pair.replica, Seal(1))
    assert sealed.has_stream and not sealed.link_up and sealed.offset == await pair.primary_offset()
    await pair.ask(pair.primary, ("SET", "later", "1"))
    await asyncio.sleep(0.1)
    pair.replica.poll(asyncio.get_running_loop().time())
    assert pair.replica.view().offset == sealed.offset
    await pair.run(pair.replica, pair.follow())
    await until(lambda: pair.replica.view().link_up)
    (stats,) = await pair.ask(pair.primary, ("INFO", "stats"))
    assert isinstance(stats, bytes) and b"sync_partial_ok:1\r" in stats


async def test_a_sealed_former_primary_keeps_its_offset_and_has_a_stream_also_when_it_never_had_a_replica(
    pair: Pair,
) -> None:
    await pair.run(pair.primary, Start(0))
    await pair.run(pair.primary, Promote(0))
    await pair.ask(pair.primary, ("SET", "a", "1"))
    alone = await pair.run(pair.primary, Seal(0))
    assert alone.has_stream and alone.offset == 0
    await pair.run(pair.primary, Promote(0))
    await pair.attach()
    await pair.write(10)
    offset = await pair.primary_offset()
    sealed = await pair.run(pair.primary, Seal(0))
    assert sealed.has_stream and sealed.offset == offset == pair.replica.view().offset


async def test_histories_have_the_same_name_on_both_sides_a_seal_keeps_it_and_a_promotion_begins_another(
    pair: Pair,
) -> None:
    await pair.attach()
    await pair.write(10)
    replid = pair.primary.view().replid
    assert len(replid) == 40 and pair.replica.view().replid == replid
    assert (await pair.run(pair.primary, Seal(0))).replid == replid
    assert (await pair.run(pair.primary, Promote(0))).replid not in ("", replid)


async def test_a_replica_that_followed_too_early_asks_again_soon_and_not_for_ever(pair: Pair) -> None:
    await pair.attach()
    await pair.write(10)
    await pair.run(pair.primary, Seal(0))
    await pair.run(pair.replica, Seal(1))
    loop, pauses = asyncio.get_running_loop(), []
    assert not pair.replica.view().ask_again
    follow = pair.follow()
    for _ in range(3):
        await pair.run(pair.replica, follow)
        began, changes = loop.time(), pair.engines.changes
        assert not pair.replica.view().ask_again
        await until(lambda: pair.replica.view().ask_again)
        assert pair.engines.changes > changes, "the loop is woken"
        pauses.append(loop.time() - began)
        follow = replace(follow, anew=True)
    assert [pause >= least for pause, least in zip(pauses, (0.09, 0.19, 0.39), strict=True)] == [True] * 3, pauses
    await pair.run(pair.replica, follow)
    await asyncio.sleep(0.6)
    assert not pair.replica.view().ask_again, "then the engine's own retries do"
    await pair.run(pair.primary, Promote(0))
    await pair.run(pair.replica, follow)
    await until(lambda: pair.replica.view().link_up, 0.5)
    (stats,) = await pair.ask(pair.primary, ("INFO", "stats"))
    assert isinstance(stats, bytes) and b"sync_full:1\r" in stats, "what it has already is not sent again"


async def test_a_copy_under_hand_over_tells_every_offset_within_milliseconds(pair: Pair) -> None:
    await pair.attach()
    await pair.write(1)  # the stream begins only with the replica's first acknowledgement
    pair.replica.quicken(5.0)
    for _ in range(5):
        pair.engines.changes = 0
        await pair.ask(pair.primary, ("INCR", "n"))
        await until(lambda: pair.engines.changes > 0, 0.25)
        assert pair.replica.view().offset == await pair.primary_offset()


async def test_a_replica_whose_primary_died_keeps_its_stream_also_when_an_empty_one_takes_its_place(pair: Pair) -> None:
    await pair.attach()
    await pair.write(10)
    offset = pair.replica.view().offset
    send_signal(pair.engines.pid(0), signal.SIGKILL)
    await until(lambda: pair.primary.view().process is Process.DEAD)
    await until(lambda: not pair.replica.view().link_up)
    await pair.run(pair.primary, Start(0))  # empty, a replica of nothing: it answers -NOMASTERLINK
    await asyncio.sleep(1.2)  # the engine tries once a second
    view = pair.replica.view()
    assert view.has_stream and not view.syncing and view.offset == offset
    (keys,) = await pair.ask(pair.replica, ("DBSIZE",))
    assert keys == 10


async def test_a_link_that_breaks_leaves_the_stream(pair: Pair) -> None:
    await pair.attach()
    await pair.write(10)
    offset = pair.replica.view().offset
    send_signal(pair.engines.pid(0), signal.SIGSTOP)
    await pair.ask(pair.replica, ("CLIENT", "KILL", "TYPE", "master"))
    await until(lambda: not pair.replica.view().link_up)
    view = pair.replica.view()
    send_signal(pair.engines.pid(0), signal.SIGCONT)
    assert view.has_stream and view.offset == offset


async def test_a_full_resync_takes_the_stream_when_the_load_begins_and_an_aborted_one_leaves_none(pair: Pair) -> None:
    await pair.attach()
    await pair.write(10)
    await pair.run(pair.primary, Restart(0, "test"))
    await pair.run(pair.primary, Promote(0))
    filler = ("EVAL", "for i = 1, 60000 do redis.call('SET', 'x' .. i, string.rep('v', 200)) end", "0")
    await pair.ask(pair.primary, filler)
    slow = [("loading-process-events-interval-bytes", "1024"), ("key-load-delay", "50")]
    await pair.ask(pair.replica, *(("CONFIG", "SET", name, value) for name, value in slow))
    seen: list[CopyView] = []
    await until(lambda: seen.append(pair.replica.view()) or (seen[-1].syncing and not seen[-1].has_stream), 15)  # type: ignore[func-returns-value]
    send_signal(pair.engines.pid(0), signal.SIGKILL)
    assert pair.engines.pid(1) > 1
    path = pair.engines.engine.files.data(1)
    view = pair.replica.view()
    assert view.process is Process.UP and view.syncing and not view.has_stream and not view.link_up
    assert all(before.has_stream for before in seen[:1]), "the data was whole while the resync was being prepared"
    view = await pair.run(pair.replica, Restart(1, "a full resync began in a copy that held data"))
    assert view.process is Process.UP and not view.has_stream and not list(path.glob("*.rdb"))


async def test_replicas_authenticate_and_nobody_else_gets_in(pair: Pair) -> None:
    await pair.attach()
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.engines.engine.replication_port)
    writer.write(b"PING\r\nAUTH repl r-secret\r\nPING\r\nGET k\r\nCONFIG GET *\r\n")
    lines = [await reader.readline() for _ in range(5)]
    writer.close()
    await writer.wait_closed()
    assert lines[0].startswith(b"-NOAUTH") and lines[1] == b"+OK\r\n" and lines[2] == b"+PONG\r\n"
    assert lines[3].startswith(b"-NOPERM") and lines[4].startswith(b"-NOPERM")
