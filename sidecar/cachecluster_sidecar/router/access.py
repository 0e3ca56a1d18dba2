"""What a command would do, as far as users' rules go: which keys it reads and writes, which channels it uses.

Sources: the key specifications of COMMAND; for commands whose options decide, db.c of Redis 7.0 and Valkey.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from .acl import User
from .checks import word
from .commands import load_doc

Touched = tuple[bytes, bool, bool]
"""A key, whether it is read, whether it is written."""
WRITES = {"insert", "update", "delete"}
SCRIPTS = {"eval", "eval_ro", "evalsha", "evalsha_ro", "fcall", "fcall_ro"}
STORES = {"sort": {b"STORE"}, "georadius": {b"STORE", b"STOREDIST"}, "georadiusbymember": {b"STORE", b"STOREDIST"}}
"""Options before the key that is written. Whichever of them an engine goes by, each must be allowed."""
CHANNELS = {"publish": slice(1, 2), "spublish": slice(1, 2), "subscribe": slice(1, None), "ssubscribe": slice(1, None)}
NO_COMMAND = "NOPERM User {user} has no permissions to run the '{command}' command"
NO_KEY = "NOPERM No permissions to access a key"
NO_CHANNEL = "NOPERM No permissions to access a channel"
NO_SCRIPT = "NOPERM User {user} may not run scripts: what they do is not checked, so they take `~* &* +@all`"


@cache
def is_for_everybody(name: str) -> bool:
    """Whether a command is served before anybody has authenticated, and to everybody who has."""
    return "no_auth" in load_doc(name)["flags"]


def objection(user: User, name: str, arguments: list[bytes]) -> str | None:
    """Why this user may not do this; None: it may. `name` is the command's in the table."""
    if is_for_everybody(name):
        return None
    grants = [grant for grant in user.grants if name in grant.commands]
    if not grants:
        return NO_COMMAND.format(user=user.name, command=name)
    if name in SCRIPTS:
        return None if any(grant.may_script for grant in grants) else NO_SCRIPT.format(user=user.name)
    keys, channels, pattern = list(touched(name, arguments)), arguments[CHANNELS.get(name, slice(0))], False
    if name == "psubscribe":
        channels, pattern = arguments[1:], True
    readable = [
        grant for grant in grants if all(grant.may_touch(key, read=read, write=write) for key, read, write in keys)
    ]
    if not readable:
        return NO_KEY
    if not any(all(grant.may_use(it, pattern=pattern) for it in channels) for grant in readable):
        return NO_CHANNEL
    return None


def may_listen(user: User, subscriptions: Sequence[Iterable[bytes]]) -> bool:
    """Whether a user may hear what it has subscribed to: channels, patterns, shard channels; each by some grant."""
    channels, patterns, shards = subscriptions
    named = [(name, False) for name in (*channels, *shards)] + [(name, True) for name in patterns]
    return all(any(grant.may_use(it, pattern=pattern) for grant in user.grants) for it, pattern in named)


def touched(name: str, arguments: list[bytes]) -> Iterator[Touched]:
    """The keys of a command. Arguments that no specification fits have none: the engine refuses them."""
    for flags, begin, find in _specs(name):
        if "not_key" in flags or "unknown" in (begin["type"], find["type"]):
            continue
        if name in STORES and begin["type"] == "keyword":
            continue
        read, write = _permissions(name, arguments, flags)
        for at in _positions(begin, find, arguments):
            yield arguments[at], read, write
    for at in range(2, len(arguments) - 1):
        if word(arguments[at]) in STORES.get(name, ()):
            yield arguments[at + 1], False, True


def permissions(read: bool, write: bool) -> int:
    """As a number, of which each bit is one."""
    return read + 2 * write


@cache
def only_key(name: str) -> int:
    """What a command may do, whatever its options, with the only key that it has, its first argument: `permissions`; 0
    when it has other keys or may have."""
    specs = _specs(name)
    if len(specs) != 1 or name in STORES:
        return 0
    flags, begin, find = specs[0]
    if begin != {"type": "index", "index": 1} or find["type"] != "range" or find["lastkey"] != 0:
        return 0
    if flags & {"not_key", "unknown", "incomplete"}:
        return 0
    if "variable_flags" in flags:
        return permissions(True, True)
    return permissions("access" in flags, bool(flags & WRITES)) or permissions(True, True)


@cache
def _specs(name: str) -> tuple[tuple[frozenset[str], dict[str, Any], dict[str, Any]], ...]:
    pairs = [dict(zip(spec[::2], spec[1::2], strict=True)) for spec in load_doc(name)["specs"]]
    return tuple((frozenset(spec["flags"]), _named(spec["begin_search"]), _named(spec["find_keys"])) for spec in pairs)


def _named(flat: list[Any]) -> dict[str, Any]:
    outer = dict(zip(flat[::2], flat[1::2], strict=True))
    return {"type": outer["type"]} | dict(zip(outer["spec"][::2], outer["spec"][1::2], strict=True))


def _permissions(name: str, arguments: list[bytes], flags: frozenset[str]) -> tuple[bool, bool]:
    """Whether it reads and whether it writes, where that depends on its options."""
    if name == "set":
        return b"GET" in map(word, arguments[3:]), True
    if name == "bitfield":
        return True, not _reads_bits(arguments[2:])
    return "access" in flags, bool(flags & WRITES)


def _reads_bits(operations: list[bytes]) -> bool:
    """Whether BITFIELD has no operation but GET, each with two arguments."""
    return len(operations) % 3 == 0 and all(word(it) == b"GET" for it in operations[::3])


def _positions(begin: dict[str, Any], find: dict[str, Any], arguments: list[bytes]) -> range:
    """The argument numbers of one specification's keys."""
    count = len(arguments)
    first = begin["index"] if begin["type"] == "index" else _behind(begin, arguments)
    if not 0 < first < count:
        return range(0)
    if find["type"] == "keynum":
        digits = arguments[first + find["keynumidx"]] if first + find["keynumidx"] < count else b""
        keys = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        first, step = first + find["firstkey"], find["keystep"]
        last = first + (keys - 1) * step
    else:
        step, last = find["keystep"], find["lastkey"]
        if last >= 0:
            last += first
        elif find["limit"] <= 1:
            last += count
        else:
            last += first + (count - first) // find["limit"]
    return range(first, last + 1, step) if last < count else range(0)


def _behind(begin: dict[str, Any], arguments: list[bytes]) -> int:
    """The argument behind a keyword; 0 when it is not there."""
    start = begin["startfrom"]
    numbers = range(start, len(arguments)) if start > 0 else range(len(arguments) + start, 0, -1)
    keyword = begin["keyword"].upper().encode()
    return next((at + 1 for at in numbers if word(arguments[at]) == keyword), 0)
