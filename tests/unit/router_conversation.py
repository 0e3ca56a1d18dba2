"""What tests of the router say on raw connections, to its ports and to engines: bytes out, frames in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from cachecluster_sidecar.router.feeds import ReplyFeed


class Conversation:
    """A raw connection: bytes out, frames in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._feed = ReplyFeed()
        self._frames: list[bytes] = []

    def send(self, *requests: bytes | tuple[bytes | str, ...]) -> None:
        """Raw bytes, or tuples of arguments."""
        self.writer.write(b"".join(r if isinstance(r, bytes) else request(*r) for r in requests))

    async def frame(self, timeout_s: float = 10.0) -> bytes:
        """The next reply, as it came; b"" at the end of the connection."""
        while not self._frames:
            data = await asyncio.wait_for(self.reader.read(65536), timeout_s)
            if not data:
                return b""
            self._frames += self._feed.feed(data)
        return self._frames.pop(0)

    async def frames(self, count: int) -> list[bytes]:
        return [await self.frame() for _ in range(count)]

    async def ask(self, *arguments: bytes | str) -> bytes:
        self.send(arguments)
        return await self.frame()


def request(*arguments: bytes | str) -> bytes:
    """A request frame."""
    words = [a.encode() if isinstance(a, str) else a for a in arguments]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@contextlib.asynccontextmanager
async def conversation(where: tuple[str, int] | Path) -> AsyncIterator[Conversation]:
    """A raw connection to a port or a unix socket."""
    if isinstance(where, Path):
        reader, writer = await asyncio.open_unix_connection(str(where))
    else:
        reader, writer = await asyncio.open_connection(*where)
    try:
        yield Conversation(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def conversations(ports: Sequence[tuple[str, int]]) -> AsyncIterator[list[Conversation]]:
    """One with each of these ports."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(conversation(port)) for port in ports]
