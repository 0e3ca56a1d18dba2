"""One router's connection to RUN/agent.sock: newline-delimited JSON both ways. Frames only, no decisions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, cast

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
MAX_UNSENT_BYTES = 16 << 20

Message = dict[str, Any]


class RouterLink(asyncio.Protocol):
    """`on_message(link, message)` for every line, `on_end(link)` when the connection is gone. A line that is no JSON
    object, is too long, or makes `on_message` raise ValueError, KeyError or TypeError ends the connection."""

    def __init__(self, on_message: Callable[[RouterLink, Message], None], on_end: Callable[[RouterLink], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()

    def send(self, message: Message) -> None:
        """Write a line. A router that does not read until too much is waiting loses its connection."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.warning("a router does not read what the agent sends")
            transport.abort()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        try:
            for line in lines:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError(f"not a message: {message!r}")
                self._on_message(self, message)
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError("a line without end")
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a router breaks the protocol: %r", error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_end(self)
