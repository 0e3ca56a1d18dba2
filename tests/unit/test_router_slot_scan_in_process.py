"""CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT scan in steps, anew when another process serves, for nobody who is gone."""

from __future__ import annotations

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import PARTITIONS, Transport, World, connected_engine, key_of

from cachecluster_core.slots import slot_of_key
from cachecluster_sidecar.router import core

pytestmark = pytest.mark.t0

KEY = key_of(0)
SLOT = str(slot_of_key(KEY.encode()))
SIBLINGS = [f"{{{KEY}}}{number}" for number in range(4)]


def told(cursor: int, *keys: str) -> bytes:
    """What an engine answers to a step."""
    found = b"".join(b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in keys)
    return b"*2\r\n$%d\r\n%d\r\n*%d\r\n" % (len(str(cursor)), cursor, len(keys)) + found


def expect(world: World, engine: Transport, cursor: int) -> None:
    """The engine is asked for the step from this cursor on."""
    world.loop.turn()
    assert engine.written == request("SCAN", str(cursor), "COUNT", "512")
    engine.written = b""


def test_keys_are_counted_once_each_also_when_another_process_takes_over_in_the_middle() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT) + request("PING"))
    expect(world, engine, 0)
    engine.feed(told(17, KEY, *SIBLINGS, "other"))
    expect(world, engine, 17)
    world.run_id = "another"
    world.use_routes([0, 1])
    engine.feed(told(5, KEY))
    expect(world, engine, 0)
    engine.feed(told(9, SIBLINGS[0], SIBLINGS[1], "another"))
    expect(world, engine, 9)
    assert client.frames() == []
    engine.feed(told(0, SIBLINGS[1], KEY))
    assert client.frames() == [b":3\r\n", b"+PONG\r\n"]


def test_no_more_keys_are_looked_for_than_are_wanted() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("CLUSTER", "GETKEYSINSLOT", SLOT, "2"))
    expect(world, engine, 0)
    engine.feed(told(17, KEY, "other", KEY))
    expect(world, engine, 17)
    engine.feed(told(18, *SIBLINGS))
    (reply,) = client.frames()
    assert reply.startswith(b"*2\r\n") and KEY.encode() in reply
    world.loop.turn()
    assert engine.written == b""


@pytest.mark.parametrize("how", ["connection_lost", "eof_received"])
def test_a_client_that_goes_in_the_middle_leaves_nothing(how: str) -> None:
    world = World()
    client, other = world.client(), world.client()
    engine = connected_engine(world, client)
    client.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT))
    expect(world, engine, 0)
    if how == "eof_received":
        client.protocol.eof_received()
        assert client.ended
    client.protocol.connection_lost(None)
    engine.feed(told(17, KEY))
    world.loop.turn()
    assert engine.written == b""
    other.feed(request("GET", KEY))
    world.loop.turn()
    engine.feed(b"$-1\r\n")
    assert other.frames() == [b"$-1\r\n"]
    left = world.router.metrics()
    assert (left["parked"], left["clients"]) == (0, 1)


def test_an_error_of_a_step_is_the_answer_and_a_gate_that_shuts_is_waited_for() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT))
    expect(world, engine, 0)
    world.set_gate(0, generation=2, epoch=0)
    world.router.use_gate(0, 2)
    engine.feed(told(17, KEY))
    world.loop.turn()
    assert engine.written == b"" and world.router.metrics()["parked"] == 1
    world.set_gate(0, generation=3, epoch=2)
    world.router.use_gate(0, 3)
    expect(world, engine, 17)
    engine.feed(b"-OOM no\r\n")
    assert client.frames() == [b"-OOM no\r\n"]


def test_keys_that_are_too_large_together_are_refused() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("CLUSTER", "GETKEYSINSLOT", SLOT, "100"))
    expect(world, engine, 0)
    large = "x" * (vars(core)["HELD_PAUSE_BYTES"] // 2)
    engine.feed(told(17, *(f"{{{KEY}}}{number}{large}" for number in range(3))))
    assert client.frames()[0].startswith(b"-ERR these keys of the slot take more than 16777216 bytes")


def test_on_the_cluster_port_another_pod_s_slot_has_no_keys_here() -> None:
    world = World()
    world.use_routes([0, 1], *["uid-1"] * PARTITIONS)
    client = world.client(cluster=True)
    client.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT) + request("CLUSTER", "GETKEYSINSLOT", SLOT, "9"))
    assert client.frames() == [b":0\r\n", b"*0\r\n"]
    assert world.dialled == []


def test_many_small_keys_together_are_refused() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("CLUSTER", "GETKEYSINSLOT", SLOT, "100000000"))
    expect(world, engine, 0)
    engine.feed(told(17, *(f"{{{KEY}}}{number}" for number in range(150_000))))
    assert client.frames()[0].startswith(b"-ERR these keys of the slot take more than 16777216 bytes")


def test_few_slots_are_looked_through_at_once() -> None:
    world = World(max_clients=20)
    engine = connected_engine(world, world.client())
    clients = [world.client() for _ in range(core.MOST_SLOT_SCANS)]
    for client in clients:
        client.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT))
    world.loop.turn()
    late = world.client()
    late.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT))
    assert late.frames()[0].startswith(b"-TRYAGAIN")
    engine.feed(told(0, KEY))
    assert clients[0].frames() == [b":1\r\n"]
    clients[1].protocol.connection_lost(None)
    for _ in range(2):
        late.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT))
        assert late.frames() == []
        late = world.client()
    late.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT))
    assert late.frames()[0].startswith(b"-TRYAGAIN")


def test_a_pod_that_leaves_looks_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "unread_bytes", lambda _transport: 0)
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("CLUSTER", "COUNTKEYSINSLOT", SLOT))
    expect(world, engine, 0)
    client.protocol.leave()
    engine.feed(told(17, KEY))
    (reply,) = client.frames()
    assert reply.startswith(b"-TRYAGAIN")
    world.loop.turn()
    assert engine.written == b""
