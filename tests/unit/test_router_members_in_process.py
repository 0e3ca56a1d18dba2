"""HSCAN, SSCAN and ZSCAN: a cursor is of one process, and another one begins anew, wherever the command went before."""

from __future__ import annotations

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import Transport, World, connected_engine, key_of
from tests.waiting import wait_until

from cachecluster_sidecar.router.resp import encode_request, split_requests

pytestmark = pytest.mark.t0

KEY = key_of(0)
ITEMS = b"*1\r\n$1\r\na\r\n"
BIG = 1 << 30


def told(cursor: int) -> bytes:
    """What is answered with this cursor."""
    return b"*2\r\n$%d\r\n%d\r\n" % (len(str(cursor)), cursor) + ITEMS


def cursor_of(reply: bytes) -> int:
    assert reply.startswith(b"*2\r\n$") and reply.endswith(ITEMS), reply
    return int(reply.split(b"\r\n")[2])


def asked(world: World, engine: Transport) -> list[list[bytes]]:
    """What has come to an engine, or a peer."""
    world.loop.turn()
    data, engine.written = engine.written, b""
    found, rest = split_requests(data)
    assert rest == b""
    return [words for words in found if words[0] != b"HELLO"]


def step(world: World, client: Transport, engine: Transport, cursor: int, answer: int) -> tuple[int, int]:
    """The cursor that the engine is asked with, and the one that the client is told."""
    client.feed(request("HSCAN", KEY, str(cursor), "COUNT", "3", "NOVALUES"))
    ((name, key, at, *options),) = asked(world, engine)
    assert (name, key, options) == (b"HSCAN", KEY.encode(), [b"COUNT", b"3", b"NOVALUES"])
    engine.feed(told(answer))
    (reply,) = client.frames()
    return int(at), cursor_of(reply)


def become(world: World, run_id: str) -> None:
    """Another process serves."""
    world.run_id = run_id
    world.use_routes([0, 1])


def made_again(world: World, lost: Transport) -> Transport:
    """The connection that is made when this one is lost."""
    lost.protocol.connection_lost(None)
    world.loop.wait()
    wait_until(lambda: world.router.tick() or world.dialled, 5, "it is dialled again")
    (connection,) = world.engines()
    return connection


@pytest.mark.parametrize("cluster", [False, True])
def test_cursors_of_the_process_that_serves_go_on_and_others_begin_anew(cluster: bool) -> None:
    world = World()
    client = world.client(cluster)
    engine = connected_engine(world, client)
    at, first = step(world, client, engine, 0, BIG)
    assert at == 0 and BIG < first < 1 << 53
    at, second = step(world, client, engine, first, BIG + 1)
    assert at == BIG and second not in (first, BIG + 1)
    become(world, "another")
    at, third = step(world, client, engine, second, 17)
    assert at == 0
    assert step(world, client, engine, third, 0) == (17, 0)
    become(world, "run")
    assert step(world, client, engine, third, 5)[0] == 0, "a cursor of the process between"
    assert step(world, client, engine, second, 0)[0] == BIG + 1, "and one of the process that is back"


def test_a_scan_that_ends_while_another_process_takes_over_goes_on_there_from_the_beginning() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    for answer in (0, 17):
        client.feed(request("SSCAN", KEY, "0"))
        assert asked(world, engine) == [[b"SSCAN", KEY.encode(), b"0"]]
        become(world, f"after {answer}")
        engine.feed(told(answer))
        cursor = cursor_of(client.frames()[0])
        assert cursor > 0
        assert step(world, client, engine, cursor, 0) == (0, 0)


def test_what_was_sent_and_is_sent_again_has_a_cursor_of_the_process_that_gets_it() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    _, cursor = step(world, client, engine, 0, BIG)
    client.feed(request("ZSCAN", KEY, str(cursor)) + request("MULTI") + request("ZSCAN", KEY, str(cursor)))
    client.feed(request("EXEC"))
    assert [words[-1] for words in asked(world, engine)] == [b"%d" % BIG, b"MULTI", b"%d" % BIG, b"EXEC"]
    become(world, "another")
    engine = made_again(world, engine)
    assert [words[-1] for words in asked(world, engine)] == [b"0", b"MULTI", b"0", b"EXEC"]
    become(world, "run")
    engine = made_again(world, engine)
    assert [words[-1] for words in asked(world, engine)] == [b"%d" % BIG, b"MULTI", b"%d" % BIG, b"EXEC"]
    engine.feed(told(0) + b"+OK\r\n+QUEUED\r\n*1\r\n" + told(BIG))
    zero, *_, executed = client.frames()
    assert (zero, executed) == (told(0), b"*1\r\n" + told(cursor))


def test_what_waits_for_a_peer_has_the_clients_cursor_and_the_peers_reply_stays_as_it_is() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    _, cursor = step(world, client, engine, 0, BIG)
    again = request("HSCAN", KEY, str(cursor))
    piece = request("MULTI") + again + request("EXEC")
    client.feed(again + piece)
    assert len(asked(world, engine)) == 4
    world.use_routes([0, 1], "uid-1", "uid-0")
    peer = made_again(world, engine)
    alone, (*_, wrapped) = asked(world, peer)
    assert (encode_request(alone), wrapped) == (again, piece)
    peer.feed(told(4711) + b"*1\r\n" + told(4712))
    assert client.frames() == [told(4711), b"+OK\r\n", b"+QUEUED\r\n", b"*1\r\n" + told(4712)]


@pytest.mark.parametrize("reply", [b"*-1\r\n", b"_\r\n", b"-EXECABORT no\r\n"])
def test_the_cursors_of_a_transaction_are_told_one_by_one(reply: bytes) -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    _, cursor = step(world, client, engine, 0, BIG)
    commands = [request("GET", KEY), request("hscan", KEY, str(cursor)), request("SSCAN", KEY, "0"), request("PING")]
    client.feed(request("MULTI") + b"".join(commands) + request("EXEC"))
    sent = asked(world, engine)
    assert [words[-1] for words in sent[2:4]] == [b"%d" % BIG, b"0"]
    engine.feed(b"+OK\r\n" + b"+QUEUED\r\n" * 4 + b"*4\r\n" + told(9) + told(BIG) + told(0) + b"+PONG\r\n")
    executed = client.frames()[-1]
    assert executed == b"*4\r\n" + told(9) + told(cursor) + told(0) + b"+PONG\r\n", "GET tells no cursor"
    client.feed(request("MULTI") + commands[1] + request("EXEC"))
    asked(world, engine)
    engine.feed(b"+OK\r\n+QUEUED\r\n" + reply)
    assert client.frames()[-1] == reply


def test_a_peer_gets_cursors_of_the_process_here() -> None:
    world = World()
    peer = world.client(cluster=True)
    peer.feed(request("CACHECLUSTER", "HELLO"))
    assert peer.frames() == [b"+OK\r\n"]
    world.router.tick()
    client = world.client()
    engine = connected_engine(world, client)
    _, cursor = step(world, peer, engine, 0, BIG)
    assert step(world, client, engine, cursor, 0) == (BIG, 0)
    piece = request("MULTI") + request("HSCAN", KEY, str(cursor)) + request("EXEC")
    peer.feed(encode_request([b"CACHECLUSTER", b"AT", b"0", b"r", b"2", piece]))
    assert asked(world, engine)[1][-1] == b"%d" % BIG
    engine.feed(b"+OK\r\n+QUEUED\r\n*1\r\n" + told(BIG))
    assert peer.frames() == [b"*1\r\n" + told(cursor)]


@pytest.mark.parametrize("bad", ["", "x", "-1", "+5", " 1", "1" * 21, str(1 << 64)])
def test_what_is_no_cursor_goes_to_the_engine_which_knows_the_error(bad: str) -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("HSCAN", KEY, bad))
    assert asked(world, engine) == [[b"HSCAN", KEY.encode(), bad.encode()]]
    engine.feed(b"-ERR invalid cursor\r\n")
    assert client.frames() == [b"-ERR invalid cursor\r\n"]
