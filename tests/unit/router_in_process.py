"""One router without sockets: a loop, transports and an agent's words that a test moves by hand."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cachecluster_core import pod_table
from cachecluster_core.slots import partition_of_key
from cachecluster_sidecar.router import core
from cachecluster_sidecar.router.commands import load_commands
from cachecluster_sidecar.router.core import Router
from cachecluster_sidecar.router.feeds import ReplyFeed
from cachecluster_sidecar.router.resp import encode_request

PARTITIONS = 2
OUTPUT_PAUSE_BYTES: int = vars(core)["OUTPUT_PAUSE_BYTES"]
COMMANDS = load_commands()
NOTHING_UNREAD, _ = os.pipe()
BIG = b"$100000\r\n" + b"x" * 100_000 + b"\r\n"


class Loop:
    """Collects callbacks; `turn` runs them, and `wait` those for later."""

    def __init__(self) -> None:
        self._soon: deque[Callable[[], None]] = deque()
        self._later: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[..., None], *arguments: Any) -> Any:
        self._later.append(partial(callback, *arguments))
        return self

    def cancel(self) -> None:
        """No timer is worth it here."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Whatever the router only reports fails the test."""
        raise context["exception"]

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
        self.paused = False
        self._eof = False
        self._slow = slow
        self.unread = NOTHING_UNREAD
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
        assert not self._eof, "written after the end"
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

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else ("127.0.0.1", 50000)

    def setsockopt(self, *_option: int) -> None:
        """This transport is its own socket."""

    def fileno(self) -> int:
        return self.unread

    def set_write_buffer_limits(self, high: int) -> None:
        """`slow` decides."""

    def pause_reading(self) -> None:
        """A test feeds what it likes."""
        self.paused = True

    def resume_reading(self) -> None:
        """A test feeds what it likes."""
        self.paused = False

    def write_eof(self) -> None:
        """Nothing more will come."""
        self._eof = True


class World:
    """A pod with the primaries of both partitions, its gates open at generation 1, and the engines' connections.

    `pieces`: peers pass on in pieces what is large.
    """

    def __init__(
        self, max_clients: int = 10, answer: Callable[[Any, str, list[bytes]], bytes | None] | None = None
    ) -> None:
        self.loop = Loop()
        self.dialled: list[Any] = []
        self.confirmed: list[tuple[int, int]] = []
        self.answered: list[str] = []
        self.run_id = "run"
        self.reads_from = "primary"
        self.pieces = False
        self.zones: dict[str, str] = {}
        self.replicas: list[list[str]] = [[]] * PARTITIONS
        loop: Any = self.loop
        self.router: Any = Router(loop, COMMANDS, self.dialled.append, answer or self._answer)
        self.router.confirm = lambda partition, generation: self.confirmed.append((partition, generation))
        self._table = bytearray(pod_table.table_bytes(PARTITIONS))
        self._max_clients = max_clients
        self.settings: dict[str, Any] = {}
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

    def change_settings(self, **settings: Any) -> None:
        """What the agent tells of this pod's partitions from now on."""
        self.settings |= settings
        self.use_routes([0, 1])

    def use_routes(
        self,
        copies: list[int],
        *primaries: str,
        announced: Sequence[str | None] = (),
        stands_in: Sequence[bool] = (),
    ) -> None:
        """`primaries` are those of both partitions, if not this pod; `announced` where clients are sent instead."""
        settings = {
            "parkTimeoutMs": 8000,
            "parkMaxBytes": 1 << 20,
            "maxClients": self._max_clients,
            "engine": "valkey",
            "engineVersion": "9.1.0",
            "maxmemory": 1 << 28,
            "evictionPolicy": "allkeys-lru",
            "readsFrom": self.reads_from,
        }
        self.router.use_routes(
            {
                "self": "uid-0",
                "partitions": PARTITIONS,
                "members": {
                    f"uid-{n}": {
                        "name": f"demo-{n}",
                        "host": f"127.0.0.{n + 1}",
                        "port": 7379,
                        "leaving": bool(announced) and f"uid-{n}" not in announced,
                        "zone": self.zones.get(f"uid-{n}", ""),
                    }
                    for n in range(3)
                },
                "primaries": primaries or ["uid-0"] * PARTITIONS,
                "announced": announced or primaries or ["uid-0"] * PARTITIONS,
                "standsIn": stands_in or [pod == "uid-0" for pod in announced or primaries] or [False] * PARTITIONS,
                "serving": [pod and f"{pod}.{self.run_id}" for pod in primaries or ["uid-0"] * PARTITIONS],
                "replicas": self.replicas,
                "inSync": [1] * PARTITIONS,
                "local": {str(index): {"socket": f"p{index}.sock"} for index in copies},
                "settings": settings | self.settings,
            }
        )

    def set_gate(self, partition: int, generation: int, epoch: int, lasts_s: float = 1000.0) -> None:
        deadline_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(lasts_s * 1e9)
        record = (2 * generation, max(epoch, 1), epoch, deadline_ns, generation)
        pod_table.GATE.pack_into(self._table, pod_table.gate_offset(partition), *record)

    def set_readable(self, partition: int, lasts_s: float = 1000.0) -> None:
        """The agent says for how long the copy here may be read."""
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(lasts_s * 1e9)
        at = pod_table.gate_offset(partition) + 8 * pod_table.READABLE_NS
        self._table[at : at + 8] = until_ns.to_bytes(8, "little")

    def client(self, cluster: bool = False, slow: bool = False) -> Transport:
        return Transport(self.router.client(cluster), slow)

    def engines(self) -> list[Transport]:
        """Everything that was dialled and not yet answered, greeted."""
        made = []
        for backend in self.dialled:
            engine = Transport(backend)
            backend.greet(b"greeting")
            engine.written = b""
            engine.feed(b"+OK pieces\r\n" if self.pieces and backend.target.uid is not None else b"+OK\r\n")
            made.append(engine)
        self.dialled.clear()
        self.loop.turn()
        return made


def key_of(partition: int) -> str:
    return next(f"k{n}" for n in range(100) if partition_of_key(b"k%d" % n, PARTITIONS) == partition)


def connected_engine(world: World, client: Transport, partition: int = 0) -> Transport:
    """The connection to the engine of a partition, with nothing outstanding."""
    client.feed(encode_request([b"GET", key_of(partition).encode()]))
    (engine,) = world.engines()
    assert engine.written == encode_request([b"GET", key_of(partition).encode()])
    engine.written = b""
    engine.feed(b"$-1\r\n")
    assert client.frames() == [b"$-1\r\n"]
    return engine


def one_client() -> tuple[World, Transport, Transport]:
    """A pod, a client of it, and the connection to the engine of partition 0."""
    world = World()
    client = world.client()
    return world, client, connected_engine(world, client)


def scan(world: World, client: Transport, engine: Transport, cursor: bytes, reply: bytes) -> tuple[bytes, bytes]:
    """What the engine is asked and the cursor that the client gets."""
    engine.written = b""
    client.feed(encode_request([b"SCAN", cursor]))
    world.loop.turn()
    asked = engine.written
    engine.feed(reply)
    (answer,) = client.frames()
    assert answer.startswith(b"*2\r\n$") and answer.endswith(reply[reply.index(b"*", 1) :])
    return asked, answer.split(b"\r\n")[2]
