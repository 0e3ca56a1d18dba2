"""The router's own transports, over real sockets on a real loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachecluster_sidecar.router.wire import Poll, Wire

BIG = bytes(range(256)) * 40_000
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Protocol:
    """Keeps what it is told; `answers_end` is what it says to the end of what comes."""

    def __init__(self, answers_end: bool = False) -> None:
        self.buffer = bytearray(65536)
        self.came = b""
        self.told: list[str] = []
        self.wire: Wire
        self.error: BaseException | None = None
        self.changed = asyncio.Event()
        self._answers_end = answers_end

    def connection_made(self, wire: Wire) -> None:
        self.wire = wire

    def get_buffer(self, _size: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.came += self.buffer[:count]
        self._tell("came")

    def eof_received(self) -> bool:
        self._tell("eof")
        return self._answers_end

    def pause_writing(self) -> None:
        self._tell("pause")

    def resume_writing(self) -> None:
        self._tell("resume")

    def connection_lost(self, error: BaseException | None) -> None:
        self.error = error
        self._tell("lost")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self.changed.set()

    async def until(self, what: str) -> None:
        """Wait until it was told so."""
        async with asyncio.timeout(10):
            while what not in self.told:
                self.changed.clear()
                await self.changed.wait()


class Turns:
    """Counts the turns of a poll, and knows whether one is under way."""

    def __init__(self) -> None:
        self.count = 0
        self.under_way = False

    def begin(self) -> None:
        assert not self.under_way
        self.under_way = True
        self.count += 1

    def end(self) -> None:
        assert self.under_way
        self.under_way = False


@contextlib.contextmanager
def polled() -> Iterator[tuple[Poll, Turns]]:
    turns = Turns()
    poll = Poll(asyncio.get_running_loop())
    poll.start(turns.begin, turns.end)
    try:
        yield poll, turns
    finally:
        poll.close()


@contextlib.asynccontextmanager
async def connected(protocol: Protocol) -> AsyncIterator[socket.socket]:
    """The other end of a wire over TCP."""
    with polled() as (poll, _), socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        with other:
            poll.adopt(server.accept()[0], protocol)
            yield other
            protocol.wire.abort()
            await protocol.until("lost")


def everything(other: socket.socket) -> bytes:
    """All that comes until the end."""
    found = b""
    while data := other.recv(65536):
        found += data
    return found


async def test_what_is_written_arrives_and_what_comes_is_told() -> None:
    protocol = Protocol()
    async with connected(protocol) as other:
        protocol.wire.write(b"hello ")
        protocol.wire.write(b"")
        protocol.wire.write(b"there")
        other.sendall(b"and back")
        await protocol.until("came")
        assert protocol.came == b"and back"
        assert other.recv(11, socket.MSG_WAITALL) == b"hello there"
        assert protocol.wire.get_extra_info("peername") == other.getsockname()
        assert protocol.wire.get_extra_info("sockname") == other.getpeername()
        assert protocol.wire.get_extra_info("nothing", "default") == "default"
        nodelay = protocol.wire.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert nodelay


async def test_what_the_socket_does_not_take_is_kept_in_order_and_the_protocol_pauses() -> None:
    protocol = Protocol()
    async with connected(protocol) as other:
        protocol.wire.set_write_buffer_limits(100_000)
        pieces = [bytes([n % 251]) * 70_001 for n in range(200)]
        for piece in pieces:
            protocol.wire.write(piece)
        assert protocol.told == ["pause"] and protocol.wire.get_write_buffer_size() > 100_000
        protocol.wire.write_eof()
        assert await asyncio.to_thread(everything, other) == b"".join(pieces)
        assert protocol.told == ["pause", "resume"] and protocol.wire.get_write_buffer_size() == 0


async def test_a_wire_that_is_closed_still_sends_what_was_written() -> None:
    protocol = Protocol()
    async with connected(protocol) as other:
        protocol.wire.write(BIG)
        protocol.wire.close()
        protocol.wire.write(b"too late")
        assert protocol.wire.is_closing() and protocol.told == ["pause"]
        assert await asyncio.to_thread(everything, other) == BIG
        await protocol.until("lost")
        assert protocol.error is None


async def test_a_wire_that_is_aborted_sends_nothing_more_and_tells_it_in_a_later_turn() -> None:
    protocol = Protocol()
    async with connected(protocol) as other:
        protocol.wire.write(BIG)
        protocol.wire.abort()
        protocol.wire.abort()
        assert "lost" not in protocol.told
        await protocol.until("lost")
        assert len(await asyncio.to_thread(everything, other)) < len(BIG)
        assert protocol.told.count("lost") == 1


async def test_nothing_is_told_while_reading_is_paused_not_even_the_end() -> None:
    protocol = Protocol()
    async with connected(protocol) as other:
        protocol.wire.pause_reading()
        other.sendall(b"x")
        other.shutdown(socket.SHUT_WR)
        pair = Protocol()
        async with connected(pair) as witness:
            witness.sendall(b"y")
            await pair.until("came")
        assert protocol.told == []
        protocol.wire.resume_reading()
        await protocol.until("lost")
        assert protocol.told == ["came", "eof", "lost"] and protocol.came == b"x"


async def test_after_the_end_of_what_comes_a_protocol_may_go_on_writing() -> None:
    protocol = Protocol(answers_end=True)
    async with connected(protocol) as other:
        other.shutdown(socket.SHUT_WR)
        await protocol.until("eof")
        protocol.wire.write(BIG)
        protocol.wire.write_eof()
        protocol.wire.write(b"too late")
        assert await asyncio.to_thread(everything, other) == BIG
        assert "lost" not in protocol.told and protocol.told.count("eof") == 1


@pytest.mark.parametrize("reading", [True, False])
async def test_a_reset_ends_a_wire_with_the_error(reading: bool) -> None:
    protocol = Protocol()
    async with connected(protocol) as other:
        if not reading:
            protocol.wire.pause_reading()
            protocol.wire.write(BIG)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        other.close()
        await protocol.until("lost")
        assert isinstance(protocol.error, OSError)


async def test_a_protocol_that_fails_ends_its_wire_and_no_other() -> None:
    class Failing(Protocol):
        def buffer_updated(self, _count: int) -> None:
            raise ValueError("this one")

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    failing, sound = Failing(), Protocol()
    with polled() as (poll, turns):
        ends = []
        for protocol in (failing, sound):
            end, other = socket.socketpair()
            ends.append(other)
            poll.adopt(end, protocol)
        for other in ends:
            other.sendall(b"x")
        await sound.until("came")
        await failing.until("lost")
        assert isinstance(failing.error, ValueError) and told[0]["exception"] is failing.error
        assert not turns.under_way and "lost" not in sound.told
        for other in ends:
            other.close()
        await sound.until("lost")


async def test_sockets_that_are_ready_together_share_a_turn() -> None:
    with polled() as (poll, turns):
        protocols = [Protocol() for _ in range(50)]
        others = []
        for protocol in protocols:
            end, other = socket.socketpair()
            poll.adopt(end, protocol)
            others.append(other)
            other.sendall(b"x")
        for protocol in protocols:
            await protocol.until("came")
        assert turns.count < 5
        for protocol, other in zip(protocols, others, strict=True):
            other.close()
            await protocol.until("lost")


async def test_a_wire_that_ends_in_a_turn_gets_nothing_more_of_it() -> None:
    """What the kernel has told of it in the same turn is dropped, also when its number is another's then."""
    with polled() as (poll, _):
        pairs = [socket.socketpair() for _ in range(2)]
        protocols = [Protocol(), Protocol()]

        def abort_the_other(index: int) -> Any:
            def buffer_updated(_count: int) -> None:
                protocols[index].told.append("came")
                protocols[1 - index].wire.abort()

            return buffer_updated

        for index, (end, other) in enumerate(pairs):
            protocols[index].buffer_updated = abort_the_other(index)  # type: ignore[method-assign]
            poll.adopt(end, protocols[index])
            other.sendall(b"x")
        first = asyncio.ensure_future(protocols[0].until("lost"))
        second = asyncio.ensure_future(protocols[1].until("lost"))
        await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
        assert [protocol.told.count("came") for protocol in protocols] in ([1, 0], [0, 1])
        for _, other in pairs:
            other.close()
        await asyncio.gather(first, second)


async def test_connections_are_made_by_path_address_and_name(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with (
        polled() as (poll, _),
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(path)
        unix.listen()
        for server, address in (
            (unix, path),
            (tcp, tcp.getsockname()),
            (tcp, ("localhost", tcp.getsockname()[1])),
            (six, ("::1", six.getsockname()[1])),
        ):
            protocol = Protocol()
            await poll.connect(protocol, address)
            protocol.wire.write(b"x")
            other = server.accept()[0]
            assert await asyncio.to_thread(other.recv, 1) == b"x"
            other.close()
            await protocol.until("lost")


async def test_who_cannot_be_reached_is_an_error_and_leaves_no_socket(tmp_path: Path) -> None:
    with polled() as (poll, _), socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        server.close()
        protocol = Protocol()
        with pytest.raises(ConnectionRefusedError):
            await poll.connect(protocol, address)
        with pytest.raises(FileNotFoundError):
            await poll.connect(protocol, str(tmp_path / "nobody"))
        with pytest.raises(socket.gaierror):
            await poll.connect(protocol, ("no-such-name.invalid", 1))
        assert protocol.told == []


async def test_a_connection_that_ended_before_it_is_served_is_an_error() -> None:
    with polled() as (poll, _), socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        accepted = server.accept()[0]
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        other.close()
        protocol = Protocol()
        with pytest.raises(OSError, match="not connected"):
            poll.adopt(accepted, protocol)
        assert accepted.fileno() == -1 and protocol.told == []


async def test_a_slow_reader_holds_up_nobody() -> None:
    slow, quick = Protocol(), Protocol()
    async with connected(slow), connected(quick) as other:
        slow.wire.write(BIG)
        thread = threading.Thread(target=other.sendall, args=(BIG,))
        thread.start()
        while len(quick.came) < len(BIG):
            quick.changed.clear()
            await asyncio.wait_for(quick.changed.wait(), 10)
        thread.join()
        assert slow.told == ["pause"]
