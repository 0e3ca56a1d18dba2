"""The smallest asyncio connection to a RESP server, for programs that must be light beside what they watch."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import hiredis

CHUNK = 65536


class Connection:
    """One request at a time. Errors of the server are values (`hiredis.ReplyError`), a broken connection an OSError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader()

    @classmethod
    async def open(cls, host: str, port: int, timeout_s: float) -> Self:
        """Connect. OSError (TimeoutError is one) when that is not possible in time."""
        async with asyncio.timeout(timeout_s):
            return cls(*await asyncio.open_connection(host, port))

    async def command(self, *words: str | bytes, timeout_s: float) -> Any:
        """Send a command and return its answer. OSError when there is none in time; then close the connection."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        self._writer.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(it), it) for it in parts))
        async with asyncio.timeout(timeout_s):
            while (answer := self._parser.gets()) is False:
                chunk = await self._reader.read(CHUNK)
                if not chunk:
                    raise ConnectionResetError("closed by the server")
                self._parser.feed(chunk)
        return answer

    def close(self) -> None:
        """Let go of it at once, whatever the other side does."""
        self._writer.transport.abort()
