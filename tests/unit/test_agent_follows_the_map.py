"""Quorum reads and the watch, against a small server that stands in for the API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.waiting import until

from cachecluster_core.hashring import Entry, HashRing
from cachecluster_sidecar.agent.map_client import ApiServer, MapClient, MapRead, ReadTimes
from cachecluster_sidecar.agent.remembered import Remembered

pytestmark = pytest.mark.t0

TIMES = ReadTimes(period=0.05, timeout=0.2, retry=0.02, watch=30, watch_retry=0.02)
SLOW = ReadTimes(period=30, timeout=0.2, retry=0.02, watch=30, watch_retry=0.02)


class FakeApi:
    """Serves one map. `mode` says how it behaves: ok, missing, broken, hang, html404."""

    def __init__(self) -> None:
        self.version = 1
        self.epoch = 1
        self.mode = "ok"
        self.owner = "ours"
        self.gets: list[tuple[str, str]] = []
        self.watches: list[dict[str, str]] = []
        self.events: asyncio.Queue[bytes] = asyncio.Queue()
        self.url = ""

    def object(self) -> dict[str, Any]:
        ring = HashRing("demo", entries=(Entry(epoch=self.epoch),))
        owner = {"kind": "CacheCluster", "name": "demo", "uid": self.owner}
        metadata = {"name": "demo", "resourceVersion": str(self.version), "ownerReferences": [owner]}
        return {"metadata": metadata, "spec": ring.to_spec()}

    def change(self) -> None:
        self.version += 1
        self.epoch += 1

    async def get(self, request: web.Request) -> web.Response:
        metadata_only = "PartialObjectMetadata" in request.headers["Accept"]
        self.gets.append(("metadata" if metadata_only else "whole", request.headers.get("Authorization", "")))
        assert not request.query_string, "a resourceVersion would make it anything but a quorum read"
        match self.mode:
            case "missing":
                return web.json_response({"kind": "Status", "reason": "NotFound", "code": 404}, status=404)
            case "html404":
                return web.Response(text="<html>", status=404)
            case "broken":
                return web.json_response({"kind": "Status", "reason": "InternalError"}, status=500)
            case "hang":
                await asyncio.sleep(60)
        found = self.object()
        return web.json_response({"metadata": found["metadata"]} if metadata_only else found)

    async def watch(self, request: web.Request) -> web.StreamResponse:
        self.watches.append(dict(request.query))
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            data = await self.events.get()
            if not data:
                return response
            await response.write(data)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    app = web.Application()
    base = "/apis/cachecluster.io/v1alpha1/namespaces/ns/hashrings"
    app.router.add_get(base, fake.watch)
    app.router.add_get(base + "/demo", fake.get)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    fake.events.put_nowait(b"")
    await runner.cleanup()


class Client:
    """A running map client with its reads, under a clock that counts calls."""

    def __init__(self, api: FakeApi, times: ReadTimes = TIMES, token_file: Path | None = None) -> None:
        self.reads: list[MapRead] = []
        self.attempts: list[bool] = []
        self.now = 0
        server = ApiServer(api.url, "ns", "demo", token_file, owner_uid="ours")
        self.maps = MapClient(
            server, self.reads.append, lambda _, succeeded: self.attempts.append(succeeded), times, self._clock
        )
        self._task = asyncio.create_task(self.maps.run())

    def _clock(self) -> int:
        self.now += 1
        return self.now

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    running = Client(api)
    yield running
    await running.stop()


async def test_the_first_read_is_whole_and_later_ones_ask_for_metadata_only(api: FakeApi, client: Client) -> None:
    await until(lambda: len(client.reads) >= 3)
    assert [kind for kind, _ in api.gets[:3]] == ["whole", "metadata", "metadata"]
    assert client.reads[0].ring == client.reads[2].ring and client.reads[0].ring is not None
    assert client.reads[0].ring.version == "1"
    assert [read.sent_ns for read in client.reads[:3]] == [1, 2, 3]


async def test_a_new_map_found_by_a_poll_is_read_whole_and_counts_from_that_second_read(
    api: FakeApi, client: Client
) -> None:
    await until(lambda: client.reads)
    api.change()
    await until(lambda: client.reads[-1].ring is not None and client.reads[-1].ring.version == "2")
    found = next(read for read in client.reads if read.ring is not None and read.ring.version == "2")
    kinds = [kind for kind, _ in api.gets]
    assert kinds[found.sent_ns - 2 : found.sent_ns] == ["metadata", "whole"]


async def test_a_watch_event_makes_it_read_at_once(api: FakeApi) -> None:
    client = Client(api, SLOW)
    await until(lambda: api.watches and client.reads)
    api.change()
    line = json.dumps({"type": "MODIFIED", "object": api.object()}).encode() + b"\n"
    api.events.put_nowait(line[:10])
    api.events.put_nowait(line[10:])
    await until(lambda: client.reads[-1].ring is not None and client.reads[-1].ring.version == "2")
    assert [kind for kind, _ in api.gets] == ["whole", "whole"], "no metadata first: the event said it is new"
    await client.stop()


async def test_the_operators_hint_makes_it_read_at_once_and_a_known_one_does_nothing(api: FakeApi) -> None:
    client = Client(api, SLOW)
    await until(lambda: client.reads)
    client.maps.hint("1")
    api.change()
    client.maps.hint("2")
    await until(lambda: len(client.reads) == 2)
    assert client.reads[1].ring is not None and client.reads[1].ring.version == "2"
    client.maps.hint("2")
    client.maps.read_now()
    await until(lambda: len(client.reads) == 3)
    assert [kind for kind, _ in api.gets] == ["whole", "whole", "metadata"]
    await client.stop()


async def test_an_expired_watch_begins_again_from_the_known_map(api: FakeApi) -> None:
    client = Client(api, SLOW)
    await until(lambda: api.watches and client.reads)
    api.change()
    client.maps.hint("2")
    await until(lambda: len(client.reads) == 2)
    api.events.put_nowait(b'{"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}\n')
    api.events.put_nowait(b"")
    await until(lambda: len(api.watches) >= 2)
    assert api.watches[-1]["resourceVersion"] == "2"
    assert api.watches[-1]["fieldSelector"] == "metadata.name=demo"
    await client.stop()


async def test_only_the_api_servers_own_word_says_that_there_is_no_map(api: FakeApi, client: Client) -> None:
    await until(lambda: client.reads)
    api.mode = "html404"
    await until(lambda: client.attempts[-1] is False)
    assert all(read.ring is not None for read in client.reads)
    api.mode = "missing"
    await until(lambda: client.reads[-1].ring is None)
    api.mode = "ok"
    await until(lambda: client.reads[-1].ring is not None)


@pytest.mark.parametrize("mode", ["broken", "hang"])
async def test_a_read_that_fails_confirms_nothing_and_is_tried_again_soon(
    api: FakeApi, client: Client, mode: str
) -> None:
    await until(lambda: client.reads)
    api.mode = mode
    await until(lambda: client.attempts[-1] is False)
    confirmed = len(client.reads)
    failures = client.attempts.count(False)
    await until(lambda: client.attempts.count(False) >= failures + 2)
    assert len(client.reads) == confirmed
    api.mode = "ok"
    await until(lambda: len(client.reads) > confirmed)


async def test_a_map_that_makes_no_sense_is_a_failed_read(api: FakeApi, client: Client) -> None:
    await until(lambda: client.reads)
    whole = api.object
    api.object = lambda: whole() | {"spec": {"nonsense": True}}  # type: ignore[method-assign]
    api.change()
    await until(lambda: client.attempts[-1] is False)
    assert all(read.ring is not None and read.ring.version == "1" for read in client.reads)


async def test_the_token_is_read_again_for_every_request(api: FakeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    client = Client(api, TIMES, token)
    await until(lambda: client.reads)
    token.write_text("second\n")
    await until(lambda: api.gets[-1][1] == "Bearer second")
    assert api.gets[0][1] == "Bearer first"
    token.unlink()
    await until(lambda: client.attempts[-1] is False)
    await client.stop()


def test_the_highest_entries_ever_taken_survive_a_lower_map_and_the_agent(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    remembered = Remembered(path)
    remembered.load()
    remembered.take(HashRing("demo", entries=(Entry(epoch=5), Entry(epoch=2)), version="10"))
    remembered.take(HashRing("demo", entries=(Entry(epoch=1), Entry(epoch=3)), version="3"))
    again = Remembered(path)
    again.load()
    assert [again.taken[p].epoch for p in range(2)] == [5, 3]
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["map"]["metadata"]["resourceVersion"] == "3"


def test_a_remembered_map_that_makes_no_sense_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text("{")
    remembered = Remembered(path)
    remembered.load()
    assert remembered.taken == {}


async def test_the_map_of_an_earlier_cluster_of_the_same_name_is_none(api: FakeApi) -> None:
    api.owner = "an earlier one"
    client = Client(api)
    try:
        await until(lambda: len(client.reads) >= 2)
        assert all(read.ring is None for read in client.reads)
        api.owner = "ours"
        await until(lambda: client.reads[-1].ring is not None)
    finally:
        await client.stop()
