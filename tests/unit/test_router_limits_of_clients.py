"""What one client may take of a router: enforced, counted, and changed while the router runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.router_conversation import request
from tests.unit.router_in_process import BIG, Transport, World, connected_engine, key_of

from cachecluster_core.hashring import Settings
from cachecluster_sidecar.router import core, info

pytestmark = pytest.mark.t0

GET = request("GET", key_of(0))
MIB = 1 << 20


def disconnected(world: World) -> dict[str, int]:
    """Why clients were disconnected, and how many."""
    counts: dict[str, int] = world.router.metrics()["disconnected"]
    return {reason: count for reason, count in counts.items() if count}


def tick_until(world: World, condition: Callable[[], bool]) -> None:
    """Let the router look at its times until something has come of it."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        world.router.tick()


def peer_of(world: World) -> Transport:
    peer = world.client(cluster=True)
    peer.feed(request("CACHECLUSTER", "HELLO"))
    assert peer.frames() == [b"+OK\r\n"]
    return peer


def monitoring(world: World) -> Transport:
    """A slow client that is shown every command."""
    client = world.client(slow=True)
    client.protocol.monitor()
    return client


def subscribed(world: World) -> Transport:
    client = world.client()
    client.feed(request("SUBSCRIBE", "news"))
    for other in world.engines():
        other.feed(b"+PONG\r\n" * other.written.count(b"PING"))
    assert client.frames()[-1].startswith(b"*3\r\n$9\r\nsubscribe")
    return client


def asked(world: World, engine: Transport) -> int:
    """How many commands the engine was given since the last time."""
    world.loop.turn()
    count = engine.written.count(GET)
    engine.written = b""
    return count


def test_a_client_is_not_read_from_while_too_many_of_its_commands_are_in_flight() -> None:
    world = World()
    world.change_settings(pipelinedCommands=4)
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(GET * 20)
    assert asked(world, engine) == 4
    assert world.router.metrics()["pauses"] == 1
    engine.feed(b"$-1\r\n" * 2)
    assert asked(world, engine) == 0, "more than half of them have to be answered"
    engine.feed(b"$-1\r\n")
    assert asked(world, engine) == 3 and world.router.metrics()["pauses"] == 2
    world.change_settings(pipelinedCommands=100)
    engine.feed(b"$-1\r\n")
    assert asked(world, engine) == 13
    engine.feed(b"$-1\r\n" * 16)
    assert len(client.frames()) == 20 and world.router.metrics()["pauses"] == 2


def test_one_command_in_flight_is_the_least() -> None:
    world = World()
    world.change_settings(pipelinedCommands=1)
    client = world.client()
    engine = connected_engine(world, client)
    client.feed(GET * 3)
    for _ in range(3):
        assert asked(world, engine) == 1
        engine.feed(b"$-1\r\n")
    assert len(client.frames()) == 3


def test_a_peer_carries_more_commands_than_a_client_may_have_in_flight() -> None:
    world = World()
    engine = connected_engine(world, world.client())
    world.change_settings(pipelinedCommands=1)
    peer_of(world).feed(GET * 50)
    assert asked(world, engine) == 50 and world.router.metrics()["pauses"] == 0


@pytest.mark.parametrize("sent", [5000, 3000])
def test_a_client_that_sends_a_longer_request_is_told_so_and_disconnected(sent: int) -> None:
    """Whether all of it has come, or only more than there may be."""
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    big = request("SET", key_of(0), "x" * 4000)
    client.feed(big + big)
    world.loop.turn()
    assert engine.written == big + big
    engine.feed(b"+OK\r\n" * 2)
    engine.written = b""
    world.change_settings(requestMaxBytes=2000)
    client.feed(GET * 100)
    assert asked(world, engine) == 100, "together they may be longer"
    client.feed(big[:sent])
    engine.feed(b"$-1\r\n" * 100)
    assert client.frames()[-1] == b"-ERR Protocol error: a request has more than 2000 bytes\r\n"
    assert client.ended and engine.written == b"" and disconnected(world) == {"request-size": 1}
    assert info.config(world.router, world.client().protocol)["proto-max-bulk-len"] == "2000"


def test_a_peer_may_send_longer_requests_than_a_client() -> None:
    world = World()
    engine = connected_engine(world, world.client())
    world.change_settings(requestMaxBytes=2000)
    big = request("SET", key_of(0), "x" * 4000)
    peer = peer_of(world)
    peer.feed(big)
    world.loop.turn()
    assert engine.written == big and not peer.ended


def answered_until_cut(engine: Transport, client: Transport, most: int) -> int:
    """How many large replies the engine gave until the client was disconnected."""
    for given in range(most):
        if client.ended:
            return given
        engine.feed(BIG)
    return most


def test_a_client_that_leaves_too_much_unread_is_disconnected() -> None:
    world = World()
    engine = connected_engine(world, world.client())
    before = world.client(slow=True)
    before.feed(GET * 50)
    assert asked(world, engine) == 50
    assert answered_until_cut(engine, before, 50) == 50 and disconnected(world) == {}
    assert world.router.metrics()["pauses"] == 1, "nothing more is read of it"
    world.change_settings(unreadRepliesBytes=MIB)
    after = world.client(slow=True)
    after.feed(GET * 50)
    assert asked(world, engine) == 50
    assert answered_until_cut(engine, after, 50) == MIB // len(BIG) + 1
    assert disconnected(world) == {"slow-reader": 1}


def test_replies_that_wait_behind_one_are_bounded_by_the_same_limit() -> None:
    world = World()
    world.change_settings(unreadRepliesBytes=4 * MIB)
    client = world.client()
    connected_engine(world, client, 0)
    one = connected_engine(world, client, 1)
    client.feed(GET + request("GET", key_of(1)) * 50)
    world.loop.turn()
    assert answered_until_cut(one, client, 50) == 4 * MIB // len(BIG) + 1
    assert disconnected(world) == {"slow-reader": 1}
    made = len(world.answered)
    other = world.client()
    other.feed(GET + request("COMMAND") * 50)
    assert len(world.answered) - made == MIB // 2 // len(BIG) + 1, "from an eighth of it on nothing is added"


def test_one_that_listens_and_leaves_too_much_unread_is_disconnected() -> None:
    world = World()
    world.change_settings(unreadMessagesBytes=MIB)
    first, busy = monitoring(world), world.client()
    seen = request("MULTI") + request("DISCARD")
    while not first.ended:
        busy.feed(seen * 100)
    assert MIB - 100_000 < len(first.written) <= MIB and disconnected(world) == {"messages": 1}
    second = monitoring(world)
    world.change_settings(unreadMessagesBytes=2 * MIB)
    while not second.ended:
        busy.feed(seen * 100)
    assert 2 * MIB - 100_000 < len(second.written) <= 2 * MIB and disconnected(world) == {"messages": 2}


def parking(world: World, command: bytes = GET) -> Transport:
    """A client whose command waits: partition 0 has no primary."""
    client = world.client()
    client.feed(command)
    return client


def test_room_for_what_is_parked_is_changed_while_the_router_runs() -> None:
    world = World()
    world.use_routes([0, 1], "", "uid-0")
    parked = parking(world, GET * 3)
    assert world.router.metrics()["parkedBytes"] == 3 * len(GET) and parked.frames() == []
    world.settings["parkMaxBytes"] = 4 * len(GET)
    world.use_routes([0, 1], "", "uid-0")
    assert parking(world).frames() == []
    (refused,) = parking(world).frames()
    assert refused.startswith(b"-TRYAGAIN") and b"the %d bytes" % (4 * len(GET)) in refused
    assert world.router.metrics()["errors"]["tryagain"] == 1 and world.router.metrics()["parked"] == 4


def test_a_shorter_time_to_park_ends_what_waits_and_cuts_no_busy_peer() -> None:
    """How long a peer takes for a command is another matter than how long commands wait for a gate."""
    world = World()
    world.use_routes([0, 1], "", "uid-1")
    client = parking(world)
    busy = world.client()
    busy.feed(request("GET", key_of(1)))
    (peer,) = world.engines()
    assert peer.written == request("GET", key_of(1))
    world.router.tick()
    assert client.frames() == []
    world.settings["parkTimeoutMs"] = 20
    world.use_routes([0, 1], "", "uid-1")
    tick_until(world, lambda: bool(client.written))
    assert client.frames()[0].startswith(b"-TRYAGAIN") and world.router.metrics()["errors"]["tryagain"] == 1
    world.router.tick()
    assert not peer.ended
    peer.feed(b"$1\r\n1\r\n")
    assert busy.frames() == [b"$1\r\n1\r\n"]


def test_idle_clients_are_disconnected_but_those_that_wait_or_listen_and_peers_are_not() -> None:
    world = World()
    connected_engine(world, world.client())
    idle, nobody_asks, busy, in_transaction = (world.client() for _ in range(4))
    in_transaction.feed(request("MULTI") + request("SET", key_of(0), "1"))
    kept: list[Any] = [subscribed(world), monitoring(world), peer_of(world)]
    world.use_routes([0, 1], "", "uid-0")
    kept.append(parking(world))
    for _ in range(3):
        world.router.tick()
    assert disconnected(world) == {} and not idle.ended, "never, unless it is asked for"
    world.settings["idleTimeoutMs"] = 30
    world.use_routes([0, 1], "", "uid-0")
    assert info.config(world.router, busy.protocol)["timeout"] == "0"

    def all_idle_are_gone() -> bool:
        busy.feed(request("MULTI") + request("DISCARD"))
        return idle.ended and nobody_asks.ended and in_transaction.ended

    tick_until(world, all_idle_are_gone)
    assert not busy.ended and not any(it.ended for it in kept)
    assert disconnected(world)["idle"] == 4, "the one that connected the engine, too"
    in_transaction.protocol.connection_lost(None)
    assert world.router.metrics()["parkedBytes"] == len(GET), "only what waits"


def test_a_client_whose_command_has_just_come_is_not_idle() -> None:
    world = World()
    world.change_settings(idleTimeoutMs=20)
    asks, idle = world.client(), world.client()
    asks.unread, command = os.pipe()
    os.write(command, b"*1")
    tick_until(world, lambda: idle.ended)
    assert not asks.ended
    os.close(asks.unread)
    os.close(command)


def test_a_client_that_takes_its_replies_slowly_is_not_idle() -> None:
    world = World()
    world.change_settings(idleTimeoutMs=20)
    slow, stuck = world.client(slow=True), world.client(slow=True)
    stuck.unread, unread = os.pipe()
    os.write(unread, b"*1")
    slow.feed(request("COMMAND"))
    stuck.feed(request("COMMAND") * 3)  # so much that it is read from no more, and has sent what nobody reads

    def stuck_is_gone() -> bool:
        slow.written = slow.written[1:]
        return stuck.ended

    tick_until(world, stuck_is_gone)
    assert not slow.ended and slow.written
    tick_until(world, lambda: slow.ended)
    assert disconnected(world) == {"idle": 2}
    os.close(stuck.unread)
    os.close(unread)


def test_clients_are_told_their_limits() -> None:
    world = World()
    client = world.client().protocol
    told = info.config(world.router, client)
    assert told["proto-max-bulk-len"] == "536870912" and told["timeout"] == "0", "as in Redis"
    assert told["client-output-buffer-limit"] == "normal 134217728 0 0 slave 0 0 0 pubsub 33554432 0 0"
    world.change_settings(
        idleTimeoutMs=60_000, unreadRepliesBytes=2 * MIB, unreadMessagesBytes=3 * MIB, requestMaxBytes=4 * MIB
    )
    told = info.config(world.router, client)
    assert told["timeout"] == "60" and told["client-query-buffer-limit"] == told["proto-max-bulk-len"] == str(4 * MIB)
    assert told["client-output-buffer-limit"] == f"normal {2 * MIB} 0 0 slave 0 0 0 pubsub {3 * MIB} 0 0"


def test_a_router_that_is_told_no_limits_has_the_defaults_of_the_spec() -> None:
    """The agent of the version before says nothing of them."""
    router = World().router
    defaults = Settings()
    assert vars(core)["MAX_PIPELINE"] == defaults.pipelined_commands
    assert router.request_max == defaults.request_max_bytes
    assert router.unread_replies_max == defaults.unread_replies_bytes
    assert router.unread_messages_max == defaults.unread_messages_bytes
    assert router.idle_timeout == defaults.idle_s
