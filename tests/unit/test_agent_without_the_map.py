"""An agent that cannot read the map, while others can: its clients reach what has moved since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.unit.agent_process import AGENT, running_agents
from tests.unit.agent_support import until
from tests.unit.test_agent_hands_over import Pair

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_sidecar.agent.hearsay import MAP_PATH, Hearsay, map_to_json, newest, version_from_json
from cachecluster_sidecar.agent.peer_agents import PeerAgents

A, B = CopyId("uid-a", "ra"), CopyId("uid-b", "rb")
ENTRY = Entry(epoch=5, state=State.STABLE, primary=A, isr=(A, B), term=5)
RING = HashRing("demo", (("uid-a", Member("demo-0", "ha")),), (ENTRY, ENTRY), version="7", uid="u")


class Told(PeerAgents):
    """Other agents that answer one after the other with these maps."""

    def __init__(self, maps: list[HashRing]) -> None:
        super().__init__("secret", AGENT)
        self.maps = maps

    async def post(self, host: str, path: str, body: dict[str, Any]) -> Any:
        assert (host, path) == ("ha", MAP_PATH)
        return map_to_json(self.maps.pop(0), version_from_json(body))


@pytest.mark.t1
async def test_clients_of_a_pod_that_cannot_read_the_map_reach_what_has_moved_since(tmp_path: Path) -> None:
    async with running_agents("valkey", tmp_path, 3) as (onlooker, first, second):
        pair = Pair(first, second)
        await pair.settle()
        assert await onlooker.command("SET", "{n}k", "1", seconds=20) == b"+OK"
        onlooker.relay.cut()
        await until(lambda: onlooker.report is not None and onlooker.report.blind)
        moving = await pair.move()
        await second.reported(lambda copy: copy.gate_epoch == 4)
        await pair.write(moving.changed(state=State.STABLE, primary=moving.successor, successor=None, term=5))
        await second.reported(lambda copy: copy.gate_epoch == 5)
        assert await onlooker.command("GET", "{n}k", seconds=6) == b"1"
        onlooker.relay.heal()
        await until(lambda: onlooker.report is not None and not onlooker.report.blind)
        assert await onlooker.command("INCR", "{n}k") == b":2"


@pytest.mark.t1
async def test_a_request_for_the_map_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    async with running_agents("valkey", tmp_path, 1) as (agent,), aiohttp.ClientSession() as session:
        url = f"http://{agent.host}:{AGENT}{MAP_PATH}"
        for body, status in (({"version": 1}, 400), ({}, 400), ([], 400), ({"version": "7"}, 200)):
            async with session.post(url, headers=agent.headers, json=body) as response:
                assert response.status == status, body


@pytest.mark.t0
def test_of_two_maps_each_entry_with_the_higher_epoch_counts() -> None:
    newer = replace(ENTRY, epoch=6, primary=B, term=6)
    ours = replace(RING, entries=(ENTRY, replace(newer, epoch=8)))
    theirs = replace(RING, entries=(newer, ENTRY), version="9")
    both = newest(ours, theirs)
    assert [entry.epoch for entry in both.entries] == [6, 8] and both.version == "9"
    assert newest(ours, RING) is ours and newest(both, ours) is both
    assert newest(ours, replace(theirs, uid="another cluster's")) is ours


@pytest.mark.t0
async def test_what_was_heard_is_not_forgotten_for_an_older_map() -> None:
    news: list[int] = []
    moved = replace(RING, entries=(replace(ENTRY, epoch=6, primary=B, term=6), ENTRY), version="9")
    hearsay = Hearsay("uid-x", Told([moved, RING, moved]), lambda: news.append(1))
    for _ in range(3):
        hearsay.read_failed(RING)
        await until(lambda: hearsay.idle)
        assert hearsay.newest(RING) == moved
    assert len(news) == 1
    hearsay.read_succeeded()
    assert hearsay.newest(RING) is RING


@pytest.mark.t0
def test_the_map_is_told_only_to_who_does_not_know_it() -> None:
    told = map_to_json(RING, "6")["map"]
    assert HashRing.from_object(told) == RING
    assert map_to_json(RING, "7") == map_to_json(None, "6") == {}
    assert version_from_json({"version": "7"}) == "7"
    with pytest.raises(ValueError, match="version"):
        version_from_json({"version": "x" * 100})
