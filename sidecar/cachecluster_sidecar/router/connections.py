"""CLIENT LIST and CLIENT KILL: the clients of this router. Those of other pods, and routers, are not among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .core import Client
from .encode import OK, encode, error

SYNTAX_ERROR = error("ERR syntax error")
TYPES = (b"normal", b"master", b"replica", b"slave", b"pubsub")
ID_DIGITS = 20
Filter = Callable[[Client], bool]


def line(client: Client) -> str:
    """The line of a client in CLIENT LIST and CLIENT INFO: the fields that a router knows."""
    told = {key: value.decode() for key, value in (client.info or {}).items()}
    fields = {
        "id": client.id,
        "addr": address(client, "peername"),
        "laddr": address(client, "sockname"),
        "name": told.get("name", ""),
        "db": 0,
        "sub": len(client.subs[0]) if client.subs else 0,
        "psub": len(client.subs[1]) if client.subs else 0,
        "ssub": len(client.subs[2]) if client.subs else 0,
        "multi": client.queued,
        "watch": int(client.watching),
        "user": user_of(client),
        "resp": client.proto,
        "lib-name": told.get("lib-name", ""),
        "lib-ver": told.get("lib-ver", ""),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()) + "\n"


def address(client: Client, which: str) -> str:
    """`host:port` of one end of a client's connection: `peername` or `sockname`."""
    host, port = client.transport.get_extra_info(which)[:2]
    return f"{host}:{port}"


def user_of(client: Client) -> str:
    """As whom a client is known."""
    return client.account.name if client.account is not None else "default"


def clients(client: Client) -> Iterator[Client]:
    """All of the router, by age."""
    return (it for it in list(client.router.clients.values()) if not it.peer)


def listed(client: Client, options: list[bytes]) -> str | None:
    """The lines of CLIENT LIST [TYPE type] [ID id ...]; None: these are no options of it."""
    match [options[0].upper() if options else b"", *options[1:]]:
        case [b""]:
            found = clients(client)
        case [b"TYPE", kind] if kind.lower() in TYPES:
            found = (it for it in clients(client) if _kind(it) == kind.lower())
        case [b"ID", _, *_] if all(map(_is_id, options[1:])):
            wanted = {int(it) for it in options[1:]}
            found = (it for it in clients(client) if it.id in wanted)
        case _:
            return None
    return "".join(map(line, found))


def kill(client: Client, arguments: list[bytes]) -> bytes:
    """CLIENT KILL host:port, or with filters: closes connections, the asking one after this reply."""
    options = arguments[2:]
    if len(options) == 1:
        found = _end(client, [it for it in clients(client) if address(it, "peername").encode() == options[0]])
        return OK if found else error("ERR No such client")
    if len(options) % 2:
        return SYNTAX_ERROR
    skip_me, filters = True, []
    for name, value in zip(options[::2], options[1::2], strict=True):
        if name.upper() == b"SKIPME" and value.upper() in (b"YES", b"NO"):
            skip_me = value.upper() == b"YES"
            continue
        wanted = _filter(name.upper(), value)
        if wanted is None:
            return SYNTAX_ERROR
        filters.append(wanted)
    chosen = [it for it in clients(client) if all(wanted(it) for wanted in filters) and not (skip_me and it is client)]
    return encode(_end(client, chosen), client.proto)


def unblock(client: Client, arguments: list[bytes]) -> bytes:
    """CLIENT UNBLOCK id [TIMEOUT|ERROR]: 1 if that client waited for something in an engine."""
    how = arguments[3].upper() if len(arguments) == 4 else b"TIMEOUT"
    if len(arguments) > 4 or how not in (b"TIMEOUT", b"ERROR"):
        return error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    if not _is_id(arguments[2]):
        return error("ERR value is not an integer or out of range")
    found = client.router.clients.get(int(arguments[2]))
    return encode(int(found is not None and found.unblock_with(how)), client.proto)


def _kind(client: Client) -> bytes:
    return b"normal" if client.subs is None else b"pubsub"


def _is_id(value: bytes) -> bool:
    return value.isdigit() and len(value) <= ID_DIGITS


def _filter(name: bytes, value: bytes) -> Filter | None:
    """Which clients an option of CLIENT KILL means."""
    match name:
        case b"ID" if _is_id(value):
            return lambda it: it.id == int(value)
        case b"ADDR":
            return lambda it: address(it, "peername").encode() == value
        case b"LADDR":
            return lambda it: address(it, "sockname").encode() == value
        case b"TYPE" if value.lower() in TYPES:
            return lambda it: value.lower() == _kind(it)
        case b"USER":
            return lambda it: value == user_of(it).encode()
    return None


def _end(client: Client, chosen: list[Client]) -> int:
    for it in chosen:
        if it is client:
            it.close_when_done()
        else:
            it.transport.abort()
    return len(chosen)
