"""MULTI and EXEC in a router: commands are kept, go to one partition in one piece, and have one reply."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import Transport, World, key_of
from tests.waiting import wait_until

from cachecluster_core.slots import slot_of_key
from cachecluster_sidecar.router.answers import Answers
from cachecluster_sidecar.router.resp import split_requests

pytestmark = pytest.mark.t0

KEY, OTHER = key_of(0), key_of(1)
MULTI, EXEC, DISCARD = (request(word) for word in ("MULTI", "EXEC", "DISCARD"))
INCR, GET = request("INCR", KEY), request("GET", KEY)
REPLIES = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n"
RESULTS = b"*2\r\n:1\r\n$1\r\n1\r\n"


class Talk:
    """A client of a router whose engines answer when the test says so."""

    def __init__(self, cluster: bool = False) -> None:
        self.world = World(answer=Answers(lambda: b"token"))
        self.client = self.world.client(cluster)
        self.engine, self.other = self._connect(KEY), self._connect(OTHER)

    def _connect(self, key: str) -> Transport:
        one = self.world.client()
        one.feed(request("GET", key))
        engine = self.world.engines()[0]
        engine.feed(b"$-1\r\n")
        engine.written = b""
        return engine

    def say(self, *requests: bytes) -> list[bytes]:
        """The replies that come at once."""
        self.client.feed(b"".join(requests))
        self.world.loop.turn()
        return self.client.frames()


def test_commands_are_kept_until_exec_and_go_to_the_engine_in_one_piece() -> None:
    talk = Talk()
    assert talk.say(MULTI, INCR, GET) == [b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n"]
    assert not talk.engine.written
    other = talk.world.client()
    other.feed(INCR)
    assert talk.say(EXEC) == []
    other.feed(GET)
    talk.world.loop.turn()
    assert talk.engine.written == INCR + MULTI + INCR + GET + EXEC + GET
    talk.engine.feed(b":7\r\n" + REPLIES + RESULTS + b"$1\r\n2\r\n")
    assert talk.client.frames() == [RESULTS] and other.frames() == [b":7\r\n", b"$1\r\n2\r\n"]


def test_a_transaction_in_one_go_is_answered_in_order_among_other_commands() -> None:
    talk = Talk()
    assert talk.say(request("GET", OTHER), MULTI, INCR, GET, EXEC, request("GET", OTHER)) == []
    talk.engine.feed(REPLIES)
    talk.engine.feed(RESULTS)
    assert talk.client.frames() == []
    talk.other.feed(b"$1\r\na\r\n$1\r\nb\r\n")
    assert talk.client.frames() == [b"$1\r\na\r\n", b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n", RESULTS, b"$1\r\nb\r\n"]


def test_commands_without_keys_are_part_of_a_transaction() -> None:
    talk = Talk()
    talk.say(MULTI, request("PING"), request("ECHO", "x"), EXEC)
    assert talk.engine.written == MULTI + request("PING") + request("ECHO", "x") + EXEC
    talk.engine.feed(REPLIES + b"*2\r\n+PONG\r\n$1\r\nx\r\n")
    assert talk.client.frames() == [b"*2\r\n+PONG\r\n$1\r\nx\r\n"]


def test_a_transaction_may_be_discarded_or_empty() -> None:
    talk = Talk()
    assert talk.say(MULTI, INCR, DISCARD, MULTI, EXEC)[2:] == [b"+OK\r\n", b"+OK\r\n", b"*0\r\n"]
    assert talk.say(EXEC, DISCARD) == [b"-ERR EXEC without MULTI\r\n", b"-ERR DISCARD without MULTI\r\n"]
    assert talk.say(MULTI, INCR, request("RESET"), EXEC)[3] == b"-ERR EXEC without MULTI\r\n"
    assert not talk.engine.written


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (MULTI, b"-ERR Command 'multi' not allowed inside a transaction"),
        (request("GET"), b"-ERR wrong number of arguments"),
        (request("NONSENSE"), b"-ERR unknown command"),
        (request("GET", OTHER), b"-CROSSSLOT "),
        (request("MGET", KEY, OTHER), b"-CROSSSLOT "),
        (request("SUBSCRIBE", "c"), b"-ERR 'subscribe' is not served"),
        (request("CONFIG", "SET", "a", "b"), b"-ERR 'config|set' is refused"),
        (request("CLIENT", "SETNAME", "a"), b"-ERR 'client|setname' is not served between MULTI and EXEC"),
        (request("SELECT", "0"), b"-ERR 'select' is not served between MULTI and EXEC"),
        (request("WATCH", KEY), b"-ERR WATCH inside MULTI is not allowed"),
        (request("BLPOP", OTHER, "0"), b"-CROSSSLOT "),
    ],
)
def test_nothing_of_a_transaction_is_executed_when_a_command_of_it_is_refused(bad: bytes, told: bytes) -> None:
    talk = Talk()
    replies = talk.say(MULTI, INCR, bad, GET, EXEC)
    assert replies[2].startswith(told) and replies[3] == b"+QUEUED\r\n"
    assert replies[4] == b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    assert not talk.engine.written and not talk.other.written
    talk.say(INCR)
    assert talk.engine.written == INCR


def test_the_reason_for_which_the_engine_refuses_a_command_is_told_by_exec() -> None:
    talk = Talk()
    talk.say(MULTI, INCR, GET, EXEC)
    talk.engine.feed(b"+OK\r\n-OOM command not allowed\r\n+QUEUED\r\n-EXECABORT Transaction discarded\r\n")
    reason = b"-EXECABORT Transaction discarded because of: OOM command not allowed\r\n"
    assert talk.client.frames() == [reason]


def test_what_is_queued_shares_the_room_for_what_is_parked() -> None:
    talk = Talk()
    large = request("SET", KEY, "x" * 400_000)
    assert talk.say(MULTI, large, large) == [b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n"]
    other = talk.world.client()
    other.feed(MULTI + large)
    assert b"there is no room to queue" in other.frames()[1]
    assert talk.say(DISCARD) == [b"+OK\r\n"]
    for end in (EXEC, DISCARD, request("RESET")):
        other.feed(end + MULTI + large + large)
        assert other.frames()[-2:] == [b"+QUEUED\r\n"] * 2
    other.protocol.connection_lost(None)
    assert talk.say(MULTI, large, large) == [b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n"]
    small = [request("PING")] * 5000
    assert any(b"no room" in reply for reply in talk.say(*small)), "what each of them takes is counted"


@pytest.mark.parametrize("wrong", [b"-NOPERM no MULTI\r\n", b"+OK\r\n:1\r\n", b"+QUEUED\r\n"])
def test_an_engine_that_does_not_queue_ends_the_connection(wrong: bytes) -> None:
    talk = Talk()
    talk.say(MULTI, INCR, GET, EXEC)
    talk.engine.feed(wrong)
    assert talk.engine.ended and talk.client.frames()[0].startswith(b"-INDETERMINATE")


@pytest.mark.parametrize("bad", [(b"x", b"0"), (b"16384", b"0"), (b"0", b"-1"), (b"", b"0")])
def test_a_piece_of_a_peer_that_makes_no_sense_ends_its_connection(bad: tuple[bytes, bytes]) -> None:
    talk = Talk(cluster=True)
    talk.say(request("CACHECLUSTER", "HELLO", "2", "token", "uid-0"))
    assert talk.say(wrapped([b"CACHECLUSTER", b"AT", bad[0], b"w", bad[1], INCR]))[0].startswith(
        b"-ERR CACHECLUSTER AT"
    )
    assert talk.client.ended and not talk.engine.written


def test_a_transaction_waits_for_the_gate_and_then_goes_in_one_piece() -> None:
    talk = Talk()
    talk.world.set_gate(0, 2, 0)
    talk.world.router.use_gate(0, 2)
    assert talk.say(MULTI, INCR, EXEC, GET)[2:] == []
    assert not talk.engine.written
    talk.world.set_gate(0, 3, 2)
    talk.world.router.use_gate(0, 3)
    talk.world.loop.turn()
    assert talk.engine.written == MULTI + INCR + EXEC + GET


@pytest.mark.parametrize("answered", [b"", b"+OK\r\n", b"+OK\r\n+QUEUED\r\n"])
def test_a_transaction_whose_connection_breaks_may_have_been_executed_unless_it_only_reads(answered: bytes) -> None:
    for command, again in ((INCR, False), (GET, True)):
        talk = Talk()
        talk.say(MULTI, command, EXEC)
        talk.engine.feed(answered)
        talk.engine.protocol.connection_lost(None)
        talk.world.loop.wait()
        replies = talk.client.frames()
        assert [reply[:14] for reply in replies] == ([] if again else [b"-INDETERMINATE"])
        if again:
            wait_until(lambda: talk.world.router.tick() or talk.world.dialled, 5, "the engine is dialled again")  # noqa: B023
            (engine,) = talk.world.engines()
            assert engine.written == MULTI + GET + EXEC
            engine.feed(b"+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n")
            assert talk.client.frames() == [b"*1\r\n$-1\r\n"]


def wrapped(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def test_a_transaction_goes_to_a_peer_as_one_request_and_back_to_an_engine_as_it_is() -> None:
    talk = Talk()
    talk.world.use_routes([0, 1], "uid-1", "uid-0")
    talk.say(MULTI, INCR, GET, EXEC)
    (peer,) = talk.world.engines()
    slot = b"%d" % slot_of_key(KEY.encode())
    words = [b"CACHECLUSTER", b"AT", slot, b"w", b"3", MULTI + INCR + GET + EXEC]
    assert split_requests(peer.written) == ([words], b"")
    peer.feed(b"-CCGATE 0\r\n")
    talk.world.use_routes([0, 1], "uid-0", "uid-0")
    talk.world.loop.wait()
    assert talk.engine.written == MULTI + INCR + GET + EXEC
    talk.engine.feed(REPLIES + RESULTS)
    assert talk.client.frames() == [RESULTS]


def test_a_peers_transaction_has_one_reply_or_one_refusal() -> None:
    talk = Talk(cluster=True)
    talk.say(request("CACHECLUSTER", "HELLO", "2", "token", "uid-0"))
    slot = b"%d" % slot_of_key(KEY.encode())
    piece = wrapped([b"CACHECLUSTER", b"AT", slot, b"w", b"3", MULTI + INCR + GET + EXEC])
    assert talk.say(piece) == []
    assert talk.engine.written == MULTI + INCR + GET + EXEC
    talk.engine.feed(REPLIES + RESULTS)
    assert talk.client.frames() == [RESULTS]
    talk.world.set_gate(0, 2, 0)
    talk.world.router.use_gate(0, 2)
    assert talk.say(piece) == [b"-CCGATE 0\r\n"]


def test_on_the_cluster_port_a_key_of_another_pod_is_redirected_and_nothing_is_executed() -> None:
    talk = Talk(cluster=True)
    talk.world.use_routes([0, 1], "uid-1", "uid-0")
    replies = talk.say(MULTI, INCR, EXEC)
    assert replies[1].startswith(b"-MOVED ") and replies[2].startswith(b"-EXECABORT ")
    talk.world.use_routes([0, 1], "uid-0", "uid-0")
    talk.say(MULTI, INCR)
    talk.world.use_routes([0, 1], "uid-1", "uid-0")
    assert talk.say(EXEC) == [], "it was sent away from there just now"
    talk.world.loop.wait()
    assert talk.client.frames()[0].startswith(b"-MOVED ")


def test_only_a_peer_may_send_a_piece() -> None:
    talk = Talk(cluster=True)
    assert talk.say(wrapped([b"CACHECLUSTER", b"AT", b"0", b"w", b"2", MULTI + INCR + EXEC]))[0].startswith(b"-NOAUTH ")
    assert not talk.engine.written
