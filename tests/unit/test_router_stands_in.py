"""A leaving pod's partitions, and the pods that stand in for it: one router, without sockets."""

from __future__ import annotations

import time

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import Transport, World, connected_engine, key_of, scan

from cachecluster_sidecar.router import core

pytestmark = pytest.mark.t0

RETRY_FIRST_S: float = vars(core)["RETRY_FIRST_S"]


def asked(client: Transport, *words: str) -> bytes:
    """The only reply, which needs no engine."""
    client.feed(request(*words))
    (reply,) = client.frames()
    return reply


def test_a_client_is_not_sent_to_and_fro_between_pods_that_could_stand_in() -> None:
    """This router knows an older map, by which another pod is announced, than the one that sent the client here."""
    world = World()
    client = world.client(cluster=True)
    world.use_routes([0, 1], "uid-1", "uid-1", announced=["uid-2", "uid-2"], stands_in=[True, False])
    client.feed(request("GET", key_of(0)))
    (peer,) = world.engines()
    assert peer.written == request("GET", key_of(0)), "it goes to the primary"
    peer.feed(b"$-1\r\n")
    assert client.frames() == [b"$-1\r\n"]
    assert asked(client, "GET", key_of(1)).endswith(b" 127.0.0.3:7379\r\n")
    assert asked(client, "DBSIZE") == b":0\r\n", "they count where they are announced"


def test_a_pod_that_cannot_be_reached_does_not_stand_in() -> None:
    world = World()
    world.use_routes([0, 1], "uid-1", "uid-1", announced=["uid-2", "uid-2"])

    def sent_to() -> bytes:
        return asked(world.client(cluster=True), "GET", key_of(0)).split()[-1]

    assert sent_to() == b"127.0.0.3:7379"
    (backend,) = world.dialled
    world.dialled.clear()
    backend.failed("refused")
    assert sent_to() == b"127.0.0.2:7379", "the primary serves until it is empty"
    assert world.router.announced() == ["uid-1", "uid-1"]
    time.sleep(RETRY_FIRST_S + 0.01)
    sent_to()
    world.engines()
    assert (sent_to(), world.router.announced()) == (b"127.0.0.3:7379", ["uid-2", "uid-2"])


def test_a_pod_that_leads_nothing_serves_commands_without_keys_where_it_stands_in() -> None:
    world = World()
    client = world.client(cluster=True)
    world.use_routes([0, 1], "uid-2", "uid-1", announced=["uid-2", "uid-0"])
    client.feed(request("EVAL", "return 1", "0"))
    (peer,) = world.engines()
    assert request("EVAL", "return 1", "0") in peer.written
    peer.feed(b":1\r\n")
    assert client.frames() == [b":1\r\n"]


def test_a_leaving_pod_asks_its_engines_only_what_may_be_asked_twice() -> None:
    world = World()
    client = world.client(cluster=True)
    world.use_routes([0, 1], "uid-0", "uid-0", announced=["uid-1", "uid-1"])
    assert asked(client, "DBSIZE") == b":0\r\n" and asked(client, "KEYS", "*") == b"*0\r\n"
    assert asked(client, "FUNCTION", "DELETE", "x") == b"+OK\r\n", "the pod that stands in does it"
    assert asked(client, "FUNCTION", "LOAD", "#!lua name=x").startswith(b"-TRYAGAIN no primary"), (
        "loaded twice it fails"
    )
    client.feed(request("FUNCTION", "LIST"))
    engines = [it for it in world.engines() if it.written]
    assert [engine.written for engine in engines] == [request("FUNCTION", "LIST")] * 2


def test_a_leaving_pod_counts_its_keys_where_nobody_can_stand_in() -> None:
    world = World()
    client = world.client(cluster=True)
    world.use_routes([0, 1], "uid-0", "uid-0", announced=["uid-1", "uid-1"])
    world.router.tick()
    (backend,) = world.dialled
    world.dialled.clear()
    backend.failed("refused")
    assert world.router.announced() == ["uid-0", "uid-0"]
    client.feed(request("DBSIZE"))
    for engine in world.engines():
        if engine.written == request("DBSIZE"):
            engine.feed(b":2\r\n")
    assert client.frames() == [b":4\r\n"]


def test_a_scan_that_has_begun_ends_where_its_partition_is_taken() -> None:
    world = World()
    client = world.client(cluster=True)
    engine = connected_engine(world, client)
    _, cursor = scan(world, client, engine, b"0", b"*2\r\n$1\r\n5\r\n*0\r\n")
    world.use_routes([0, 1], "uid-1", "uid-1", announced=["uid-2", "uid-2"], stands_in=[True, True])
    assert asked(client, "SCAN", "0") == b"*2\r\n$1\r\n0\r\n*0\r\n", "it begins where it is announced"
    client.feed(request("SCAN", cursor.decode()))
    (peer,) = world.engines()
    assert b"SCAN" in peer.written


def test_a_peers_command_is_not_passed_on_by_a_pod_that_stands_in() -> None:
    world = World()
    peer = world.client(cluster=True)
    assert asked(peer, "CACHECLUSTER", "HELLO") == b"+OK\r\n"
    world.use_routes([0, 1], "uid-1", "uid-1", announced=["uid-0", "uid-0"])
    assert asked(peer, "GET", key_of(0)) == b"-CCGATE 0\r\n"
    assert not world.dialled
