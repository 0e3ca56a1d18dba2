"""`spec.reads: replica` and `nearest-zone` in a router: what replicas may answer, and what the primary does."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import Transport, World, key_of

from cachecluster_core.slots import slot_of_key
from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.answers import Answers

pytestmark = pytest.mark.t0

ASIDE_SILENCE_S: float = vars(core)["ASIDE_SILENCE_S"]
KEY, OTHER = key_of(0), key_of(1)
GET, SET = request("GET", KEY), request("SET", KEY, "1")
NIL, OLD, NEW = b"$-1\r\n", b"$3\r\nold\r\n", b"$3\r\nnew\r\n"
MOVED = f"-MOVED {slot_of_key(KEY.encode())} 127.0.0.2:7379\r\n".encode()


class Pod:
    """A pod with a replica of partition 0, whose primary is on pod uid-1, and the primary of partition 1."""

    def __init__(self, reads_from: str = "replica", readable_s: float = 1000.0, answer: Any = None) -> None:
        self.world = World(answer=answer)
        self.world.reads_from = reads_from
        self.use_routes()
        self.world.set_readable(0, readable_s)

    def use_routes(self) -> None:
        self.world.use_routes([0, 1], "uid-1", "uid-0")

    def connected(self, client: Transport) -> tuple[Transport, Transport]:
        """The connections to the replica and to the primary's pod, with nothing outstanding."""
        client.feed(GET)
        made = {engine.protocol.target.uid: engine for engine in self.world.engines()}
        self.world.loop.turn()
        replica, primary = made[None], made["uid-1"]
        assert primary.written == GET and replica.written == b"", "it is not known yet whether the replica answers"
        primary.written = b""
        primary.feed(NIL)
        assert client.frames() == [NIL]
        return replica, primary

    def replica_reads(self) -> int:
        count: int = self.world.router.metrics()["replicaReads"]
        return count


def sent(world: World, backend: Transport) -> bytes:
    """What was written to a backend in this turn; forgotten."""
    world.loop.turn()
    data, backend.written = backend.written, b""
    return data


def test_the_copy_on_the_pod_answers_reads_and_the_primary_writes() -> None:
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    client.feed(GET)
    assert (sent(pod.world, replica), sent(pod.world, primary)) == (GET, b"")
    replica.feed(OLD)
    client.feed(SET)
    assert (sent(pod.world, replica), sent(pod.world, primary)) == (b"", SET)
    primary.feed(b"+OK\r\n")
    assert client.frames() == [OLD, b"+OK\r\n"]
    assert pod.replica_reads() == 1


@pytest.mark.parametrize("reads_from", ["primary", "replica"])
def test_a_copy_that_may_not_be_read_is_not_asked(reads_from: str) -> None:
    pod = Pod(reads_from, readable_s=1000.0 if reads_from == "primary" else -0.001)
    client = pod.world.client()
    client.feed(GET)
    (primary,) = pod.world.engines()
    assert primary.protocol.target.uid == "uid-1" and primary.written == GET
    primary.feed(NEW)
    assert client.frames() == [NEW]


def test_what_comes_from_a_copy_that_may_be_read_no_more_is_not_told() -> None:
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    client.feed(GET)
    assert sent(pod.world, replica) == GET
    pod.world.set_readable(0, -0.001)
    replica.feed(OLD)
    assert client.frames() == [] and sent(pod.world, primary) == GET
    primary.feed(NEW)
    assert client.frames() == [NEW] and pod.replica_reads() == 0


@pytest.mark.parametrize("refusal", [b"-LOADING the dataset\r\n", b"-BUSY a script\r\n", b"-ERR unknown command\r\n"])
def test_a_copy_that_cannot_tell_what_it_holds_leaves_the_answer_to_the_primary(refusal: bytes) -> None:
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    client.feed(GET)
    replica.feed(refusal)
    assert sent(pod.world, primary) == GET
    primary.feed(NEW)
    assert client.frames() == [NEW]


def test_an_error_of_the_command_is_the_answer() -> None:
    pod = Pod()
    client = pod.world.client()
    replica, _ = pod.connected(client)
    client.feed(GET)
    pod.world.loop.turn()
    replica.feed(b"-WRONGTYPE Operation\r\n")
    assert client.frames() == [b"-WRONGTYPE Operation\r\n"]


@pytest.mark.parametrize("lost", ["connection", "silence"])
def test_what_a_lost_copy_was_asked_the_primary_answers(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    client.feed(GET * 2)
    assert sent(pod.world, replica) == GET * 2
    if lost == "connection":
        replica.protocol.connection_lost(None)
    else:
        monkeypatch.setitem(vars(core), "ASIDE_SILENCE_S", -1.0)
        pod.world.router.tick()
        assert not replica.ended, "it may answer something slow"
        pod.world.set_readable(0, -0.001)
        pod.world.router.tick()
        assert replica.ended
    assert sent(pod.world, primary) == GET * 2
    primary.feed(NEW * 2)
    assert client.frames() == [NEW, NEW]


def test_a_copy_that_was_not_asked_for_long_is_not_called_silent_before_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod = Pod()
    client = pod.world.client()
    replica, _ = pod.connected(client)
    monkeypatch.setitem(vars(core), "ASIDE_SILENCE_S", -1.0)
    client.feed(GET)
    pod.world.set_readable(0, -0.001)
    pod.world.router.tick()
    assert not replica.ended
    pod.world.set_readable(0)
    assert sent(pod.world, replica) == GET
    replica.feed(OLD)
    assert client.frames() == [OLD]


def test_reads_that_the_primary_answered_after_all_are_counted_once() -> None:
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    before = pod.world.router.metrics()
    client.feed(GET)
    assert sent(pod.world, replica) == GET
    replica.feed(b"-LOADING the dataset\r\n")
    assert sent(pod.world, primary) == GET
    after = pod.world.router.metrics()
    assert after["partitions"][0] - before["partitions"][0] == 1
    assert after["retried"] == before["retried"], "nothing was lost"


def test_replies_keep_the_order_of_the_commands_whoever_answers_first() -> None:
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    client.feed(request("GET", OTHER) + GET + request("EVAL_RO", "return 1", "1", KEY))
    pod.world.loop.turn()
    (engine,) = pod.world.engines()
    assert sent(pod.world, replica) == GET
    primary.feed(b":1\r\n")
    replica.feed(OLD)
    assert client.frames() == []
    engine.feed(NEW)
    assert client.frames() == [NEW, OLD, b":1\r\n"]


def test_a_write_waits_for_the_reads_before_it_and_reads_behind_it_go_with_it() -> None:
    """Or a read could tell what a later command of its own client has done."""
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    client.feed(GET + SET + GET)
    assert (sent(pod.world, replica), sent(pod.world, primary)) == (GET, b"")
    replica.feed(OLD)
    assert (sent(pod.world, replica), sent(pod.world, primary)) == (b"", SET + GET)
    primary.feed(b"+OK\r\n" + NEW)
    assert client.frames() == [OLD, b"+OK\r\n", NEW]
    client.feed(GET)
    assert sent(pod.world, replica) == GET, "nothing of it is outstanding"


def test_reads_that_a_write_depends_on_go_to_the_primary() -> None:
    pod = Pod()
    client = pod.world.client()
    replica, primary = pod.connected(client)
    client.feed(request("WATCH", KEY))
    pod.world.loop.turn()
    primary.feed(b"-CCHELD 1\r\n>2\r\n:1\r\n+OK\r\n")
    assert client.frames() == [b"+OK\r\n"]
    sent(pod.world, primary)
    client.feed(GET)
    assert (sent(pod.world, replica), sent(pod.world, primary)) == (b"", GET)


def test_the_parts_of_a_read_go_each_to_its_copy() -> None:
    pod = Pod()
    client = pod.world.client()
    replica, _ = pod.connected(client)
    client.feed(request("MGET", KEY, OTHER, KEY))
    pod.world.loop.turn()
    (engine,) = pod.world.engines()
    assert sent(pod.world, replica) == request("MGET", KEY, KEY) and engine.written == request("MGET", OTHER)
    replica.feed(b"*2\r\n" + OLD + OLD)
    engine.feed(b"*1\r\n" + NEW)
    assert client.frames() == [b"*3\r\n" + OLD + NEW + OLD]


@pytest.mark.parametrize("cluster", [False, True])
def test_a_client_may_ask_for_the_primary(cluster: bool) -> None:
    pod = Pod(answer=Answers(lambda: b"token"))
    client = pod.world.client(cluster)
    if cluster:
        client.feed(request("READONLY") + GET)
        pod.world.engines()
        pod.world.loop.wait()
        client.feed(request("CACHECLUSTER", "READS", "primary") + GET)
        pod.world.loop.wait()
        assert client.frames() == [b"+OK\r\n", MOVED, b"+OK\r\n", MOVED]
        client.feed(request("MULTI") + request("CACHECLUSTER", "READS", "default") + request("EXEC"))
        assert [reply[:1] for reply in client.frames()] == [b"+", b"-", b"-"], "it is no part of a transaction"
        return
    replica, primary = pod.connected(client)
    client.feed(request("CACHECLUSTER", "READS", "PRIMARY") + GET)
    assert (sent(pod.world, replica), sent(pod.world, primary)) == (b"", GET)
    primary.feed(NEW)
    client.feed(request("CACHECLUSTER", "READS", "default") + GET)
    assert (sent(pod.world, replica), sent(pod.world, primary)) == (GET, b"")
    replica.feed(OLD)
    client.feed(request("CACHECLUSTER", "READS", "copies"))
    unknown = b"-ERR CACHECLUSTER READS takes primary or default\r\n"
    assert client.frames() == [b"+OK\r\n", NEW, b"+OK\r\n", OLD, unknown]


def test_a_cluster_aware_client_is_answered_by_a_replica_only_after_readonly() -> None:
    pod = Pod(answer=Answers(lambda: b"token"))
    client = pod.world.client(cluster=True)
    client.feed(GET)
    assert client.frames() == [MOVED]
    client.feed(request("READONLY") + GET)
    (replica,) = pod.world.engines()
    pod.world.loop.wait()
    assert client.frames() == [b"+OK\r\n", MOVED], "it was not connected yet"
    client.feed(GET)
    assert sent(pod.world, replica) == GET
    replica.feed(OLD)
    client.feed(GET)
    replica.feed(b"-LOADING the dataset\r\n")
    client.feed(SET + request("READWRITE") + GET)
    for _ in range(2):
        pod.world.loop.wait()
    assert client.frames() == [OLD, MOVED, MOVED, b"+OK\r\n", MOVED]


def zoned(own: str, primary: str, other: str, readable_s: float) -> Pod:
    pod = Pod("nearest-zone", readable_s)
    pod.world.zones = {"uid-0": own, "uid-1": primary, "uid-2": other}
    pod.world.replicas = [["uid-2"], []]
    pod.use_routes()
    return pod


def near_read() -> bytes:
    return request("CACHECLUSTER", "NEAR", str(slot_of_key(KEY.encode())), GET.decode())


def test_a_replica_in_the_zone_answers_when_the_primary_is_in_another() -> None:
    pod = zoned("a", "b", "a", readable_s=-1.0)
    client = pod.world.client()
    client.feed(GET)
    made = {engine.protocol.target.uid: engine for engine in pod.world.engines()}
    made["uid-1"].feed(NIL)
    client.frames()
    client.feed(GET)
    assert sent(pod.world, made["uid-2"]) == near_read()
    made["uid-2"].feed(OLD)
    assert client.frames() == [OLD] and pod.replica_reads() == 1
    sent(pod.world, made["uid-1"])
    for refusal in (b"-CCFAR\r\n", b"-ERR unknown CACHECLUSTER command; known are HELLO\r\n"):
        pod = zoned("a", "b", "a", readable_s=-1.0)
        client = pod.world.client()
        client.feed(GET)
        made = {engine.protocol.target.uid: engine for engine in pod.world.engines()}
        made["uid-1"].feed(NIL)
        client.feed(GET)
        pod.world.loop.turn()
        made["uid-1"].written = made["uid-2"].written = b""
        made["uid-2"].feed(refusal)
        client.feed(GET)
        assert (sent(pod.world, made["uid-2"]), sent(pod.world, made["uid-1"])) == (b"", GET * 2)
        made["uid-1"].feed(NEW * 2)
        assert client.frames() == [NIL, NEW, NEW] and pod.replica_reads() == 0


def test_what_is_too_long_to_be_wrapped_for_a_peer_ends_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = zoned("a", "b", "a", readable_s=-1.0)
    client = pod.world.client()
    client.feed(GET)
    made = {engine.protocol.target.uid: engine for engine in pod.world.engines()}
    made["uid-1"].feed(NIL)
    assert sent(pod.world, made["uid-1"]) == GET
    monkeypatch.setitem(vars(core), "WRAPPED_MAX_BYTES", len(GET) - 1)
    client.feed(GET + request("PUBLISH", KEY, "x" * 100) + GET)
    for _ in range(2):  # a write, and what is behind it, waits for the reads before it
        assert (sent(pod.world, made["uid-1"]), sent(pod.world, made["uid-2"])) == (GET, b"")
        made["uid-1"].feed(NEW)
    assert client.frames() == [NIL, NEW, vars(core)["TOO_LONG_FOR_PEER"], NEW]


@pytest.mark.parametrize(
    ("own", "primary", "other"), [("a", "a", "a"), ("a", "b", "b"), ("", "", ""), ("", "b", ""), ("a", "", "a")]
)
def test_another_pod_is_asked_only_in_this_zone_and_only_when_the_primary_is_in_another(
    own: str, primary: str, other: str
) -> None:
    pod = zoned(own, primary, other, readable_s=-1.0)
    pod.world.client().feed(GET)
    assert [engine.protocol.target.uid for engine in pod.world.engines()] == ["uid-1"]


def test_the_copy_here_comes_before_those_in_the_zone() -> None:
    pod = zoned("a", "b", "a", readable_s=1000.0)
    client = pod.world.client()
    client.feed(GET)
    made = {engine.protocol.target.uid: engine for engine in pod.world.engines()}
    made["uid-1"].feed(NIL)
    client.feed(GET)
    assert sent(pod.world, made[None]) == GET and sent(pod.world, made["uid-2"]) == b""


def test_a_peer_is_answered_by_a_copy_that_may_be_read_or_told_that_there_is_none() -> None:
    pod = Pod(readable_s=-1.0, answer=Answers(lambda: b"token"))
    peer = pod.world.client(cluster=True)
    peer.feed(request("CACHECLUSTER", "HELLO", "2", "token", "uid-0") + near_read())
    assert peer.frames() == [b"+OK pieces\r\n", b"-CCFAR\r\n"]
    pod.world.set_readable(0)
    peer.feed(near_read())
    (replica,) = pod.world.engines()
    assert peer.frames() == [b"-CCFAR\r\n"]
    peer.feed(near_read() * 3)
    assert sent(pod.world, replica) == GET * 3
    replica.feed(OLD + b"-LOADING the dataset\r\n")
    pod.world.set_readable(0, -0.001)
    replica.feed(OLD)
    assert peer.frames() == [OLD, b"-CCFAR\r\n", b"-CCFAR\r\n"]
    assert pod.replica_reads() == 0, "the router of its client counts it"


def test_a_pod_in_the_zone_that_is_silent_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = zoned("a", "b", "a", readable_s=-1.0)
    client = pod.world.client()
    client.feed(GET)
    made = {engine.protocol.target.uid: engine for engine in pod.world.engines()}
    made["uid-1"].feed(NIL)
    client.frames()
    client.feed(GET)
    assert sent(pod.world, made["uid-2"]) == near_read()
    sent(pod.world, made["uid-1"])
    monkeypatch.setitem(vars(core), "ASIDE_SILENCE_S", -1.0)
    pod.world.router.tick()
    assert made["uid-2"].ended and sent(pod.world, made["uid-1"]) == GET
    made["uid-1"].feed(NEW)
    pod.world.loop.wait()
    pod.world.engines()
    client.feed(GET)
    assert sent(pod.world, made["uid-1"]) == GET, "its answer would be waited for again"
