"""Large values pass on passages: the router of the primary's pod, asked by that of another, without sockets."""

from __future__ import annotations

import pytest
from tests.unit.router_in_process import Transport, World
from tests.unit.test_router_passages_in_process import GET, LARGE, RESUME, SET, STRLEN, VALUE, WRITE, Side

from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.answers import Answers
from cachecluster_sidecar.router.resp import encode_request

pytestmark = pytest.mark.t0


class Owner(Side):
    """The router of the primary's pod, and a peer's shared connection to it."""

    def __init__(self, *words: bytes, pieces: bool = True, cold: bool = False, **settings: object) -> None:
        self.world = World(answer=Answers(lambda: b"token"))
        self.world.change_settings(**settings)
        self.peer = self.connected(*words)
        if pieces and not words:
            self.ask(encode_request([b"CACHECLUSTER", b"PIECES"]))
        if cold:
            return
        self.ask(STRLEN)
        (self.shared,) = self.world.engines()
        self.ask(RESUME)
        self.peer.frames()

    def connected(self, *words: bytes) -> Transport:
        peer = self.world.client(cluster=True)
        peer.feed(encode_request([b"CACHECLUSTER", b"HELLO", b"3", b"token", b"uid-0", *words]))
        assert peer.frames() == [b"+OK pieces\r\n"]
        return peer

    def ask(self, data: bytes) -> None:
        """Of the peer."""
        self.say(self.peer, data)

    def private(self) -> Transport:
        """The private connection that was made now; the others are for the shared one and CLIENT UNBLOCK."""
        (made,) = [it for it in self.world.engines() if type(it.protocol).__name__ == "Private"]
        return made


def test_a_peer_is_told_of_a_large_reply_and_what_it_sends_behind_is_refused_until_resume() -> None:
    owner = Owner()
    owner.ask(GET + STRLEN)
    assert owner.sent() == GET + STRLEN
    owner.say(owner.shared, LARGE[:1_500_000])
    assert owner.shared.ended, "nobody waits until it has come"
    owner.ask(WRITE)
    assert owner.peer.frames() == [b"-CCLARGE 0\r\n", b"-CCGATE 0\r\n", b"-CCGATE 0\r\n"]
    owner.shared, *_ = owner.world.engines()
    owner.ask(RESUME + WRITE)
    assert owner.sent() == WRITE


def test_reads_of_the_peer_behind_a_large_reply_that_is_read_away_are_refused_as_well() -> None:
    owner = Owner()
    value = b"$2000000\r\n%s\r\n" % VALUE[:2_000_000]
    owner.ask(GET + GET + STRLEN)
    owner.say(owner.shared, value + value + b":2000000\r\n")
    assert not owner.shared.ended
    assert owner.peer.frames() == [b"-CCLARGE 0\r\n", b"-CCGATE 0\r\n", b"-CCGATE 0\r\n"]


def test_a_large_reply_with_a_write_behind_it_is_kept_and_the_next_time_nothing_is_asked() -> None:
    owner = Owner()
    owner.ask(GET + WRITE)
    owner.say(owner.shared, LARGE + b"+OK\r\n")
    assert owner.peer.frames() == [LARGE, b"+OK\r\n"]
    owner.sent()
    owner.ask(GET + WRITE)
    assert owner.sent() == b""
    assert owner.peer.frames() == [b"-CCLARGE 0\r\n", b"-CCGATE 0\r\n"]


def test_a_peer_that_asks_for_the_whole_gets_it() -> None:
    owner = Owner()
    owner.ask(encode_request([b"CACHECLUSTER", b"AT", b"0", b"r", b"0", GET]))
    owner.say(owner.shared, LARGE)
    assert owner.peer.frames() == [LARGE]


def test_a_peer_that_knows_no_pieces_gets_the_whole() -> None:
    owner = Owner(pieces=False)
    for _ in range(2):
        owner.ask(GET)
        assert owner.sent() == GET
        owner.say(owner.shared, LARGE)
        assert owner.peer.frames() == [LARGE]


def test_on_a_passage_a_large_reply_comes_in_pieces_and_so_at_once_the_next_time() -> None:
    owner = Owner(b"PASSAGE")
    value = b"$2000000\r\n%s\r\n" % VALUE[:2_000_000]
    owner.ask(GET)
    assert owner.sent() == GET
    owner.say(owner.shared, value)
    private = owner.private()
    assert private.written == GET
    private.written = b""
    private.feed(value[:100_000])
    assert owner.peer.written == value[:100_000]
    private.feed(value[100_000:])
    assert owner.peer.frames() == [value]
    owner.ask(GET)
    assert (private.written, owner.sent()) == (GET, b"")


def test_a_gate_that_shuts_refuses_what_is_asked_on_a_passage() -> None:
    owner = Owner(b"PASSAGE")
    owner.world.set_gate(0, generation=2, epoch=0)
    owner.world.router.use_gate(0, 2)
    owner.ask(GET)
    assert owner.peer.frames() == [b"-CCGATE 0\r\n"]


def test_a_large_request_on_a_passage_goes_to_the_engine_as_it_comes() -> None:
    owner = Owner(b"PASSAGE")
    owner.ask(SET[:1_400_000])
    private = owner.private()
    owner.ask(SET[1_400_000:])
    assert private.written == SET
    private.feed(b"+OK\r\n")
    assert owner.peer.frames() == [b"+OK\r\n"]


def test_a_large_request_on_a_passage_does_not_wait_for_the_connection_that_others_share() -> None:
    owner = Owner(b"PASSAGE", cold=True)
    owner.ask(SET[:1_400_000])
    private = owner.private()
    owner.ask(SET[1_400_000:])
    assert private.written == SET


def test_a_large_request_on_a_passage_is_executed_also_while_the_connection_that_others_share_is_made_anew() -> None:
    owner = Owner(b"PASSAGE")
    owner.ask(SET[:1_400_000])
    private = owner.private()
    owner.say(owner.connected(b"PASSAGE"), GET)
    owner.say(owner.shared, LARGE[:1_500_000])
    assert owner.shared.ended
    owner.ask(SET[1_400_000:])
    assert private.written == SET
    private.feed(b"+OK\r\n")
    assert owner.peer.frames() == [b"+OK\r\n"]


def test_a_large_request_on_a_passage_is_kept_whole_when_there_are_too_many_private_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = Owner(b"PASSAGE")
    monkeypatch.setitem(vars(core), "MAX_PRIVATE", 0)
    owner.ask(SET[:1_400_000])
    owner.ask(SET[1_400_000:])
    assert owner.sent() == SET
    owner.say(owner.shared, b"+OK\r\n")
    assert owner.peer.frames() == [b"+OK\r\n"]


def test_a_large_request_on_a_passage_is_kept_whole_when_its_private_connection_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(core), "NOT_APART_S", 0.0)
    owner = Owner(b"PASSAGE")
    for begin in range(0, len(SET), 2_000_000):
        owner.ask(SET[begin : begin + 2_000_000])
        for backend in owner.world.dialled[:]:
            owner.world.dialled.remove(backend)
            backend.failed("too many connections")
        owner.world.loop.turn()
    assert owner.sent() == SET
    owner.say(owner.shared, b"+OK\r\n")
    assert owner.peer.frames() == [b"+OK\r\n"]


def test_a_read_on_a_passage_does_not_wait_for_an_engine_but_is_refused() -> None:
    owner = Owner(b"PASSAGE")
    owner.ask(GET)
    owner.say(owner.shared, LARGE[:1_500_000])
    assert owner.shared.ended and owner.peer.frames() == [b"-CCGATE 0\r\n"]
    assert owner.world.router.metrics()["parked"] == 0


def test_a_key_stays_known_as_large_when_its_read_was_refused() -> None:
    owner = Owner(b"PASSAGE")
    owner.ask(GET)
    owner.say(owner.shared, LARGE[:1_500_000])
    owner.peer = owner.connected(b"PASSAGE")
    owner.ask(GET)
    assert owner.peer.frames() == [b"-CCGATE 0\r\n"]
    (owner.shared,) = owner.world.engines()
    owner.peer = owner.connected(b"PASSAGE")
    owner.ask(GET)
    assert (owner.private().written, owner.sent()) == (GET, b"")


def test_a_read_on_a_passage_that_gets_no_private_connection_is_asked_as_others_are() -> None:
    owner = Owner(b"PASSAGE")
    value = b"$2000000\r\n%s\r\n" % VALUE[:2_000_000]
    owner.ask(GET)
    owner.say(owner.shared, value)
    owner.sent()
    for backend in owner.world.dialled[:]:
        owner.world.dialled.remove(backend)
        backend.failed("too many connections")
    owner.world.loop.turn()
    assert owner.sent() == GET
    owner.say(owner.shared, value)
    assert owner.peer.frames() == [value]


def test_passages_leave_room_for_the_connections_that_routers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner()
    monkeypatch.setitem(vars(core), "PEER_CONNECTIONS", 2)
    peer = owner.world.client(cluster=True)
    peer.feed(encode_request([b"CACHECLUSTER", b"HELLO", b"3", b"token", b"uid-0", b"PASSAGE"]))
    assert peer.frames() == [b"-ERR too many connections of peers\r\n"] and peer.ended


def test_a_large_request_on_a_passage_that_too_few_copies_would_have_is_told_so() -> None:
    owner = Owner(b"PASSAGE", sync=True, minInSync=2)
    owner.world.router.use_gate(0, 1, required=["uid-0.run"])
    owner.ask(SET[:1_400_000])
    owner.private()
    owner.ask(SET[1_400_000:])
    (refused,) = owner.peer.frames()
    assert refused.startswith(b"-NOREPLICAS ")


def test_a_gate_that_shuts_in_the_midst_of_a_large_request_on_a_passage_executes_nothing() -> None:
    owner = Owner(b"PASSAGE")
    owner.ask(SET[:1_400_000])
    private = owner.private()
    owner.world.set_gate(0, generation=2, epoch=0)
    owner.world.router.use_gate(0, 2)
    assert private.ended and (0, 2) in owner.world.confirmed
    owner.ask(SET[1_400_000:])
    (refused,) = owner.peer.frames()
    assert refused.startswith(b"-TRYAGAIN ") and private.written == SET[:1_400_000]


def test_a_large_request_that_comes_on_a_passage_to_a_shut_gate_is_dropped_and_refused() -> None:
    owner = Owner(b"PASSAGE")
    owner.world.set_gate(0, generation=2, epoch=0)
    owner.world.router.use_gate(0, 2)
    owner.ask(SET[:1_400_000])
    owner.world.set_gate(0, generation=3, epoch=2)
    owner.world.router.use_gate(0, 3)
    owner.ask(SET[1_400_000:])
    (refused,) = owner.peer.frames()
    assert refused.startswith(b"-TRYAGAIN ") and owner.sent() == b""
    owner.ask(STRLEN)
    assert owner.sent() == STRLEN, "the connection goes on"


def test_with_sync_the_reply_to_a_large_request_waits_for_the_copies_in_its_turn() -> None:
    owner = Owner(b"PASSAGE", sync=True, ackTimeoutMs=3000)
    owner.world.router.use_gate(0, 1, required=["uid-0.run", "uid-1.run"])
    owner.ask(SET[:1_400_000])
    private = owner.private()
    owner.ask(SET[1_400_000:])
    private.feed(b"+OK\r\n")
    assert owner.peer.frames() == [], "not even a ticket"
