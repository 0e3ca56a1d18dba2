"""Commands that are served for some of their arguments only: each function answers why a request is not, or None."""

from __future__ import annotations

from collections.abc import Callable

NOT_SERVED = "is not served yet by the router of this version"


def word(argument: bytes) -> bytes:
    """An option as the engines compare it: in any case, and up to a byte 0."""
    return argument.partition(b"\0")[0].upper()


def sort_patterns(arguments: list[bytes]) -> str | None:
    """BY and GET patterns read keys of any partition, as in Redis Cluster they are refused."""
    at = 2
    while at + 1 < len(arguments):
        option, value = word(arguments[at]), arguments[at + 1]
        if option == b"LIMIT":
            at += 3
        elif option in (b"BY", b"GET", b"STORE"):
            if (option == b"BY" and b"*" in value) or (option == b"GET" and value != b"#"):
                return f"{option.decode()} option of SORT reads keys of other partitions; sort in the client"
            at += 2
        else:
            at += 1
    return None


CHECKS: dict[str, Callable[[list[bytes]], str | None]] = {
    "sort_patterns": sort_patterns,
}
