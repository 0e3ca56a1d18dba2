"""Large requests are passed on in pieces, and only their last line end executes them; without sockets."""

from __future__ import annotations

import random

import pytest
from tests.unit.router_in_process import Transport, World, connected_engine, key_of, one_client

from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.acl import Commands, parse
from cachecluster_sidecar.router.feeds import RequestPieces
from cachecluster_sidecar.router.resp import ProtocolError, encode_request

pytestmark = pytest.mark.t0

COMMANDS = Commands(frozenset({"set"}), {})
KEY = key_of(0).encode()
SET = encode_request([b"SET", KEY, random.Random(1).randbytes(17_000_000), b"EX", b"10"])
STRLEN = encode_request([b"STRLEN", KEY])


def begun(world: World, client: Transport, size: int = 1_400_000) -> Transport:
    """A part of a request came; the private connection that it goes to."""
    client.feed(SET[:size])
    world.loop.turn()
    (private,) = [it for it in world.engines() if it.written]
    assert private.written == SET[:size]
    return private


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_request_without_its_last_line_end(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        request = encode_request([chance.randbytes(chance.randint(0, 12)) for _ in range(chance.randint(1, 5))])
        pieces, passed, complete, left = RequestPieces(), b"", False, request
        while left:
            assert not complete
            size = chance.randint(1, 8)
            piece, complete = pieces.feed(left[:size])
            passed += piece
            left = left[size:]
            assert len(passed) <= len(request) - 2
        assert complete and passed == request[:-2]


def test_pieces_that_are_no_request_are_refused() -> None:
    pieces = RequestPieces()
    assert pieces.feed(b"*2\r\n$3\r\nGET\r\n$4\r\nab") == (b"*2\r\n$3\r\nGET\r\n$4\r\nab", False)
    with pytest.raises(ProtocolError, match="CRLF"):
        pieces.feed(b"cdxx")


def test_a_large_write_goes_to_the_engine_as_it_comes_and_is_executed_by_its_end() -> None:
    world = World()
    client, other = world.client(), world.client()
    engine = connected_engine(world, client)
    private = begun(world, client)
    client.feed(SET[1_400_000:-1])
    world.loop.turn()
    assert private.written == SET[:-2]
    other.feed(STRLEN)
    world.loop.turn()
    engine.feed(b":1\r\n")
    assert other.written == b":1\r\n"
    client.feed(SET[-1:] + STRLEN)
    world.loop.turn()
    assert private.written == SET and engine.written == STRLEN, "what is behind it waits"
    private.feed(b"+OK\r\n")
    world.loop.turn()
    engine.feed(b":17000000\r\n")
    assert client.written == b"+OK\r\n:17000000\r\n"


def test_it_waits_for_what_its_client_has_outstanding() -> None:
    world, client, engine = one_client()
    client.feed(STRLEN + SET[:1_300_000])
    world.loop.turn()
    assert engine.written == STRLEN and world.dialled == []
    engine.feed(b":0\r\n")
    (private,) = [it for it in world.engines() if it.written]
    client.feed(SET[1_300_000:])
    world.loop.turn()
    assert private.written == SET
    private.feed(b"+OK\r\n")
    assert client.written == b":0\r\n+OK\r\n"


def test_a_gate_that_shuts_waits_for_no_upload_and_nothing_is_executed() -> None:
    world, client, engine = one_client()
    private = begun(world, client)
    world.set_gate(0, generation=2, epoch=0)
    world.router.use_gate(0, 2)
    assert (0, 2) in world.confirmed and private.ended
    private.protocol.connection_lost(None)
    world.set_gate(0, generation=3, epoch=2)
    world.router.use_gate(0, 3)
    client.feed(SET[1_400_000:] + STRLEN)
    world.loop.turn()
    (refused,) = client.frames()
    assert refused.startswith(b"-TRYAGAIN ") and private.written == SET[:1_400_000]
    engine.feed(b":0\r\n")
    assert client.frames() == [b":0\r\n"], "the connection goes on"


def test_an_end_that_comes_at_a_shut_gate_is_not_sent() -> None:
    world, client, _ = one_client()
    private = begun(world, client)
    world.set_gate(0, generation=2, epoch=0)
    client.feed(SET[1_400_000:])
    world.loop.turn()
    assert private.written == SET[:-2]
    world.router.use_gate(0, 2)
    assert private.ended and (0, 2) in world.confirmed
    world.set_gate(0, generation=3, epoch=2)
    world.router.use_gate(0, 3)
    world.loop.turn()
    (refused,) = client.frames()
    assert refused.startswith(b"-TRYAGAIN ")


def test_an_end_that_waited_for_the_gate_executes_once() -> None:
    world, client, _ = one_client()
    private = begun(world, client)
    world.set_gate(0, generation=1, epoch=0)
    client.feed(SET[1_400_000:])
    world.loop.turn()
    assert private.written == SET[:-2]
    world.set_gate(0, generation=1, epoch=1)
    world.router.use_gate(0, 1)
    world.loop.turn()
    assert private.written == SET
    private.feed(b"+OK\r\n")
    assert client.written == b"+OK\r\n"


def test_an_engine_that_takes_slowly_holds_back_the_client_alone() -> None:
    world, client, _ = one_client()
    private = begun(world, client)
    private.protocol.pause_writing()
    client.feed(SET[1_400_000:1_600_000])
    assert client.paused and private.written == SET[:1_400_000]
    private.protocol.resume_writing()
    assert not client.paused and private.written == SET[:1_600_000]
    client.feed(SET[1_600_000:])
    world.loop.turn()
    assert private.written == SET


def test_a_client_that_goes_in_the_midst_of_it_executes_nothing() -> None:
    world, client, _ = one_client()
    private = begun(world, client)
    client.protocol.connection_lost(None)
    assert private.ended and private.written == SET[:1_400_000]


def test_a_client_that_ends_its_side_in_the_midst_of_it_is_closed() -> None:
    world, client, _ = one_client()
    private = begun(world, client)
    client.protocol.eof_received()
    assert client.ended
    client.protocol.connection_lost(None)
    assert private.ended


def test_an_engine_that_is_lost_after_the_end_was_sent_leaves_it_indeterminate() -> None:
    world, client, _ = one_client()
    private = begun(world, client)
    client.feed(SET[1_400_000:])
    world.loop.turn()
    private.protocol.connection_lost(None)
    (unknown,) = client.frames()
    assert unknown.startswith(b"-INDETERMINATE ")


def test_an_error_reply_spoils_nothing_that_the_client_watches() -> None:
    world, client, _ = one_client()
    client.feed(encode_request([b"WATCH", KEY]))
    (watching,) = [it for it in world.engines() if it.written]
    watching.feed(b"+OK\r\n")
    client.frames()
    client.feed(SET)
    (private,) = [it for it in world.engines() if it.written]
    world.loop.turn()
    private.feed(b"-OOM command not allowed\r\n")
    assert client.frames() == [b"-OOM command not allowed\r\n"]
    client.feed(b"".join(encode_request([word]) for word in (b"MULTI", b"PING", b"EXEC")))
    world.loop.turn()
    assert b"EXEC" in watching.written


def test_in_a_transaction_it_is_kept_until_it_is_complete() -> None:
    world, client, _ = one_client()
    client.feed(encode_request([b"MULTI"]) + SET[:1_400_000])
    assert world.dialled == []


def test_what_is_no_longer_granted_when_it_is_complete_is_not_executed() -> None:
    world, client, _ = one_client()
    world.router.use_users(parse("user default on nopass ~* &* +@all", COMMANDS))
    private = begun(world, client)
    world.router.use_users(parse("user default on nopass ~other:* &* +@all", COMMANDS))
    client.feed(SET[1_400_000:])
    world.loop.turn()
    (refused,) = client.frames()
    assert refused.startswith(b"-NOPERM ") and private.written == SET[:-2] and private.ended


def test_a_client_that_sends_nothing_more_of_it_for_too_long_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is the engine that takes nothing."""
    world, client, _ = one_client()
    private = begun(world, client)
    world.router.tick()
    assert not client.ended, "there is time"
    monkeypatch.setitem(vars(core), "UNREAD_S", -1.0)
    private.protocol.pause_writing()
    world.router.tick()
    assert not client.ended
    private.protocol.resume_writing()
    world.router.tick()
    assert client.ended and world.router.metrics()["disconnected"]["idle"] == 1
