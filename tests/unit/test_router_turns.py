"""What is written at the end of a turn, in which several sockets were read."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import Transport, World, connected_engine, key_of, one_client

pytestmark = pytest.mark.t0

GET = request("GET", key_of(0))


class Failing(Transport):
    """Nothing can be written to it."""

    def write(self, data: bytes) -> None:
        raise RuntimeError("not to this one")


def test_everything_that_is_due_for_a_socket_is_one_write_at_the_end_of_the_turn() -> None:
    world = World()
    clients = [world.client() for _ in range(3)]
    engine = connected_engine(world, clients[0])
    world.router.begin_turn()
    for client in clients:
        client.feed(GET)
    assert engine.written == b""
    world.router.end_turn()
    assert engine.written == GET * 3
    world.router.begin_turn()
    engine.feed(b"$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n")
    assert [client.written for client in clients] == [b""] * 3
    world.router.end_turn()
    assert [client.written for client in clients] == [b"$1\r\na\r\n", b"$1\r\nb\r\n", b"$1\r\nc\r\n"]


def test_a_client_that_cannot_be_served_on_is_disconnected_and_nobody_else_waits_for_it() -> None:
    world = World()
    reported: list[dict[str, Any]] = []
    world.loop.call_exception_handler = reported.append  # type: ignore[method-assign]
    failing, sound = Failing(world.router.client(False)), world.client()
    engine = connected_engine(world, sound)
    world.router.begin_turn()
    for client in (failing, sound):
        client.feed(GET)
    world.router.end_turn()
    world.router.begin_turn()
    engine.feed(b"$1\r\na\r\n$1\r\nb\r\n")
    world.router.end_turn()
    assert failing.ended and sound.frames() == [b"$1\r\nb\r\n"]
    (mistake,) = reported
    assert "could not be served on" in mistake["message"] and isinstance(mistake["exception"], RuntimeError)
    sound.feed(GET)
    world.loop.turn()
    engine.feed(b"$1\r\nc\r\n")
    assert sound.frames() == [b"$1\r\nc\r\n"], "what comes outside a turn is written as well"


def test_what_is_due_for_a_connection_that_is_ending_waits_for_the_next_one() -> None:
    """The engine's end was read before the client's command in the same turn: that has certainly not been executed."""
    world, client, engine = one_client()
    engine.close()
    client.feed(request("SET", key_of(0), "1"))
    world.loop.turn()
    engine.protocol.connection_lost(None)
    assert engine.written == b"" and client.frames() == []
    assert world.router.metrics()["parked"] == 1


def test_a_batch_that_cannot_be_sent_ends_its_connection_and_leaves_the_other_engines_theirs() -> None:
    world, client, engine = one_client()
    other, sound = world.client(), connected_engine(world, client, 1)
    reported: list[dict[str, Any]] = []
    world.loop.call_exception_handler = reported.append  # type: ignore[method-assign]
    engine.write = Failing.write.__get__(engine)  # type: ignore[method-assign]
    sound.written = b""
    world.router.begin_turn()
    client.feed(GET)
    other.feed(request("GET", key_of(1)))
    world.router.end_turn()
    assert len(reported) == 1 and engine.ended and not sound.ended
    assert sound.written == request("GET", key_of(1))
    engine.protocol.connection_lost(None)
    world.loop.turn()
    assert client.frames() == [] and world.router.metrics()["parked"] == 1, "a read is asked again"
