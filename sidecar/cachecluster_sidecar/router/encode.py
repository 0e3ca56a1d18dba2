"""Writes RESP replies from Python values, in either version. For replies that are not hot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

OK = b"+OK\r\n"


class Simple(str):
    """A simple string (`+text`) instead of a bulk string."""

    __slots__ = ()


def encode(value: object, proto: int) -> bytes:
    """A value as RESP2 or RESP3: str and bytes as bulk strings, mappings as maps (RESP2: flat arrays), None as null."""
    match value:
        case None:
            return b"_\r\n" if proto == 3 else b"$-1\r\n"
        case Simple():
            return f"+{value}\r\n".encode()
        case bool() | int():
            return b":%d\r\n" % value
        case str():
            return bulk(value.encode())
        case bytes():
            return bulk(value)
        case Mapping():
            head = b"%%%d\r\n" % len(value) if proto == 3 else b"*%d\r\n" % (2 * len(value))
            return head + b"".join(encode(item, proto) for pair in value.items() for item in pair)
        case set() | frozenset():
            head = b"~%d\r\n" if proto == 3 else b"*%d\r\n"
            return head % len(value) + b"".join(encode(item, proto) for item in sorted(value))
        case Iterable():
            items = [encode(item, proto) for item in value]
            return b"*%d\r\n" % len(items) + b"".join(items)
    raise TypeError(f"{type(value).__name__} has no RESP form")


def bulk(data: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%s\r\n" % (len(data), data)


def error(text: str) -> bytes:
    """An error reply; the text begins with its code. Line ends become spaces."""
    return f"-{text.replace(chr(13), ' ').replace(chr(10), ' ')}\r\n".encode(errors="surrogateescape")
