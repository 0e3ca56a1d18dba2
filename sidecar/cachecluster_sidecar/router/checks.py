"""Commands that are served for some of their arguments only: each function answers why a request is not, or None."""

from __future__ import annotations

from collections.abc import Callable

NOT_SERVED = "is not served yet by the router of this version"


VALUES_OF_OPTION = {b"GROUP": 2, b"COUNT": 1, b"CLAIM": 1}
"""How many values follow an option of XREAD and XREADGROUP; a value may read like an option."""


def word(argument: bytes) -> bytes:
    """An option as the engines compare it: in any case, and up to a byte 0."""
    return argument.partition(b"\0")[0].upper()


def no_block(arguments: list[bytes]) -> str | None:
    """XREAD and XREADGROUP share a connection with others unless they block."""
    at = 1
    while at < len(arguments):
        option = word(arguments[at])
        if option == b"STREAMS":
            return None
        if option == b"BLOCK":
            return f"'{arguments[0].decode().lower()}' with BLOCK {NOT_SERVED}; read without BLOCK"
        at += 1 + VALUES_OF_OPTION.get(option, 0)
    return None


def script_keys(arguments: list[bytes]) -> str | None:
    """A script runs where its keys are, so it must name one."""
    if arguments[2] == b"0":
        return f"'{arguments[0].decode().lower()}' without keys {NOT_SERVED}; name a key of the partition to run on"
    return None


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
    "no_block": no_block,
    "script_keys": script_keys,
    "sort_patterns": sort_patterns,
}
