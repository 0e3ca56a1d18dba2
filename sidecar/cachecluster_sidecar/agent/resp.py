"""RESP2, both ways, for the few connections of the agent: encode commands, parse replies. Knows no sockets.

Speed is no matter here (some tens of replies a second), memory is: no library, no reader object of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias


class ReplyError(Exception):
    """An error reply; its text is the argument. Parsed as a value, raised by whoever expected something else."""


Reply: TypeAlias = "bytes | int | list[Reply] | ReplyError | None"


class ProtocolError(Exception):
    """The peer does not speak RESP2."""


class NeedMore(Exception):
    """The buffer ends before the reply does."""


def encode(command: Sequence[str | bytes]) -> bytes:
    """A command as an array of bulk strings."""
    parts = [f"*{len(command)}\r\n".encode()]
    for argument in command:
        data = argument.encode() if isinstance(argument, str) else argument
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


class ReplyParser:
    """Feed bytes, take whole replies. At most `max_bytes` are kept of an unfinished one."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> list[Reply]:
        """All replies that are complete now. ProtocolError when the stream is not RESP2 or a reply too long."""
        self._buffer += data
        replies: list[Reply] = []
        start = 0
        while start < len(self._buffer):
            try:
                reply, start = self._parse(start)
            except NeedMore:
                break
            replies.append(reply)
        del self._buffer[:start]
        if len(self._buffer) > self._max_bytes:
            raise ProtocolError(f"a reply is longer than {self._max_bytes} bytes")
        return replies

    def _parse(self, start: int) -> tuple[Reply, int]:
        end = self._buffer.find(b"\r\n", start)
        if end < 0:
            raise NeedMore
        kind, line, after = self._buffer[start], bytes(self._buffer[start + 1 : end]), end + 2
        if kind == ord("+"):
            return line, after
        if kind == ord("-"):
            return ReplyError(line.decode("utf-8", "replace")), after
        if kind not in b":$*":
            raise ProtocolError(f"unexpected reply type {chr(kind)!r}")
        try:
            number = int(line)
        except ValueError as error:
            raise ProtocolError(f"not a number: {line!r}") from error
        if kind == ord(":"):
            return number, after
        if number < 0:
            return None, after
        return self._bulk(after, number) if kind == ord("$") else self._array(after, number)

    def _bulk(self, start: int, length: int) -> tuple[Reply, int]:
        if len(self._buffer) < start + length + 2:
            raise NeedMore
        return bytes(self._buffer[start : start + length]), start + length + 2

    def _array(self, start: int, length: int) -> tuple[Reply, int]:
        items: list[Reply] = []
        for _ in range(length):
            item, start = self._parse(start)
            items.append(item)
        return items, start
