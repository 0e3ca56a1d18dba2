"""CLIENT TRACKING in one router, without sockets."""

from __future__ import annotations

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import Transport, World, key_of

from cachecluster_sidecar.router import core

pytestmark = pytest.mark.t0


def tracking_client(world: World) -> Transport:
    """A client of RESP3 that tracks, with everybody who is listened to telling."""
    client = world.client()
    client.protocol.set_proto(3)
    client.feed(request("CLIENT", "TRACKING", "ON"))
    for _ in range(3):
        for other in world.engines():
            other.feed(b"+OK\r\n" * other.written.count(b"TRACKING") + b"+PONG\r\n")
    assert client.frames()[-1] == b"+OK\r\n"
    return client


def test_room_for_keys_is_made_before_the_command_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(core), "MOST_TRACKED_BYTES", 500)
    world = World()
    client = tracking_client(world)
    keys = [f"{{{key_of(0)}}}{n}" for n in range(4)]
    client.feed(request("MGET", *keys))
    (engine,) = world.engines()
    engine.feed(b"*4\r\n" + b"_\r\n" * 4)
    assert len(client.frames()) == 1
    client.feed(request("GET", keys[0]))
    told = client.frames()
    assert told and all(frame.startswith(b">2\r\n$10\r\ninvalidate") for frame in told), "before the reply"
    world.loop.turn()
    engine.feed(b"_\r\n")
    assert client.frames() == [b"_\r\n"]
