"""Large replies are passed on in pieces, on a connection of their client's own, without sockets."""

from __future__ import annotations

import random

import pytest
from tests.unit.router_in_process import Transport, World, connected_engine, key_of, one_client

from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.feeds import ReplyPieces
from cachecluster_sidecar.router.resp import encode_request

pytestmark = pytest.mark.t0

VALUE = bytes(random.Random(1).randbytes(20_000_000))
LARGE = b"$%d\r\n%s\r\n" % (len(VALUE), VALUE)
KEY = key_of(0).encode()
GET = encode_request([b"GET", KEY])
STRLEN = encode_request([b"STRLEN", KEY])


def asked_of(connections: list[Transport]) -> Transport:
    """The private connection, on which a read was sent again."""
    private, *_ = [it for it in connections if it.written == GET]
    private.written = b""
    return private


def begun(world: World, client: Transport, engine: Transport) -> tuple[Transport, Transport]:
    """A large reply came on the shared connection; the next shared one, and the private one that is asked instead."""
    client.feed(GET)
    world.loop.turn()
    engine.feed(LARGE[:200_000])
    assert engine.ended, "nobody waits until it has come"
    shared, *apart = world.engines()
    return shared, asked_of(apart)


def one_begun() -> tuple[World, Transport, Transport, Transport]:
    """The same with a pod of its own: the pod, the client, and both connections."""
    world, client, engine = one_client()
    return world, client, *begun(world, client, engine)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_reply_and_end_where_it_ends(seed: int) -> None:
    chance = random.Random(seed)
    replies = [
        b"$-1\r\n", b"+OK\r\n", b"$5\r\na\r\nbc\r\n", b"*0\r\n", b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n$10\r\n0123456789\r\n",
        b"%1\r\n$0\r\n\r\n~2\r\n#t\r\n_\r\n", b"|1\r\n+a\r\n:1\r\n$3\r\nabc\r\n",
    ]  # fmt: skip
    for _ in range(200):
        reply = chance.choice(replies)
        pieces, passed, ended, left = ReplyPieces(), b"", False, reply
        while left:
            assert not ended
            size = chance.randint(1, 8)
            piece, ended = pieces.feed(left[:size])
            passed += piece
            left = left[size:]
        assert ended and passed == reply


def test_a_large_reply_is_asked_for_again_apart_and_others_are_served_meanwhile() -> None:
    world = World()
    client, other = world.client(), world.client()
    engine = connected_engine(world, client)
    engine, private = begun(world, client, engine)
    assert client.written == b""
    private.feed(LARGE[:100_000])
    assert client.written == LARGE[:100_000], "each piece leaves at once"
    other.feed(STRLEN)
    world.loop.turn()
    engine.feed(b":20000000\r\n")
    assert other.written == b":20000000\r\n"
    private.feed(LARGE[100_000:])
    assert client.written == LARGE
    client.written = b""
    client.feed(STRLEN)
    world.loop.turn()
    assert engine.written == STRLEN + STRLEN, "what is small goes the usual way"


def test_a_connection_on_which_others_have_written_is_kept_and_their_replies_come() -> None:
    world = World()
    client, other = world.client(), world.client()
    engine = connected_engine(world, client)
    client.feed(GET)
    other.feed(encode_request([b"SET", KEY, b"new"]))
    world.loop.turn()
    engine.feed(LARGE + b"+OK\r\n")
    assert (client.written, other.written) == (b"", b"+OK\r\n")
    asked_of(world.engines()).feed(b"$3\r\nnew\r\n")
    assert client.written == b"$3\r\nnew\r\n"


def test_reads_of_others_behind_it_are_asked_again_in_their_order() -> None:
    world = World()
    client, other = world.client(), world.client()
    engine = connected_engine(world, client)
    client.feed(GET)
    other.feed(STRLEN + encode_request([b"GET", b"{%s}x" % KEY]))
    world.loop.turn()
    engine.feed(LARGE[:200_000])
    shared, *apart = world.engines()
    assert shared.written.startswith(STRLEN)
    asked_of(apart).feed(LARGE)
    shared.feed(b":1\r\n")
    assert client.written == LARGE and other.written == b":1\r\n"


def test_what_was_large_is_asked_apart_at_once_until_it_is_small() -> None:
    world, client, engine, private = one_begun()
    private.feed(LARGE)
    engine.written = client.written = b""
    client.feed(GET + GET)
    world.loop.turn()
    assert (private.written, engine.written) == (GET, b""), "and what is behind it waits"
    private.feed(b"$1\r\nx\r\n")
    world.loop.turn()
    assert (private.written, engine.written) == (GET, GET)
    engine.feed(b"$1\r\ny\r\n")
    assert client.written == b"$1\r\nx\r\n$1\r\ny\r\n"


def test_in_the_midst_of_a_pipeline_it_is_kept_and_the_order_stays() -> None:
    world, client, engine = one_client()
    write = encode_request([b"SET", KEY, b"new"])
    client.feed(GET + write)
    world.loop.turn()
    engine.feed(LARGE + b"+OK\r\n")
    assert world.dialled == [] and client.written == LARGE + b"+OK\r\n"


def test_a_client_that_reads_slowly_holds_back_the_engine_and_nothing_else() -> None:
    world = World()
    client = world.client(slow=True)
    engine = connected_engine(world, client)
    engine, private = begun(world, client, engine)
    private.feed(LARGE[:300_000])
    assert private.paused, "the engine is not read"
    taken, client.written = client.written, b""
    client.protocol.resume_writing()
    assert not private.paused
    private.feed(LARGE[300_000:])
    while private.paused:
        taken, client.written = taken + client.written, b""
        client.protocol.resume_writing()
    assert taken + client.written == LARGE


def test_a_gate_that_shuts_does_not_wait_for_a_slow_reader() -> None:
    world, client, _engine, private = one_begun()
    world.set_gate(0, generation=2, epoch=0)
    world.router.use_gate(0, 2)
    assert (0, 2) not in world.confirmed, "it may not be executed yet"
    private.feed(LARGE[:300_000])
    assert (0, 2) in world.confirmed
    private.feed(LARGE[300_000:])
    assert client.written == LARGE and private.ended


def test_a_gate_that_shuts_before_the_first_piece_sends_the_read_to_the_next_primary() -> None:
    world, client, engine = one_client()
    client.feed(GET)
    world.loop.turn()
    engine.feed(LARGE[:200_000])
    world.set_gate(0, generation=2, epoch=0)
    world.router.use_gate(0, 2)
    assert (0, 2) in world.confirmed, "it was not sent"
    world.engines()
    world.use_routes([1], "uid-1", "uid-0")
    world.loop.turn()
    (peer,) = [it for it in world.engines() if it.written == GET]
    peer.feed(LARGE)
    assert client.written == LARGE


def test_a_client_with_a_part_of_a_reply_is_disconnected_when_the_engine_is_lost() -> None:
    _world, client, _engine, private = one_begun()
    private.feed(LARGE[:300_000])
    private.protocol.connection_lost(None)
    assert client.ended and client.written == LARGE[:300_000]


def test_an_engine_that_is_lost_before_the_first_piece_is_asked_again() -> None:
    world, client, _engine, private = one_begun()
    private.protocol.connection_lost(None)
    world.loop.turn()
    asked_of(world.engines()).feed(LARGE)
    assert client.written == LARGE


def test_a_client_that_goes_ends_its_connection_to_the_engine() -> None:
    _world, client, _engine, private = one_begun()
    private.feed(LARGE[:300_000])
    client.protocol.connection_lost(None)
    assert private.ended


def test_what_a_client_is_shown_meanwhile_comes_behind_the_reply() -> None:
    world = World(answer=lambda client, _name, _arguments: client.monitor() or b"+OK\r\n")
    client, other = world.client(), world.client()
    engine = connected_engine(world, client)
    client.feed(encode_request([b"MONITOR"]))
    engine, private = begun(world, client, engine)
    client.written = b""
    private.feed(LARGE[:300_000])
    other.feed(encode_request([b"GET", b"shown"]))
    private.feed(LARGE[300_000:])
    assert client.written.startswith(LARGE + b"+") and b"shown" in client.written[len(LARGE) :]


def test_a_value_of_which_little_is_left_costs_the_others_no_connection() -> None:
    world = World()
    client, other = world.client(), world.client()
    engine = connected_engine(world, client)
    value = b"$2000000\r\n%s\r\n" % VALUE[:2_000_000]
    client.feed(GET)
    other.feed(STRLEN)
    world.loop.turn()
    engine.feed(value + b":2000000\r\n")
    assert not engine.ended and other.written == b":2000000\r\n" and client.written == b""
    asked_of(world.engines()).feed(value)
    assert client.written == value


def test_a_connection_is_not_dropped_again_and_again_for_large_replies() -> None:
    world = World()
    clients = [world.client() for _ in range(2)]
    engine = connected_engine(world, clients[0])
    engine, private = begun(world, clients[0], engine)
    engine.written = b""
    other = encode_request([b"GET", b"{%s}other" % KEY])
    clients[1].feed(other)
    world.loop.turn()
    assert engine.written == other
    engine.feed(LARGE)
    assert not engine.ended
    (private,) = world.engines()
    assert private.written == other


def test_a_reply_that_depends_on_more_than_a_key_is_kept_until_it_is_complete() -> None:
    world, client, engine = one_client()
    client.feed(encode_request([b"GETRANGE", KEY, b"0", b"-1"]))
    world.loop.turn()
    engine.feed(LARGE)
    assert world.engines() == [] and client.written == LARGE


def test_a_client_that_does_not_read_when_its_reply_begins_holds_it_back_from_the_start() -> None:
    _world, client, _engine, private = one_begun()
    client.protocol.pause_writing()
    private.feed(LARGE[:100_000])
    assert client.written == b"" and private.paused
    client.protocol.resume_writing()
    assert client.written == LARGE[:100_000] and not private.paused


def test_a_read_whose_own_connection_cannot_be_made_is_asked_as_others_are() -> None:
    world, client, engine = one_client()
    client.feed(GET)
    world.loop.turn()
    engine.feed(LARGE[:200_000])
    backend = world.dialled.pop()
    engine = Transport(backend)
    backend.greet(b"greeting")
    engine.feed(b"+OK\r\n")
    private = next(it for it in world.dialled if type(it).__name__ == "Private")
    engine.written = b""
    private.failed("it is away")
    world.loop.wait()
    assert engine.written == GET
    engine.feed(LARGE)
    assert client.written == LARGE


@pytest.mark.parametrize(("reads", "counted"), [(False, 1), (True, 0)], ids=["the client", "the engine"])
def test_who_is_silent_for_too_long_in_the_midst_of_it_ends_it(
    monkeypatch: pytest.MonkeyPatch, reads: bool, counted: int
) -> None:
    world, client, _, private = one_begun()
    private.feed(LARGE[:100_000])
    if not reads:
        client.protocol.pause_writing()
    world.router.tick()
    assert not client.ended, "there is time"
    monkeypatch.setitem(vars(core), "UNREAD_S", -1.0)
    world.router.tick()
    assert client.ended and private.ended is reads
    assert world.router.metrics()["disconnected"]["slow-reader"] == counted


def test_a_read_for_which_there_is_no_private_connection_left_is_asked_as_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There was, when it was parked behind others."""
    world, client, engine, private = one_begun()
    private.feed(LARGE)
    private.protocol.connection_lost(None)
    client.written = engine.written = b""
    world.set_gate(0, generation=1, epoch=0)
    write = encode_request([b"SET", KEY, b"new"])
    world.client().feed(write)
    world.loop.turn()
    client.feed(GET)
    monkeypatch.setitem(vars(core), "MAX_PRIVATE", 0)
    world.set_gate(0, generation=1, epoch=1)
    world.router.use_gate(0, 1)
    world.loop.turn()
    assert engine.written == write + GET and world.dialled == []
    engine.feed(b"+OK\r\n" + LARGE)
    assert client.written == LARGE
