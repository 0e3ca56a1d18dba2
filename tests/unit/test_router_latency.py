"""The latency that a router tells of: one request in sixteen, by family of command and by partition."""

from __future__ import annotations

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import Transport, World, connected_engine, key_of

from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.command_table import FAMILIES
from cachecluster_sidecar.router.commands import load_commands, load_docs
from cachecluster_sidecar.router.generate_commands import UNTIMED

pytestmark = pytest.mark.t0

SAMPLE: int = vars(core)["LATENCY_SAMPLE"]
KEY = key_of(0)


def families(world: World) -> dict[str, int]:
    """How many samples there are of each family."""
    found: dict[str, list[int]] = world.router.metrics()["latency"]["families"]
    return {family: sum(buckets) for family, buckets in found.items()}


def partitions(world: World) -> list[int]:
    """How many samples there are of each partition."""
    return [count for count, _ in world.router.metrics()["latency"]["partitions"]]


def ask_often(world: World, client: Transport, frame: bytes, *answers: tuple[Transport, bytes]) -> None:
    """One after the other, as many requests as have two samples among them."""
    for _ in range(2 * SAMPLE):
        client.feed(frame)
        world.loop.turn()
        for engine, reply in answers:
            engine.feed(reply)
        assert client.frames()


@pytest.mark.parametrize(
    ("family", "frame"),
    [
        ("string", request("GET", KEY)),
        ("string", request("setbit", KEY, "1", "1")),
        ("string", request("PFADD", KEY, "a")),
        ("hash", request("HSET", KEY, "f", "v")),
        ("list", request("LPUSH", KEY, "a")),
        ("set", request("SADD", KEY, "a")),
        ("sorted-set", request("ZADD", KEY, "1", "a")),
        ("sorted-set", request("GEOPOS", KEY, "a")),
        ("stream", request("XLEN", KEY)),
        ("stream", request("XGROUP", "DESTROY", KEY, "g")),
        ("generic", request("EXPIRE", KEY, "10")),
        ("scripting", request("EVAL", "return 1", "1", KEY)),
        ("pubsub", request("SPUBLISH", KEY, "a")),
        ("server", request("MEMORY", "USAGE", KEY)),
    ],
)
def test_a_command_counts_in_its_family(family: str, frame: bytes) -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    ask_often(world, client, frame, (engine, b":1\r\n"))
    assert families(world) == {family: 2} and partitions(world) == [2, 0]


def test_a_transaction_counts_once_whatever_is_in_it() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    frame = request("MULTI") + request("GET", KEY) + request("EXEC")
    ask_often(world, client, frame, (engine, b"+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n"))
    assert families(world) == {"transactions": 2} and partitions(world) == [2, 0]


@pytest.mark.parametrize(
    ("family", "frame", "reply"),
    [("string", request("MGET", KEY, key_of(1)), b"*1\r\n$-1\r\n"), ("server", request("DBSIZE"), b":1\r\n")],
)
def test_a_command_of_several_partitions_counts_once_in_its_family_and_in_each_of_them(
    family: str, frame: bytes, reply: bytes
) -> None:
    world = World()
    client = world.client()
    zero, one = connected_engine(world, client, 0), connected_engine(world, client, 1)
    ask_often(world, client, frame, (zero, reply), (one, reply))
    assert families(world) == {family: 2} and partitions(world) == [2, 2]


def test_a_slow_partition_shows_and_does_not_slow_what_is_behind_it_in_its_clients_order() -> None:
    world = World()
    client = world.client()
    zero, one = connected_engine(world, client, 0), connected_engine(world, client, 1)
    client.feed(request("GET", key_of(0)) * SAMPLE + request("GET", key_of(1)) * SAMPLE)
    world.loop.turn()
    one.feed(b"$-1\r\n" * SAMPLE)
    assert partitions(world) == [0, 1] and client.frames() == []
    zero.feed(b"$-1\r\n" * SAMPLE)
    assert partitions(world) == [1, 1] and len(client.frames()) == 2 * SAMPLE
    (_, slow_s), (_, fast_s) = world.router.metrics()["latency"]["partitions"]
    assert slow_s > fast_s > 0


def test_a_forwarded_request_is_timed_where_its_client_is() -> None:
    world = World()
    world.use_routes([0, 1], "uid-1", "uid-0")
    client = world.client()
    peer = connected_engine(world, client)
    ask_often(world, client, request("HGET", KEY, "f"), (peer, b"$-1\r\n"))
    assert families(world) == {"hash": 2} and partitions(world) == [2, 0]
    assert world.router.metrics()["requests"] == {
        "local": 0,
        "forwarded": 1 + 2 * SAMPLE,
        "split": 0,
        "answered": 0,
    }


def test_a_request_of_a_peer_is_neither_timed_nor_counted_as_a_clients() -> None:
    world = World()
    engine = connected_engine(world, world.client())
    peer = world.client(cluster=True)
    peer.feed(request("CACHECLUSTER", "HELLO"))
    assert peer.frames() == [b"+OK\r\n"]
    ask_often(world, peer, request("GET", KEY), (engine, b"$-1\r\n"))
    metrics = world.router.metrics()
    assert families(world) == {} and partitions(world) == [0, 0]
    assert metrics["requests"]["local"] == 1 and metrics["relayed"] == 2 * SAMPLE


def test_what_the_router_answers_itself_is_not_timed() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(request("GET", KEY) + request("PING") * (SAMPLE - 2))
    world.loop.turn()
    engine.feed(b"$-1\r\n")
    assert len(client.frames()) == SAMPLE - 1
    ask_often(world, client, request("PING"))
    assert families(world) == {}


def test_every_command_that_partitions_answer_has_a_family_and_those_of_a_group_the_same() -> None:
    docs = load_docs()
    by_group: dict[str, set[str]] = {}
    for entry in load_commands():
        if entry["kind"] not in UNTIMED:
            by_group.setdefault(docs[entry["name"]]["doc"]["group"], set()).add(entry["family"])
        else:
            assert "family" not in entry, entry["name"]
    assert all(len(found) == 1 for found in by_group.values())
    assert set().union(*by_group.values()) == set(FAMILIES)


def test_requests_of_peers_do_not_thin_out_the_sample() -> None:
    world = World()
    client, peer = world.client(), world.client(cluster=True)
    engine = connected_engine(world, client)
    peer.protocol.become_peer(2)
    for _ in range(4 * SAMPLE):
        for sender in (client, peer):
            sender.feed(request("GET", KEY))
            world.loop.turn()
            engine.feed(b"$-1\r\n")
    assert families(world)["string"] >= 4
