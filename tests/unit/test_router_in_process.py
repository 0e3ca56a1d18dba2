"""One router without sockets: events in an order that real sockets give only now and then."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import BIG, Transport, World, connected_engine, key_of, scan

from cachecluster_core.slots import slot_of_key
from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.answers import HANDLERS

pytestmark = pytest.mark.t0

PEER_SILENCE_S: float = vars(core)["PEER_SILENCE_S"]
RETRY_FIRST_S: float = vars(core)["RETRY_FIRST_S"]
OUTPUT_MAX_BYTES: int = vars(core)["OUTPUT_MAX_BYTES"]
HELD_PAUSE_BYTES: int = vars(core)["HELD_PAUSE_BYTES"]


def refusing_peer(world: World, client: Transport, command: bytes) -> Transport:
    """The connection to the primary of partition 0 on another pod, which has refused this command of the client."""
    world.use_routes([0, 1], "uid-1", "uid-0")
    client.feed(command)
    (peer,) = world.engines()
    assert peer.written == command
    peer.written = b""
    peer.feed(b"-CCGATE 0\r\n")
    world.loop.turn()
    assert peer.written == b"", "it is given a moment"
    return peer


def test_a_command_that_a_peer_refused_is_sent_again_after_a_moment_and_others_once_it_was_taken() -> None:
    world = World()
    client = world.client()
    resume, first, second = (
        request("CACHECLUSTER", "RESUME", "0"),
        request("GET", key_of(0)),
        request("SET", key_of(0), "1"),
    )
    peer = refusing_peer(world, client, first)
    client.feed(second)
    for _ in range(3):
        world.loop.wait()
        assert peer.written == resume + first
        peer.written = b""
        peer.feed(b"+OK\r\n-CCGATE 0\r\n")
    world.loop.wait()
    peer.written = b""
    peer.feed(b"+OK\r\n$-1\r\n")
    world.loop.turn()
    assert peer.written == second
    peer.feed(b"+OK\r\n")
    assert client.frames() == [b"$-1\r\n", b"+OK\r\n"]


@pytest.mark.parametrize("asked_again", [False, True])
def test_a_refusal_of_the_former_primary_does_not_hold_up_what_the_new_one_takes(asked_again: bool) -> None:
    """The news of a take-over comes while the former primary is asked once more."""
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    first, second = request("GET", key_of(0)), request("SET", key_of(0), "1")
    peer = refusing_peer(world, client, first)
    client.feed(second)
    if asked_again:
        world.loop.wait()
    world.use_routes([0, 1])
    if asked_again:
        world.loop.turn()
        assert engine.written == b"", "what is in flight may have been executed"
        peer.feed(b"+OK\r\n-CCGATE 0\r\n")
    world.loop.turn()
    assert engine.written == first + second
    engine.feed(b"$-1\r\n+OK\r\n")
    assert client.frames() == [b"$-1\r\n", b"+OK\r\n"]


@pytest.mark.parametrize("first", [0, 1], ids=["of the moved partition", "of a partition that stays"])
def test_a_peer_that_is_busy_with_a_partition_of_its_own_is_not_given_up_for_one_that_moved(first: int) -> None:
    world = World()
    engine = connected_engine(world, world.client())
    world.use_routes([0, 1], "uid-1", "uid-1")
    peer = connected_engine(world, world.client())
    clients = [world.client(), world.client()]
    for partition in (first, 1 - first):
        clients[partition].feed(request("INCR", key_of(partition)))
        world.loop.turn()
    assert peer.written == request("INCR", key_of(first)) + request("INCR", key_of(1 - first))
    world.use_routes([0, 1], "uid-0", "uid-1")
    time.sleep(PEER_SILENCE_S + 0.05)
    world.router.tick()
    assert peer.ended == (first == 0)
    if first == 0:
        assert [it.frames()[0][:14] for it in clients] == [b"-INDETERMINATE"] * 2
        return
    peer.feed(b":5\r\n-CCGATE 0\r\n")
    world.loop.turn()
    assert engine.written == request("INCR", key_of(0))
    engine.feed(b":8\r\n")
    assert [it.frames() for it in clients] == [[b":8\r\n"], [b":5\r\n"]]


def test_a_late_read_stays_in_front_of_the_write_that_came_after_it() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    read, write = request("GET", key_of(0)), request("SET", key_of(0), "new")
    client.feed(read)
    world.loop.turn()
    client.feed(write)
    world.set_gate(0, generation=1, epoch=1, lasts_s=-1)
    engine.feed(b"$3\r\nold\r\n")
    world.set_gate(0, generation=1, epoch=1)
    engine.written = b""
    world.loop.turn()
    world.router.tick()
    world.loop.turn()
    assert engine.written == read + write
    engine.feed(b"$3\r\nold\r\n+OK\r\n")
    assert client.frames() == [b"$3\r\nold\r\n", b"+OK\r\n"]


def test_late_replies_before_bytes_that_are_no_reply_are_answered() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("SET", key_of(0), "1") + request("SET", key_of(0), "2"))
    world.loop.turn()
    world.set_gate(0, generation=1, epoch=1, lasts_s=-1)
    engine.feed(b"+OK\r\n" + b"junk\r\n")
    assert [frame[:14] for frame in client.frames()] == [b"-INDETERMINATE"] * 2
    world.set_gate(0, generation=2, epoch=0)
    world.router.use_gate(0, 2)
    assert (0, 2) in world.confirmed, "nothing is counted as in flight any more"


def test_a_shut_gate_is_confirmed_with_the_answer_to_the_last_command_in_flight() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("SET", key_of(0), "1") + request("GET", key_of(0)))
    world.loop.turn()
    world.set_gate(0, generation=2, epoch=0)
    world.router.use_gate(0, 2)
    engine.feed(b"+OK\r\n")
    assert (0, 2) not in world.confirmed
    engine.feed(b"$1\r\n1\r\n")
    assert (0, 2) in world.confirmed
    assert client.frames() == [b"+OK\r\n", b"$1\r\n1\r\n"]


def test_what_is_in_flight_at_an_engine_that_the_routes_name_no_more_holds_up_the_confirmation() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("GET", key_of(0)))
    world.loop.turn()
    world.use_routes([1])
    world.set_gate(0, generation=2, epoch=0)
    world.router.use_gate(0, 2)
    assert (0, 2) not in world.confirmed
    engine.feed(b"$1\r\n1\r\n")
    assert client.frames() == [b"$1\r\n1\r\n"]
    assert (0, 2) in world.confirmed


@pytest.mark.parametrize(
    "error", [b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", b"-BUSY script\r\n"]
)
def test_a_split_write_that_one_engine_refused_is_not_called_undone(error: bytes) -> None:
    world = World()
    client = world.client()
    zero, one = connected_engine(world, client, 0), connected_engine(world, client, 1)
    client.feed(request("MSET", key_of(0), "1", key_of(1), "2"))
    world.loop.turn()
    zero.feed(b"+OK\r\n")
    one.feed(error)
    (reply,) = client.frames()
    assert reply.startswith(b"-INDETERMINATE") and error[1:] in reply
    client.feed(request("MSET", key_of(0), "1", key_of(1), "2"))
    world.loop.turn()
    zero.feed(error)
    one.feed(error)
    assert client.frames() == [error], "nothing was executed"


@pytest.mark.parametrize("bad", [b"*2\rX$3\r\nGET\r\n$2\r\nk0\r\n", b"*2\r\n$3\rXGET\r\n", b"*2\r\n$3\r\nGETxx"])
def test_a_request_that_an_engine_would_end_its_connection_for_does_not_reach_it(bad: bytes) -> None:
    """All clients share that connection. The arguments were looked for behind the next line feed, too: letters there
    were taken for lengths, and bytes beyond the request were read."""
    world = World()
    client, other = world.client(), world.client()
    engine = connected_engine(world, other)
    client.feed(request("GET", key_of(0)) + bad)
    world.loop.turn()
    assert engine.written == request("GET", key_of(0))
    engine.feed(b"$1\r\n1\r\n")
    assert client.frames() == [b"$1\r\n1\r\n", b"-ERR Protocol error: invalid CRLF in request\r\n"]
    assert client.ended and not engine.ended


def test_a_client_whose_replies_pile_up_behind_one_that_does_not_come_is_disconnected() -> None:
    world = World()
    client = world.client()
    zero, one = connected_engine(world, client, 0), connected_engine(world, client, 1)
    client.feed(request("GET", key_of(0)) + request("GET", key_of(1)) * 200)
    world.loop.turn()
    assert zero.written and not client.ended
    large = b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n"
    given = 0
    while not client.ended and given < 200:
        one.feed(large)
        given += 1
    assert OUTPUT_MAX_BYTES <= given * len(large) < OUTPUT_MAX_BYTES + 2 * len(large)


def test_peers_beyond_the_limit_of_clients_are_counted_once() -> None:
    world = World(max_clients=1)
    client = world.client()
    peer = world.client(cluster=True)
    peer.feed(request("CACHECLUSTER", "HELLO") * 2)
    assert (world.router.client_count, world.router.peer_count) == (1, 1)
    peer.protocol.connection_lost(None)
    assert (world.router.client_count, world.router.peer_count) == (1, 0)
    client.protocol.connection_lost(None)
    peer = world.client(cluster=True)
    assert (world.router.client_count, world.router.peer_count) == (1, 0)
    peer.feed(request("CACHECLUSTER", "HELLO") * 2)
    assert (world.router.client_count, world.router.peer_count) == (0, 1)
    peer.protocol.connection_lost(None)
    assert (world.router.client_count, world.router.peer_count) == (0, 0)


def test_a_connection_beyond_the_limit_that_does_not_prove_to_be_a_peer_is_closed() -> None:
    world = World(max_clients=1)
    world.client()
    silent, peer = world.client(cluster=True), world.client(cluster=True)
    peer.feed(request("CACHECLUSTER", "HELLO"))
    assert world.router.peer_count == 2
    world.loop.wait()
    assert silent.ended and not peer.ended
    silent.protocol.connection_lost(None)
    assert world.router.peer_count == 1


def test_a_scan_begins_a_partition_anew_when_another_process_serves_it() -> None:
    world = World()
    client = world.client()
    zero, one = connected_engine(world, client, 0), connected_engine(world, client, 1)
    some, last = b"*2\r\n$2\r\n17\r\n*1\r\n$1\r\na\r\n", b"*2\r\n$1\r\n0\r\n*0\r\n"
    asked, first = scan(world, client, zero, b"0", some)
    assert asked == request("SCAN", "0")
    assert scan(world, client, zero, first, some)[0] == request("SCAN", "17")
    world.run_id = "another"
    world.use_routes([0, 1])
    assert scan(world, client, zero, first, some)[0] == request("SCAN", "0")
    client.feed(request("SCAN", "0"))
    world.loop.turn()
    world.run_id = "third"
    world.use_routes([0, 1])
    zero.feed(last)
    cursor = client.frames()[0].split(b"\r\n")[2]
    assert scan(world, client, zero, cursor, last)[0] == request("SCAN", "0"), "it was asked while another one came"
    _, cursor = scan(world, client, zero, b"0", last)
    assert scan(world, client, one, cursor, last) == (request("SCAN", "0"), b"0")


def test_replies_made_here_are_made_as_fast_as_they_are_read() -> None:
    world = World()
    lazy = world.client(slow=True)
    lazy.feed(request("COMMAND") * 1000)
    assert len(world.answered) < 10
    lazy.written = b""
    lazy.protocol.resume_writing()
    assert 3 < len(world.answered) < 20
    reader = world.client()
    world.answered.clear()
    reader.feed(request("COMMAND") * 50)
    assert reader.written == BIG * 50


def test_replies_whose_turn_has_not_come_are_bounded() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("GET", key_of(0)) + request("COMMAND") * 300)
    world.loop.turn()
    made = len(world.answered)
    assert made * len(BIG) < HELD_PAUSE_BYTES + 2 * len(BIG)
    engine.feed(b"$-1\r\n")
    assert client.written == b"$-1\r\n" + BIG * 300


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1\r\n", b"Host: localhost:6379\r\n"])
def test_requests_of_a_browser_end_the_connection(line: bytes) -> None:
    world = World()
    client = world.client()
    connected_engine(world, client)
    client.feed(line + b"\r\nSET " + key_of(0).encode() + b" stolen\r\n")
    world.loop.turn()
    assert client.ended and b"+OK" not in client.written


@pytest.mark.parametrize(
    "arguments", [("COMMAND",), ("COMMAND", "DOCS"), ("COMMAND", "INFO", "client"), ("COMMAND", "DOCS", "client")]
)
def test_the_command_tables_cost_little_when_everybody_asks_at_once(arguments: tuple[str, ...]) -> None:
    class Asker:
        proto = 3
        router = SimpleNamespace(routes={"settings": {"engine": "valkey"}})

    words = [word.encode() for word in arguments]
    answer: Any = HANDLERS["|".join(arguments[:2]).lower()]
    first = answer(Asker(), words)
    began = time.process_time()
    assert all(answer(Asker(), words) == first for _ in range(200))
    assert time.process_time() - began < 1.5, "the agent ends a router that is busy for two seconds"


def test_a_client_that_comes_back_to_a_slot_is_sent_away_a_moment_later_and_to_whoever_serves_then() -> None:
    """Two routers of which each still names the other would send it to and fro until it gave up."""
    world = World()
    client = world.client(cluster=True)
    get, other = request("GET", key_of(0)), request("GET", key_of(1))
    moved = b"-MOVED %d 127.0.0.%%d:7379\r\n" % slot_of_key(key_of(0).encode())
    world.use_routes([0, 1], "uid-1", "uid-0")
    client.feed(get + get)
    assert client.frames() == [moved % 2, moved % 2], "sent away at once"
    client.feed(get + other)
    assert client.frames() == [], "back already"
    assert world.router.metrics()["parked"] == 1
    world.loop.wait()
    assert client.frames() == [moved % 2]
    (engine,) = world.engines()
    assert engine.written == other, "in its order"
    engine.feed(b"$-1\r\n")
    client.feed(get)
    assert client.frames() == [b"$-1\r\n"]
    world.use_routes([0, 1], "", "uid-0")
    world.loop.wait()
    assert client.frames() == [], "nobody serves"
    world.use_routes([0, 1], "uid-0", "uid-0")
    world.loop.wait()
    assert client.frames() == [moved % 1]
    client.feed(get)
    world.engines()[0].feed(b"$-1\r\n")
    assert client.frames() == [b"$-1\r\n"]


def feeds_of(world: World) -> dict[int, Transport]:
    """The engines that a client, which has just subscribed, is to hear; they confirm."""
    found = {}
    for engine in world.engines():
        if engine.protocol.target.uid is None:
            found[len(found)] = engine
        pongs(engine)
    return found


def pongs(engine: Transport) -> None:
    """Answers every PING that came."""
    count = engine.written.count(b"PING")
    engine.written = b""
    engine.feed(b"+PONG\r\n" * count)


def told(text: str) -> bytes:
    return b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$%d\r\n%s\r\n" % (len(text), text.encode())


def test_a_gate_is_reported_shut_when_what_was_published_is_heard_and_opens_to_commands_when_its_engine_is() -> None:
    world = World()
    client, other = world.client(), world.client()
    connected_engine(world, other)
    client.protocol.set_proto(3)
    client.feed(request("SUBSCRIBE", "a"))
    feed = feeds_of(world)[0]
    assert client.frames() == [b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"]
    world.set_gate(0, 2, 0)
    world.router.use_gate(0, 2)
    world.loop.turn()
    assert (0, 2) not in world.confirmed
    feed.feed(told("last"))
    pongs(feed)
    assert (0, 2) in world.confirmed
    feed.feed(told("replicated"))
    assert client.frames() == [told("last")], "what another primary tells is heard there"
    world.set_gate(0, 3, 2)
    world.router.use_gate(0, 3)
    other.feed(request("GET", key_of(0)))
    world.loop.turn()
    assert other.frames() == [] and world.router.metrics()["parked"] == 1
    world.set_gate(0, 4, 0)
    world.router.use_gate(0, 4)
    world.router.tick()
    pongs(feed)
    assert (0, 4) in world.confirmed
    world.set_gate(0, 5, 3)
    world.router.use_gate(0, 5)
    world.loop.turn()
    pongs(feed)
    assert world.router.metrics()["parked"] == 0
    feed.feed(told("new"))
    assert client.frames() == [told("new")]


def shut_with_something_published(world: World) -> tuple[Transport, Transport]:
    """A client that listens, and that on which its engine tells what was published until its gate was shut."""
    client = world.client()
    connected_engine(world, world.client())
    client.protocol.set_proto(3)
    client.feed(request("SUBSCRIBE", "a"))
    feed = feeds_of(world)[0]
    client.frames()
    world.set_gate(0, 2, 0)
    world.router.use_gate(0, 2)
    world.loop.turn()
    return client, feed


def test_an_engine_that_goes_on_telling_what_was_published_is_heard_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "GATE_DRAIN_S", 0.05)
    world = World()
    client, feed = shut_with_something_published(world)
    until = time.monotonic() + 0.2
    count = 0
    while time.monotonic() < until:
        feed.feed(told(str(count)))
        count += 1
        world.router.tick()
    assert (0, 2) not in world.confirmed
    pongs(feed)
    assert (0, 2) in world.confirmed
    assert client.frames() == [told(str(number)) for number in range(count)]


def test_an_engine_that_does_not_tell_what_was_published_does_not_hold_up_its_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core, "GATE_DRAIN_S", 0.05)
    world = World()
    _, feed = shut_with_something_published(world)
    while (0, 2) not in world.confirmed:
        assert not feed.ended
        world.router.tick()
    assert feed.ended


def test_a_subscription_waits_for_a_pod_that_is_slow_to_greet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "CONNECT_TIMEOUT_S", 0.01)
    world = World()
    client = world.client()
    client.feed(request("SUBSCRIBE", "a"))
    slow = [backend for backend in world.dialled if backend.target.uid == "uid-2"]
    world.dialled[:] = [backend for backend in world.dialled if backend not in slow]
    for feed in world.engines():
        pongs(feed)
    began = time.monotonic()
    while time.monotonic() < began + 0.05:
        world.router.tick()
    assert client.frames() == []
    world.dialled += slow
    (feed,) = world.engines()
    pongs(feed)
    assert client.frames() == [b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"]


def test_a_router_that_ends_parks_nothing_more_whatever_it_is_told_of_the_partitions() -> None:
    world = World()
    client = world.client()
    connected_engine(world, client)
    world.router.give_up_parked(forwarded=True)
    world.use_routes([0, 1], "", "uid-0")
    client.feed(request("GET", key_of(0)))
    world.router.tick()
    assert [frame[:9] for frame in client.frames()] == [b"-TRYAGAIN"]
