"""One router without sockets: events in an order that real sockets give only now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.router_support import request

from cachecluster_core import pod_table
from cachecluster_core.slots import partition_of_key
from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.answers import HANDLERS
from cachecluster_sidecar.router.commands import load_commands
from cachecluster_sidecar.router.core import Router
from cachecluster_sidecar.router.resp import ReplyFeed

pytestmark = pytest.mark.t0

PARTITIONS = 2
OUTPUT_PAUSE_BYTES: int = vars(core)["OUTPUT_PAUSE_BYTES"]
PEER_SILENCE_S: float = vars(core)["PEER_SILENCE_S"]
HELD_PAUSE_BYTES: int = vars(core)["HELD_PAUSE_BYTES"]
BIG = b"$100000\r\n" + b"x" * 100_000 + b"\r\n"


class Loop:
    """Collects callbacks; `turn` runs them, and `wait` those for later."""

    def __init__(self) -> None:
        self._soon: deque[Callable[[], None]] = deque()
        self._later: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> Any:
        self._later.append(callback)
        return self

    def cancel(self) -> None:
        """No timer is worth it here."""

    def turn(self) -> None:
        while self._soon:
            self._soon.popleft()()

    def wait(self) -> None:
        """All times that were set are over."""
        self._soon.extend(self._later)
        self._later.clear()
        self.turn()


class Transport:
    """The other side of a protocol: keeps what was written; with `slow`, nothing of it is taken by the peer."""

    def __init__(self, protocol: Any, slow: bool = False) -> None:
        self.protocol = protocol
        self.written = b""
        self.ended = False
        self._slow = slow
        protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        """Bytes from the other side."""
        while data:
            with memoryview(self.protocol.get_buffer(-1)) as buffer:
                taken = min(len(buffer), len(data))
                buffer[:taken] = data[:taken]
            self.protocol.buffer_updated(taken)
            data = data[taken:]

    def write(self, data: bytes) -> None:
        self.written += data
        if self._slow and len(self.written) > OUTPUT_PAUSE_BYTES:
            self.protocol.pause_writing()

    def frames(self) -> list[bytes]:
        """The replies written so far; they are forgotten."""
        data, self.written = self.written, b""
        return list(ReplyFeed().feed(data))

    def abort(self) -> None:
        self.ended = True

    close = abort

    def is_closing(self) -> bool:
        return self.ended

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self._slow else 0

    def get_extra_info(self, _name: str) -> Any:
        return self

    def setsockopt(self, *_option: int) -> None:
        """This transport is its own socket."""

    def set_write_buffer_limits(self, high: int) -> None:
        """`slow` decides."""

    def pause_reading(self) -> None:
        """A test feeds what it likes."""

    def resume_reading(self) -> None:
        """A test feeds what it likes."""


class World:
    """A pod with the primaries of both partitions, its gates open at generation 1, and the engines' connections."""

    def __init__(self, max_clients: int = 10) -> None:
        self.loop = Loop()
        self.dialled: list[Any] = []
        self.confirmed: list[tuple[int, int]] = []
        self.answered: list[str] = []
        loop: Any = self.loop
        self.router: Any = Router(loop, load_commands(), self.dialled.append, self._answer)
        self.router.confirm = lambda partition, generation: self.confirmed.append((partition, generation))
        self._table = bytearray(pod_table.table_bytes(PARTITIONS))
        self._max_clients = max_clients
        self.use_routes([0, 1])
        self.router.use_pod_table(memoryview(self._table))
        for partition in range(PARTITIONS):
            self.set_gate(partition, generation=1, epoch=1)
            self.router.use_gate(partition, 1)

    def _answer(self, client: Any, name: str, _arguments: list[bytes]) -> bytes:
        self.answered.append(name)
        if name == "cachecluster":
            client.become_peer(2)
            return b"+OK\r\n"
        return BIG

    def use_routes(self, copies: list[int], *primaries: str) -> None:
        """`primaries` are those of both partitions, if not this pod."""
        settings = {"parkTimeoutMs": 8000, "parkMaxBytes": 1 << 20, "maxClients": self._max_clients}
        self.router.use_routes(
            {
                "self": "uid-0",
                "partitions": PARTITIONS,
                "members": {
                    f"uid-{n}": {"name": f"demo-{n}", "host": f"127.0.0.{n + 1}", "port": 7379} for n in range(3)
                },
                "primaries": primaries or ["uid-0"] * PARTITIONS,
                "replicas": [[]] * PARTITIONS,
                "inSync": [1] * PARTITIONS,
                "local": {str(index): {"socket": f"p{index}.sock"} for index in copies},
                "settings": settings,
            }
        )

    def set_gate(self, partition: int, generation: int, epoch: int, lasts_s: float = 1000.0) -> None:
        deadline_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(lasts_s * 1e9)
        record = (2 * generation, max(epoch, 1), epoch, deadline_ns, generation)
        pod_table.GATE.pack_into(self._table, pod_table.gate_offset(partition), *record)

    def client(self, cluster: bool = False, slow: bool = False) -> Transport:
        return Transport(self.router.client(cluster), slow)

    def engines(self) -> list[Transport]:
        """Everything that was dialled and not yet answered, greeted."""
        made = []
        for backend in self.dialled:
            engine = Transport(backend)
            backend.greet(b"greeting")
            engine.written = b""
            engine.feed(b"+OK\r\n")
            made.append(engine)
        self.dialled.clear()
        self.loop.turn()
        return made


def key_of(partition: int) -> str:
    return next(f"k{n}" for n in range(100) if partition_of_key(b"k%d" % n, PARTITIONS) == partition)


def connected_engine(world: World, client: Transport, partition: int = 0) -> Transport:
    """The connection to the engine of a partition, with nothing outstanding."""
    client.feed(request("GET", key_of(partition)))
    (engine,) = world.engines()
    assert engine.written == request("GET", key_of(partition))
    engine.written = b""
    engine.feed(b"$-1\r\n")
    assert client.frames() == [b"$-1\r\n"]
    return engine


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


def test_nothing_of_a_transaction_is_executed_when_multi_is_refused() -> None:
    world = World()
    client = world.client()
    engine = connected_engine(world, client)
    write, read = request("INCR", key_of(0)), request("GET", key_of(0))
    client.feed(request("MULTI") + write + write + request("EXEC") + read)
    world.loop.turn()
    assert engine.written == read
    engine.feed(b"$1\r\n0\r\n")
    frames = client.frames()
    assert [frame[:5] for frame in frames[:3]] == [b"-ERR "] * 3
    assert frames[3].startswith(b"-EXECABORT ") and frames[4] == b"$1\r\n0\r\n"
    client.feed(request("MULTI"))
    client.feed(read)
    world.loop.turn()
    assert engine.written == read * 2, "a client that has seen the error may go on"


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
