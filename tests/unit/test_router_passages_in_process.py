"""Large values whose primary is on another pod pass on passages: the router that clients ask, without sockets."""

from __future__ import annotations

import random

import pytest
from tests.unit.router_in_process import OUTPUT_PAUSE_BYTES, Transport, World, key_of

from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.resp import encode_request

pytestmark = pytest.mark.t0

VALUE = random.Random(1).randbytes(18_000_000)
LARGE = b"$%d\r\n%s\r\n" % (len(VALUE), VALUE)
KEY = key_of(0).encode()
GET = encode_request([b"GET", KEY])
STRLEN = encode_request([b"STRLEN", KEY])
WRITE = encode_request([b"SET", KEY, b"new"])
SET = encode_request([b"SET", KEY, VALUE, b"EX", b"10"])
RESUME = encode_request([b"CACHECLUSTER", b"RESUME", b"0"])


class Side:
    """A router, and its connection `shared` by clients to what answers them."""

    world: World
    shared: Transport

    def say(self, connection: Transport, data: bytes) -> None:
        """Bytes from the other end of a connection, and what follows from them."""
        connection.feed(data)
        self.world.loop.turn()

    def sent(self) -> bytes:
        """What was sent on the shared connection since this was last asked."""
        data, self.shared.written = self.shared.written, b""
        return data


class Entry(Side):
    """The router that clients ask: the primaries of both partitions are on pod 1."""

    def __init__(self, pieces: bool = True) -> None:
        self.world = World()
        self.world.pieces = pieces
        self.world.use_routes([], "uid-1", "uid-1")
        self.first = self.world.client()
        self.say(self.first, STRLEN)
        (self.shared,) = self.world.engines()
        greeted = encode_request([b"CACHECLUSTER", b"PIECES"]) if pieces else b""
        assert self.sent() == greeted + STRLEN
        self.say(self.shared, b"+OK\r\n:0\r\n" if pieces else b":0\r\n")
        assert self.first.frames() == [b":0\r\n"]

    def passage(self) -> Transport:
        """The one that was made now, and what was sent on it."""
        (made,) = self.world.engines()
        assert type(made.protocol).__name__ == "Passage"
        return made

    def read_begun(self) -> Transport:
        """The peer said that the reply is large; it was asked for on this passage."""
        self.say(self.first, GET)
        assert self.sent() == GET
        self.say(self.shared, b"-CCLARGE 0\r\n")
        passage = self.passage()
        assert passage.written == GET
        passage.written = b""
        return passage

    def write_begun(self, size: int = 1_400_000) -> Transport:
        """So much of a large request came, and was passed on."""
        self.say(self.first, SET[:size])
        passage = self.passage()
        assert passage.written == SET[:size]
        return passage


def test_what_a_peer_says_is_large_comes_in_pieces_on_a_passage_and_the_next_time_at_once() -> None:
    entry = Entry()
    passage = entry.read_begun()
    passage.feed(LARGE[:100_000])
    assert entry.first.written == LARGE[:100_000]
    other = entry.world.client()
    entry.say(other, STRLEN)
    assert entry.sent() == RESUME + STRLEN
    entry.say(entry.shared, b"+OK\r\n:1\r\n")
    assert other.written == b":1\r\n"
    passage.feed(LARGE[100_000:])
    assert entry.first.written == LARGE
    entry.say(entry.first, GET)
    assert (passage.written, entry.sent()) == (GET, b"")
    entry.say(passage, b"$1\r\nx\r\n")
    entry.say(entry.first, GET)
    assert entry.sent() == GET, "it is small by now"


def test_what_the_peer_refused_behind_a_large_read_comes_again_in_its_order() -> None:
    entry = Entry()
    other = entry.world.client()
    entry.first.feed(GET)
    entry.say(other, WRITE + STRLEN)
    assert entry.sent() == GET + WRITE + STRLEN
    entry.say(entry.shared, b"-CCLARGE 0\r\n-CCGATE 0\r\n-CCGATE 0\r\n")
    entry.world.loop.wait()
    passage = entry.passage()
    assert (passage.written, entry.sent()) == (GET, RESUME + WRITE), "the first of them shows that the gate is open"
    entry.say(entry.shared, b"+OK\r\n+OK\r\n")
    entry.say(passage, LARGE[:300_000])
    assert entry.sent() == STRLEN
    entry.say(entry.shared, b":3\r\n")
    assert other.written == b"+OK\r\n:3\r\n"


@pytest.mark.parametrize("told_first", [False, True])
def test_what_is_refused_behind_the_large_read_of_a_client_that_goes_stays_before_what_comes_later(
    told_first: bool,
) -> None:
    entry = Entry()
    other = entry.world.client()
    entry.first.feed(GET)
    entry.say(other, encode_request([b"SET", KEY, b"1"]))
    entry.sent()
    if told_first:
        entry.say(entry.shared, b"-CCLARGE 0\r\n")
    entry.first.protocol.connection_lost(None)
    if not told_first:
        entry.say(entry.shared, b"-CCLARGE 0\r\n")
    entry.world.router.tick()
    entry.say(other, encode_request([b"SET", KEY, b"2"]))
    assert entry.sent() == b""
    entry.say(entry.shared, b"-CCGATE 0\r\n")
    entry.world.loop.wait()
    assert entry.sent() == RESUME + encode_request([b"SET", KEY, b"1"])


def test_in_a_pipeline_a_large_read_is_asked_for_as_a_whole_and_the_order_stays() -> None:
    entry = Entry()
    entry.say(entry.first, GET + WRITE)
    assert entry.sent() == GET + WRITE
    entry.say(entry.shared, b"-CCLARGE 0\r\n-CCGATE 0\r\n")
    entry.world.loop.wait()
    assert entry.world.dialled == []
    sent = entry.sent()
    assert sent.startswith(RESUME) and sent.endswith(b"r\r\n$1\r\n0\r\n$%d\r\n%s\r\n" % (len(GET), GET))
    entry.say(entry.shared, b"+OK\r\n" + LARGE)
    assert entry.sent() == WRITE
    entry.say(entry.shared, b"+OK\r\n")
    assert entry.first.written == LARGE + b"+OK\r\n"
    entry.say(entry.first, GET + WRITE)
    assert (entry.passage().written, entry.sent()) == (GET, b""), (
        "the next time it is known, and what is behind it waits"
    )


def test_a_passage_that_cannot_be_made_is_done_without() -> None:
    entry = Entry()
    entry.say(entry.first, GET)
    entry.sent()
    entry.say(entry.shared, b"-CCLARGE 0\r\n")
    (passage,) = entry.world.dialled
    passage.failed("connection refused")
    entry.world.loop.turn()
    sent = entry.sent()
    assert b"$2\r\nAT\r\n" in sent and GET in sent
    entry.say(entry.shared, b"+OK\r\n" + LARGE)
    assert entry.first.written == LARGE


def test_a_gate_that_is_shut_there_makes_a_large_read_wait() -> None:
    entry = Entry()
    passage = entry.read_begun()
    entry.say(passage, b"-CCGATE 0\r\n")
    assert passage.ended and entry.first.written == b""
    entry.world.loop.wait()
    again = entry.passage()
    assert again.written == GET
    again.feed(LARGE)
    assert entry.first.written == LARGE


def test_a_passage_that_is_lost_before_the_first_piece_is_made_again() -> None:
    entry = Entry()
    entry.read_begun().protocol.connection_lost(None)
    entry.world.loop.turn()
    again = entry.passage()
    assert again.written == GET
    again.feed(LARGE)
    assert entry.first.written == LARGE


def test_a_passage_that_is_lost_in_the_midst_of_a_reply_disconnects_its_client() -> None:
    entry = Entry()
    passage = entry.read_begun()
    passage.feed(LARGE[:300_000])
    passage.protocol.connection_lost(None)
    assert entry.first.ended and entry.first.written == LARGE[:300_000]


def test_a_client_that_goes_ends_its_passage() -> None:
    entry = Entry()
    passage = entry.read_begun()
    passage.feed(LARGE[:300_000])
    entry.first.protocol.connection_lost(None)
    assert passage.ended


def test_a_move_waits_for_no_large_reply_that_has_begun() -> None:
    entry = Entry()
    passage = entry.read_begun()
    passage.feed(LARGE[:300_000])
    entry.world.use_routes([], "uid-2", "uid-1")
    other = entry.world.client()
    entry.say(other, STRLEN)
    new, *_ = entry.world.engines()
    assert new.written.endswith(STRLEN)
    passage.feed(LARGE[300_000:])
    assert entry.first.written == LARGE and passage.ended


def test_a_move_waits_until_it_is_known_whether_a_large_read_was_executed() -> None:
    entry = Entry()
    passage = entry.read_begun()
    entry.world.use_routes([], "uid-2", "uid-1")
    other = entry.world.client()
    entry.say(other, STRLEN)
    assert all(not made.written for made in entry.world.engines())
    entry.say(passage, b"-CCGATE 0\r\n")
    assert passage.ended
    new, again = entry.world.engines()
    assert {new.protocol.target.uid, again.protocol.target.uid} == {"uid-2"}
    again.feed(LARGE)
    assert entry.first.written == LARGE


def test_a_peer_that_is_silent_on_a_passage_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry()
    passage = entry.read_begun()
    entry.world.router.tick()
    assert not passage.ended
    monkeypatch.setitem(vars(core), "PEER_SILENCE_S", -1.0)
    entry.world.use_routes([], "uid-2", "uid-1")
    entry.world.router.tick()
    assert passage.ended


def test_a_client_that_reads_slowly_holds_back_its_passage_alone() -> None:
    entry = Entry()
    entry.first = entry.world.client(slow=True)
    passage = entry.read_begun()
    passage.feed(LARGE[: 2 * OUTPUT_PAUSE_BYTES])
    assert passage.paused and not entry.shared.paused
    taken, entry.first.written = entry.first.written, b""
    entry.first.protocol.resume_writing()
    assert not passage.paused
    passage.feed(LARGE[2 * OUTPUT_PAUSE_BYTES :])
    while passage.paused:
        taken, entry.first.written = taken + entry.first.written, b""
        entry.first.protocol.resume_writing()
    assert taken + entry.first.written == LARGE


def test_what_blocks_is_not_sent_on_a_passage_nor_what_is_large_where_that_was() -> None:
    entry = Entry()
    passage = entry.read_begun()
    passage.feed(LARGE)
    entry.first.frames()
    entry.say(entry.first, encode_request([b"BLPOP", KEY, b"0"]))
    assert b"$2\r\nON\r\n" in entry.sent() and passage.ended
    entry.say(entry.shared, b"+OK\r\n-CCHELD 1\r\n>2\r\n:1\r\n*-1\r\n")
    assert entry.first.frames() == [b"*-1\r\n"]
    entry.say(entry.first, GET)
    assert b"$3\r\nOFF\r\n" in entry.sent()
    assert entry.passage().written == GET


def test_what_waits_for_a_gate_while_its_client_has_a_passage_can_be_ended() -> None:
    entry = Entry()
    passage = entry.read_begun()
    passage.feed(LARGE)
    entry.first.frames()
    entry.world.use_routes([], "uid-1", "uid-1", announced=["uid-1", "uid-1"])
    entry.say(entry.world.client(), STRLEN)
    entry.say(entry.shared, b"+OK\r\n-CCGATE 0\r\n")
    entry.say(entry.first, encode_request([b"BLPOP", KEY, b"0"]))
    assert entry.first.protocol.unblock_with(b"ERROR") is False
    assert entry.first.protocol.unblock_with(b"TIMEOUT") is True
    entry.world.router.tick()
    assert entry.first.frames() == [b"*-1\r\n"]


def test_a_large_write_goes_to_the_peer_as_it_comes_and_is_executed_by_its_end() -> None:
    entry = Entry()
    passage = entry.write_begun()
    entry.say(entry.first, SET[1_400_000:-1])
    assert passage.written == SET[:-2]
    other = entry.world.client()
    entry.say(other, STRLEN)
    assert entry.sent() == STRLEN
    entry.say(entry.shared, b":1\r\n")
    assert other.written == b":1\r\n"
    entry.say(entry.first, SET[-1:] + STRLEN)
    assert (passage.written, entry.sent()) == (SET, b"")
    entry.say(passage, b"+OK\r\n")
    assert entry.sent() == STRLEN
    entry.say(entry.shared, b":18000000\r\n")
    assert entry.first.written == b"+OK\r\n:18000000\r\n"


def test_a_large_write_that_the_peer_refuses_is_to_be_sent_again() -> None:
    entry = Entry()
    passage = entry.write_begun()
    entry.say(entry.first, SET[1_400_000:])
    entry.say(passage, b"-CCGATE 0\r\n")
    (refused,) = entry.first.frames()
    assert refused.startswith(b"-TRYAGAIN ") and passage.ended


def test_a_large_write_that_gets_no_passage_is_kept_whole() -> None:
    entry = Entry()
    entry.say(entry.first, SET[:1_400_000])
    (passage,) = entry.world.dialled
    entry.world.dialled.clear()
    passage.failed("too many connections")
    entry.say(entry.first, SET[1_400_000:])
    assert entry.sent() == SET
    entry.say(entry.shared, b"+OK\r\n")
    assert entry.first.frames() == [b"+OK\r\n"]


@pytest.mark.parametrize(("sent", "told"), [(SET[1_400_000:-2], b"-TRYAGAIN "), (SET[1_400_000:], b"-INDETERMINATE ")])
def test_a_passage_that_is_lost_executes_nothing_before_the_end_was_sent(sent: bytes, told: bytes) -> None:
    entry = Entry()
    passage = entry.write_begun()
    entry.say(entry.first, sent)
    passage.protocol.connection_lost(None)
    entry.say(entry.first, SET[1_400_000 + len(sent) :])
    (reply,) = entry.first.frames()
    assert reply.startswith(told)


def test_a_primary_that_moves_in_the_midst_of_a_large_write_executes_nothing() -> None:
    entry = Entry()
    passage = entry.write_begun()
    entry.world.use_routes([], "uid-2", "uid-1")
    assert passage.ended
    entry.say(entry.first, SET[1_400_000:])
    (refused,) = entry.first.frames()
    assert refused.startswith(b"-TRYAGAIN ") and passage.written == SET[:1_400_000]


def test_gates_of_a_replica_here_are_nothing_to_a_large_write_that_goes_to_its_primary() -> None:
    entry = Entry()
    entry.world.use_routes([0], "uid-1", "uid-1")
    passage = entry.write_begun()
    entry.world.set_gate(0, generation=2, epoch=0)
    entry.world.router.use_gate(0, 2)
    entry.world.use_routes([], "uid-1", "uid-1")
    assert not passage.ended
    entry.say(entry.first, SET[1_400_000:])
    assert passage.written == SET


def test_a_script_that_says_the_word_of_a_peer_is_not_executed_again() -> None:
    entry = Entry(pieces=False)
    entry.say(entry.first, encode_request([b"EVAL", b"return redis.error_reply('CCLARGE 0')", b"1", KEY]))
    entry.sent()
    entry.say(entry.shared, b"-CCLARGE 0\r\n")
    assert entry.first.frames() == [b"-CCLARGE 0\r\n"] and entry.sent() == b""


def test_a_peer_that_comes_back_without_knowing_pieces_is_asked_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_FIRST_S", "RETRY_MAX_S"):
        monkeypatch.setitem(vars(core), name, 0.0)
    entry = Entry()
    entry.world.pieces = False
    entry.shared.protocol.connection_lost(None)
    entry.world.loop.wait()
    entry.say(entry.first, STRLEN)
    entry.world.router.tick()
    (entry.shared,) = entry.world.engines()
    entry.say(entry.shared, b":0\r\n")
    entry.sent()
    entry.say(entry.first, SET)
    assert entry.sent() == SET


def test_a_peer_that_knows_no_pieces_is_asked_as_ever() -> None:
    entry = Entry(pieces=False)
    entry.say(entry.first, SET)
    assert entry.sent() == SET
    entry.say(entry.shared, b"+OK\r\n")
    entry.say(entry.first, GET)
    entry.say(entry.shared, LARGE)
    entry.say(entry.first, GET)
    assert entry.sent() == GET + GET and entry.first.written == b"+OK\r\n" + LARGE
