"""One connection of the agent to one engine over its unix socket, as user `agent`: pipelined requests, futures.

An end of the connection is the quickest notice of the engine's death (about 3 ms after kill -9). Nothing here decides
what a reply means.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from .resp import ProtocolError, Reply, ReplyError, ReplyParser, encode

Commands = Sequence[Sequence[str]]


class EngineConnection(asyncio.Protocol):
    """Made by `connect`. `waiting_since` is the loop time at which the oldest unanswered request was sent.

    `on_end` tells of an end that the owner did not ask for: after `close` it is not called. The owner may have another
    connection by then, or want none.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._notify = False
        self._transport: asyncio.Transport | None = None
        self._parser = ReplyParser()
        self._requests: deque[tuple[int, asyncio.Future[list[Reply]], float]] = deque()
        self._replies: list[Reply] = []
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, path: Path, password: str, on_end: Callable[[], None], timeout_s: float) -> EngineConnection:
        """Connect and authenticate. OSError (refused, no such file, TimeoutError) or ReplyError when that fails."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_unix_connection(lambda: cls(on_end), str(path))
            try:
                await connection.request([("AUTH", "agent", password)])
            except BaseException:
                connection.close()
                raise
        connection._notify = True
        return connection

    @property
    def waiting_since(self) -> float | None:
        """When the oldest request without an answer was sent; None when nothing is outstanding."""
        return self._requests[0][2] if self._requests else None

    @property
    def closed(self) -> bool:
        """The connection has ended."""
        return self._transport is None or self._transport.is_closing()

    def request(self, commands: Commands) -> asyncio.Future[list[Reply]]:
        """Send commands in one write; the future gives all replies, or raises the first ReplyError, or
        ConnectionError when the connection ended first."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            future.set_exception(ConnectionResetError("the engine's connection has ended"))
            return future
        self._requests.append((len(commands), future, self._loop.time()))
        self._transport.write(b"".join(encode(command) for command in commands))
        return future

    def close(self) -> None:
        """End the connection; outstanding requests raise ConnectionError."""
        self._notify = False
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        try:
            self._replies += self._parser.feed(data)
        except ProtocolError:
            self._abort()
            return
        while self._requests and len(self._replies) >= self._requests[0][0]:
            count, future, _ = self._requests.popleft()
            replies, self._replies = self._replies[:count], self._replies[count:]
            if future.done():
                continue
            error = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
            if error is None:
                future.set_result(replies)
            else:
                future.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for _, future, _ in self._requests:
            if not future.done():
                future.set_exception(ConnectionResetError("the engine closed the connection"))
                future.exception()  # a request that nobody waits for any more must not be logged as never retrieved
        self._requests.clear()
        if self._notify:
            self._on_end()
