"""MONITOR: the line of a command, in Redis' format, which SLOWLOG's bounds keep short."""

from __future__ import annotations

import re
import time
from functools import cache

from .commands import load_doc

NOT_SHOWN = {"auth", "hello", "migrate"}
"""They carry passwords."""
MOST_ARGUMENTS = 32
MOST_BYTES = 128
"""Of one argument. What is longer is cut, and how much was cut is told."""
ESCAPES = {b"\\": b"\\\\", b'"': b'\\"', b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\a": b"\\a", b"\b": b"\\b"}
_UNPRINTABLE = re.compile(rb"[^ !#-\[\]-~]")


@cache
def is_shown(name: str) -> bool:
    """Whether clients that monitor are shown this command: not those that manage, or carry passwords, nor scripts."""
    flags = load_doc(name)["flags"]
    return name not in NOT_SHOWN and "admin" not in flags and "skip_monitor" not in flags


def line(address: str, arguments: list[bytes], more: int) -> bytes:
    """The line for a command from this `host:port`, which has `more` arguments than these."""
    words = [_quoted(argument) for argument in arguments]
    if more:
        words.append(b'"... (%d more arguments)"' % more)
    return b"+%.6f [0 %s] %s\r\n" % (time.time(), address.encode(), b" ".join(words))


def _quoted(argument: bytes) -> bytes:
    text = _UNPRINTABLE.sub(_escaped, argument[:MOST_BYTES])
    cut = len(argument) - MOST_BYTES
    return b'"' + text + (b"... (%d more bytes)" % cut if cut > 0 else b"") + b'"'


def _escaped(found: re.Match[bytes]) -> bytes:
    return ESCAPES.get(found[0]) or b"\\x%02x" % found[0][0]
