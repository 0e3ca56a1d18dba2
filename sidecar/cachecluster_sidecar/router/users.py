"""The commands that rules of users may name; ACL CAT and ACL GENPASS."""

from __future__ import annotations

import secrets
from functools import cache

from .acl import Commands
from .commands import command_names, load_commands, load_doc
from .core import Client
from .encode import encode, error

DEFAULT_BITS, MOST_BITS = 256, 4096


def categories(client: Client, arguments: list[bytes]) -> bytes:
    """ACL CAT [category]: the categories of commands, or the commands of one."""
    engine = str(client.router.routes["settings"]["engine"]) if client.router.routes else "valkey"
    known = _commands_by_category(engine)
    if len(arguments) == 2:
        return encode(list(known), client.proto)
    wanted = arguments[2].decode(errors="replace").lower()
    if wanted not in known:
        return error(f"ERR Unknown category '{wanted}'")
    return encode(known[wanted], client.proto)


@cache
def engine_commands(engine: str) -> Commands:
    """The commands of an engine that rules may name."""
    names = {it for name in command_names(engine) for it in (name, *load_doc(name)["subcommands"])}
    categories = {name: frozenset(found) for name, found in _commands_by_category(engine).items()}
    kinds = {entry["name"]: entry["kind"] for entry in load_commands()}
    scriptable = {it for it in names if kinds.get(it) != "refused" and "noscript" not in load_doc(it)["flags"]}
    return Commands(frozenset(names), categories, frozenset(scriptable))


@cache
def _commands_by_category(engine: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in command_names(engine):
        entry = load_doc(name)
        for command in (name, *entry["subcommands"]):
            for category in load_doc(command)["acl"]:
                found.setdefault(category.removeprefix("@"), []).append(command)
    return dict(sorted(found.items()))


def password(client: Client, arguments: list[bytes]) -> bytes:
    """ACL GENPASS [bits]: hex digits of so many random bits, rounded up to four."""
    bits = arguments[2] if len(arguments) > 2 else b"%d" % DEFAULT_BITS
    if len(arguments) > 3 or not bits.isdigit() or len(bits) > 4 or not 0 < int(bits) <= MOST_BITS:
        return error(f"ERR ACL GENPASS takes how many random bits, 1 to {MOST_BITS}, or nothing")
    digits = -(-int(bits) // 4)
    return encode(secrets.token_hex(digits // 2 + 1)[:digits], client.proto)
