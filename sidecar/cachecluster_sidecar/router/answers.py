"""Replies that the router makes itself: what clients send on connecting, and the routers' own CACHECLUSTER command.

Each function answers one command; none of them waits, and none reaches an engine.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from . import cluster, connections, info, tracking, users
from .acl import User
from .commands import command_names, is_known, load_doc
from .core import Account, Client, Router
from .encode import OK, Simple, encode, error

log = logging.getLogger("cachecluster.router")

Arguments = list[bytes]
MOST_ARGUMENTS = 1024
"""Of a command that the router answers itself: others wait meanwhile."""
SYNTAX_ERROR = error("ERR syntax error")
NOT_INTEGER = error("ERR value is not an integer or out of range")
NO_CLUSTER = error("ERR This instance has cluster support disabled")
NO_PASSWORD = error(
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
NO_USER = User("")
"""Whom nobody can log in as: a name that is not known takes as long as a password that is wrong."""
WRONG_PASSWORD = error("WRONGPASS invalid username-password pair or user is disabled.")
NO_AUTH_IN_HELLO = error(
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time"
)
KNOWS_PIECES = b"+OK pieces\r\n"
"""The reply to a peer's greeting: it may say CACHECLUSTER PIECES, and make passages."""
PRINTABLE = re.compile(rb"[!-~]*")
BAD_NAME = error("ERR Client names cannot contain spaces, newlines or special characters.")


class Answers:
    """Called with the client, the command's name in the table and its arguments; returns the reply.

    None means: not before everything outstanding of this client is answered (the command is then served again).
    """

    def __init__(self, peer_token: Callable[[], bytes]) -> None:
        self._peer_token = peer_token

    def __call__(self, client: Client, name: str, arguments: Arguments) -> bytes | None:
        """The reply to one command."""
        if len(arguments) > MOST_ARGUMENTS:
            return error(f"ERR '{name}' takes at most {MOST_ARGUMENTS} arguments here; ask in several commands")
        try:
            if name == "cachecluster":
                return self._peer(client, arguments)
            if name.startswith("cluster|"):
                return self._cluster(client, arguments)
            return HANDLERS[name](client, arguments)
        except Exception:
            log.exception("no answer to %s", name)
            return error(f"ERR the router failed to answer '{name}'; its log says why")

    def _cluster(self, client: Client, arguments: Arguments) -> bytes:
        routes = client.router.routes
        if not client.cluster or routes is None:
            return NO_CLUSTER
        return cluster.answer(routes | {"announced": client.router.announced()}, arguments, client.proto)

    def _peer(self, client: Client, arguments: Arguments) -> bytes | None:
        """CACHECLUSTER HELLO, PIECES, RESUME, OFF, UNBLOCK and GATES; READS is for clients."""
        match [arguments[1].upper() if len(arguments) > 1 else b"", *arguments[2:]]:
            case [b"HELLO", proto, token, uid]:
                return self._greet_peer(client, proto, token, uid)
            case [b"HELLO", proto, token, uid, b"PASSAGE"]:
                if not client.router.admits_passage(client):
                    client.close_when_done()
                    return error("ERR too many connections of peers")
                reply = self._greet_peer(client, proto, token, uid)
                client.passage = client.peer
                return reply
            case [b"PIECES"] if client.peer:
                client.pieces = True
                return OK
            case [b"RESUME", partition] if client.peer:
                client.ungate(int(partition))
                return OK
            case [b"OFF", number] if client.peer:
                client.drop_link(int(number))
                return OK
            case [b"UNBLOCK", number, how] if client.peer:
                client.unblock_link(int(number), how)
                return OK
            case [b"READS", choice]:
                return _use_reads(client, choice)
            case [b"GATES"] if client.peer:
                gates = client.router.open_gates()
                return encode([f"{index} {epoch} {left_ms}" for index, epoch, left_ms in gates], client.proto)
        if not client.peer:
            client.close_when_done()
            return error("NOAUTH CACHECLUSTER commands are for the routers of the cluster, after CACHECLUSTER HELLO")
        return error(
            "ERR unknown CACHECLUSTER command; known are HELLO, PIECES, RESUME, AT, ON, NEAR, OFF, UNBLOCK and GATES"
        )

    def _greet_peer(self, client: Client, proto: bytes, token: bytes, uid: bytes) -> bytes | None:
        """Is it a router of this cluster, and does it mean this very pod? A reused address must not pass for it."""
        if not client.idle:
            return None
        if proto not in (b"2", b"3") or not hmac.compare_digest(token, self._peer_token()):
            client.close_when_done()
            return error("NOAUTH the token is not the one of this cluster")
        if uid != client.router.self_uid.encode():
            client.close_when_done()
            return error(f"WRONGPOD this is pod {client.router.self_uid}")
        client.become_peer(int(proto))
        return KNOWS_PIECES


def _use_reads(client: Client, choice: bytes) -> bytes:
    """CACHECLUSTER READS primary|default: whether replicas may answer what this connection reads."""
    if choice.lower() not in (b"primary", b"default"):
        return error("ERR CACHECLUSTER READS takes primary or default")
    client.wants_primary = choice.lower() == b"primary"
    return OK


def _info_of(client: Client) -> dict[str, Any]:
    """What a client has told about itself; made when it first does."""
    if client.info is None:
        client.info = {}
    return client.info


def _text(client: Client, text: str) -> bytes:
    """A text reply: verbatim in RESP3, as the engines do."""
    data = text.encode()
    return b"=%d\r\ntxt:%s\r\n" % (len(data) + 4, data) if client.proto == 3 else encode(data, 2)


def _ping(client: Client, arguments: Arguments) -> bytes:
    if len(arguments) > 2:
        return error("ERR wrong number of arguments for 'ping' command")
    message = arguments[1] if len(arguments) == 2 else b""
    if client.subs is not None and client.proto == 2:
        return encode([b"pong", message], 2)
    return encode(message, client.proto)


def _hello(client: Client, arguments: Arguments) -> bytes:
    """HELLO [protover [AUTH username password] [SETNAME clientname]]."""
    proto, name, account = client.proto, None, client.account
    if len(arguments) > 1:
        if not arguments[1].isdigit():
            return error("ERR Protocol version is not an integer or out of range")
        proto = int(arguments[1])
        if proto not in (2, 3):
            return error("NOPROTO unsupported protocol version")
    rest = arguments[2:]
    while rest:
        match rest[0].upper(), len(rest):
            case b"AUTH", n if n >= 3:
                known = _account(client, rest[1], rest[2])
                if known is None and (client.router.has_users or rest[1] != b"default"):
                    return WRONG_PASSWORD
                account, rest = known, rest[3:]
            case b"SETNAME", n if n >= 2:
                name, rest = rest[1], rest[2:]
            case _:
                return error(f"ERR Syntax error in HELLO option '{rest[0].decode(errors='replace')}'")
    if name is not None and not _valid_name(name):
        return BAD_NAME
    if account is not None and account.user is None:
        return NO_AUTH_IN_HELLO
    client.account = account
    if name is not None:
        _info_of(client)["name"] = name
    client.set_proto(proto)
    return _greeting(client)


def _greeting(client: Client) -> bytes:
    routes = client.router.routes
    settings = routes["settings"] if routes else {"engine": "valkey", "engineVersion": "0"}
    reply: dict[str, object] = {
        "server": settings["engine"],
        "version": settings["engineVersion"],
        "proto": client.proto,
        "id": client.id,
        "mode": "cluster" if client.cluster else "standalone",
        "role": "master",
        "modules": [],
    }
    return encode(reply, client.proto)


def _auth(client: Client, arguments: Arguments) -> bytes:
    """AUTH [username] password."""
    if len(arguments) > 3:
        return SYNTAX_ERROR
    if not client.router.has_users:
        return NO_PASSWORD if len(arguments) == 2 else OK if arguments[1] == b"default" else WRONG_PASSWORD
    account = _account(client, arguments[1] if len(arguments) == 3 else b"default", arguments[-1])
    if account is None:
        return WRONG_PASSWORD
    client.account = account
    return OK


def _account(client: Client, name: bytes, password: bytes) -> Account | None:
    """The account of a user that this password proves."""
    account = client.router.account_of(name.decode(errors="replace"))
    user = account.user if account is not None and account.user is not None else NO_USER
    return account if user.accepts(password) else None


def _select(client: Client, arguments: Arguments) -> bytes:
    try:
        number = int(arguments[1])
    except ValueError:
        return NOT_INTEGER
    return OK if number == 0 else error("ERR DB index is out of range")


def _quit(client: Client, arguments: Arguments) -> bytes:
    client.close_when_done()
    return OK


def _reset(client: Client, arguments: Arguments) -> bytes:
    client.set_proto(2)
    client.forget_transaction()
    client.stop_listening()
    client.stop_tracking()
    client.stop_monitoring()
    client.mute(0)
    client.info = None
    client.wants_primary = client.read_only = False
    client.account = client.router.account_of("default", nobody=True)
    return b"+RESET\r\n"


def _monitor(client: Client, arguments: Arguments) -> bytes:
    client.monitor()
    return OK


def _unwatch(client: Client, arguments: Arguments) -> bytes:
    client.unwatch()
    return OK


def _valid_name(name: bytes) -> bool:
    return PRINTABLE.fullmatch(name) is not None


def _client_setname(client: Client, arguments: Arguments) -> bytes:
    if not _valid_name(arguments[2]):
        return BAD_NAME
    _info_of(client)["name"] = arguments[2]
    return OK


def _client_getname(client: Client, arguments: Arguments) -> bytes:
    return encode((client.info or {}).get("name") or None, client.proto)


def _client_setinfo(client: Client, arguments: Arguments) -> bytes:
    attribute = arguments[2].lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        return error(f"ERR Unrecognized option '{arguments[2].decode(errors='replace')}'")
    if not _valid_name(arguments[3]):
        return error(f"ERR {attribute.decode()} cannot contain spaces, newlines or special characters.")
    _info_of(client)[attribute.decode()] = arguments[3]
    return OK


def _on_off(client: Client, arguments: Arguments) -> bytes:
    return OK if arguments[2].upper() in (b"ON", b"OFF") else SYNTAX_ERROR


def _client_reply(client: Client, arguments: Arguments) -> bytes:
    """CLIENT REPLY ON|OFF|SKIP; SKIP is about its own reply and the next one."""
    if arguments[2].upper() not in (b"ON", b"OFF", b"SKIP"):
        return SYNTAX_ERROR
    client.mute({b"ON": 0, b"OFF": -1, b"SKIP": -1 if client.muted < 0 else 2}[arguments[2].upper()])
    return OK


def _client_list(client: Client, arguments: Arguments) -> bytes:
    found = connections.listed(client, arguments[2:])
    return SYNTAX_ERROR if found is None else _text(client, found)


def _command(client: Client, arguments: Arguments) -> bytes:
    return _array([_command_entry(name, client.proto) for name in command_names(_engine(client.router))])


def _command_getkeys(client: Client, arguments: Arguments) -> bytes:
    entry = client.router.table.lookup(arguments[2])
    if entry is None:
        return error("ERR Invalid command specified")
    given, arity = len(arguments) - 2, entry["arity"]
    if given < -arity or (arity > 0 and given != arity):
        return error("ERR Invalid number of arguments specified for command")
    keys = client.router.table.keys(arguments[2:])
    return encode(keys, client.proto) if keys else error("ERR The command has no key arguments")


def _command_info(client: Client, arguments: Arguments) -> bytes:
    if len(arguments) == 2:
        return _command(client, arguments)
    wanted = [name.decode(errors="replace").lower() for name in arguments[2:]]
    none = encode(None, client.proto)
    return _array([_command_entry(name, client.proto) if is_known(name) else none for name in wanted])


def _command_docs(client: Client, arguments: Arguments) -> bytes:
    wanted = [name.decode(errors="replace").lower() for name in arguments[2:]]
    names = [name for name in dict.fromkeys(wanted or command_names(_engine(client.router))) if is_known(name)]
    head = b"%%%d\r\n" % len(names) if client.proto == 3 else b"*%d\r\n" % (2 * len(names))
    return head + b"".join([_doc_entry(name, client.proto) for name in names])


@cache
def _doc_entry(name: str, proto: int) -> bytes:
    """Name and document of a command: one pair of COMMAND DOCS."""
    return encode(name, proto) + encode(_doc(name), proto)


def _doc(name: str) -> dict[str, Any]:
    entry = load_doc(name)
    doc = dict(entry.get("doc", {}))
    if entry["subcommands"]:
        doc["subcommands"] = {sub: _doc(sub) for sub in entry["subcommands"]}
    return doc


def _array(items: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(items)


@cache
def _command_entry(name: str, proto: int) -> bytes:
    """One element of COMMAND (redis.io, COMMAND: ten fields). Kept: many clients that come at once all ask for it."""
    entry = load_doc(name)
    head = [name, entry["arity"], {Simple(flag) for flag in entry["flags"]}, *entry["range"]]
    items = [encode(value, proto) for value in head]
    items.append(encode({Simple(category) for category in entry["acl"]}, proto))
    items.append(encode(entry["tips"], proto))
    items.append(encode([_key_spec(spec) for spec in entry["specs"]], proto))
    items.append(_array([_command_entry(sub, proto) for sub in entry["subcommands"]]))
    return _array(items)


def _key_spec(flat: list[Any]) -> dict[str, Any]:
    """A key specification: maps in RESP3, where the file has RESP2's flat arrays."""
    spec = _pairs(flat)
    spec["flags"] = {Simple(flag) for flag in spec["flags"]}
    for part in ("begin_search", "find_keys"):
        fields = _pairs(spec[part])
        spec[part] = fields | {"spec": _pairs(fields["spec"])}
    return spec


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return {flat[at]: flat[at + 1] for at in range(0, len(flat), 2)}


def _engine(router: Router) -> str:
    return str(router.routes["settings"]["engine"]) if router.routes else "valkey"


def _time(client: Client, arguments: Arguments) -> bytes:
    now_us = time.time_ns() // 1000
    return encode([str(now_us // 1_000_000), str(now_us % 1_000_000)], client.proto)


def _cluster_only(client: Client, arguments: Arguments) -> bytes:
    return OK if client.cluster else NO_CLUSTER


def _read_only(client: Client, arguments: Arguments) -> bytes:
    """READONLY and READWRITE: with `spec.reads` of replicas, whether those of this pod may answer."""
    client.read_only = client.cluster and arguments[0].upper() == b"READONLY"
    return _cluster_only(client, arguments)


HANDLERS: dict[str, Callable[[Client, Arguments], bytes]] = {
    "acl|cat": users.categories,
    "acl|genpass": users.password,
    "acl|whoami": lambda client, arguments: encode(connections.user_of(client), client.proto),
    "asking": _cluster_only,
    "auth": _auth,
    "client|capa": lambda client, arguments: OK,
    "client|getname": _client_getname,
    "client|id": lambda client, arguments: encode(client.id, client.proto),
    "client|info": lambda client, arguments: _text(client, connections.line(client)),
    "client|getredir": lambda client, arguments: encode(
        client.tracking.redirect if client.tracking else -1, client.proto
    ),
    "client|kill": connections.kill,
    "client|list": _client_list,
    "client|no-evict": _on_off,
    "client|no-touch": _on_off,
    "client|reply": _client_reply,
    "client|setinfo": _client_setinfo,
    "client|setname": _client_setname,
    "client|trackinginfo": lambda client, arguments: encode(tracking.described(client.tracking), client.proto),
    "client|unblock": connections.unblock,
    "command": _command,
    "command|count": lambda client, arguments: encode(len(command_names(_engine(client.router))), client.proto),
    "command|docs": _command_docs,
    "command|getkeys": _command_getkeys,
    "command|info": _command_info,
    "command|list": lambda client, arguments: encode(command_names(_engine(client.router)), client.proto),
    "config|get": lambda client, arguments: encode(info.config_get(client.router, client, arguments[2:]), client.proto),
    "echo": lambda client, arguments: encode(arguments[1], client.proto),
    "hello": _hello,
    "info": lambda client, arguments: _text(client, info.info(client.router, client, arguments[1:])),
    "lastsave": lambda client, arguments: encode(info.STARTED_AT, client.proto),
    "lolwut": lambda client, arguments: _text(client, info.name_and_version(client.router)),
    "monitor": _monitor,
    "ping": _ping,
    "quit": _quit,
    "readonly": _read_only,
    "readwrite": _read_only,
    "reset": _reset,
    "role": lambda client, arguments: encode(["master", 0, []], client.proto),
    "select": _select,
    "time": _time,
    "unwatch": _unwatch,
}
