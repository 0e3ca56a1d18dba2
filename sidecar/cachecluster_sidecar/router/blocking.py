"""Commands that wait in the engine until something comes: whether they do, for how long, and with another time."""

from __future__ import annotations

import math

from .checks import word

Arguments = list[bytes]
LEAST_S = 0.001
"""Of a limit that is over: 0 would mean for ever."""
LIMIT_FIRST = (b"BLMPOP", b"BZMPOP")
STREAMS = (b"XREAD", b"XREADGROUP")
IN_MILLISECONDS = (*STREAMS, b"WAIT")
VALUES_OF_OPTION = {b"GROUP": 2, b"COUNT": 1, b"CLAIM": 1}
"""How many values follow an option of XREAD and XREADGROUP; a value may read like an option."""


def limit_at(arguments: Arguments) -> int | None:
    """Which argument is the limit of time; None: the command does not wait.

    In seconds, with a fraction; of WAIT in milliseconds; of XREAD and XREADGROUP too, and only with BLOCK.
    """
    name = word(arguments[0])
    if name not in STREAMS:
        return 1 if name in LIMIT_FIRST else len(arguments) - 1
    at = 1
    while at + 1 < len(arguments):
        option = word(arguments[at])
        if option == b"STREAMS":
            return None
        if option == b"BLOCK":
            return at + 1
        at += 1 + VALUES_OF_OPTION.get(option, 0)
    return None


def _unit_s(arguments: Arguments) -> float:
    return 0.001 if word(arguments[0]) in IN_MILLISECONDS else 1.0


def limit_s(arguments: Arguments) -> float:
    """For how long it waits at most; 0: for ever, or it is not a limit (the engine knows the error to answer)."""
    at = limit_at(arguments)
    try:
        limit = float(arguments[at]) * _unit_s(arguments) if at is not None else 0.0
    except ValueError:
        return 0.0
    return limit if math.isfinite(limit) and limit > 0 else 0.0


def with_limit(arguments: Arguments, left_s: float) -> Arguments:
    """The same command with so much time."""
    at = limit_at(arguments)
    if at is None:
        return arguments
    left = max(left_s, LEAST_S) / _unit_s(arguments)
    text = b"%d" % math.ceil(left) if word(arguments[0]) in IN_MILLISECONDS else b"%.3f" % left
    return [*arguments[:at], text, *arguments[at + 1 :]]
