"""Users and what they may do, in the syntax of Redis' ACL files. Values only; knows no client and no engine.

A file has a line for each user: `user <name> <rule> ...`. Source of the rules: redis.io, ACL SETUSER; of what they mean
together: acl.c of Redis 7.0 and Valkey. Unlike there, `default` is off unless a line says otherwise: who configures
users does not want a door without a lock beside them. What is wrong is told by its place, never by its words: one that
stands where it does not belong may be a password.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

DIGEST = re.compile(r"[0-9a-f]{64}")
SPECIAL = re.compile(rb"[*?\[\\]")
PERMISSIONS = {"R": (True, False), "W": (False, True), "RW": (True, True), "WR": (True, True)}
BLANK = re.compile(r"[ \t\r]+")
IGNORED = {"sanitize-payload", "skip-sanitize-payload", "alldbs", "db=0"}
"""The first two are about RESTORE: engines here always check what they are given. There is one database only."""


class AclError(ValueError):
    """A line of the file that is no user: which one, what is wrong with it, and what to write instead."""


@dataclass(frozen=True, slots=True)
class KeyPattern:
    """A glob of keys, and what may be done with those that match."""

    glob: bytes
    read: bool = True
    write: bool = True


@dataclass(frozen=True, slots=True)
class Grant:
    """One set of permissions: a command is allowed if all that it needs is in the same grant.

    `commands` are names as in the command table, `container|subcommand` for subcommands.
    """

    commands: frozenset[str] = frozenset()
    keys: tuple[KeyPattern, ...] = ()
    channels: tuple[bytes, ...] = ()
    may_script: bool = False
    """Whether all that a script can do is granted: engines know nobody but the router, so nothing less will do."""

    @property
    def all_keys(self) -> bool:
        """Every key, to read and to write."""
        return any(it.glob == b"*" and it.read and it.write for it in self.keys)

    def prefixes(self) -> Iterator[tuple[KeyPattern, bytes]]:
        """The patterns that ask for no more than how a key begins, with that beginning."""
        for pattern in self.keys:
            if pattern.glob.endswith(b"*") and not SPECIAL.search(pattern.glob[:-1]):
                yield pattern, pattern.glob[:-1]

    def may_touch(self, key: bytes, *, read: bool, write: bool) -> bool:
        """Whether one pattern allows all of it."""
        return any((it.read or not read) and (it.write or not write) and matches(it.glob, key) for it in self.keys)

    def may_use(self, channel: bytes, *, pattern: bool = False) -> bool:
        """Whether messages of a channel may be published or heard; a pattern must be granted as it is written."""
        if pattern:
            return any(it in (b"*", channel) for it in self.channels)
        return any(matches(it, channel) for it in self.channels)


@dataclass(frozen=True, slots=True)
class User:
    """`digests` are of the passwords, each SHA-256 in hex; any of them will do, so that they can be rotated.

    `grants` are the user's own rules and those of selectors, `(...)`.
    """

    name: str
    enabled: bool = False
    needs_password: bool = True
    digests: frozenset[str] = frozenset()
    grants: tuple[Grant, ...] = (Grant(),)

    def accepts(self, password: bytes) -> bool:
        """Whether somebody who says this password is this user. It takes as long for one who is not."""
        given = hashlib.sha256(password).hexdigest()
        known = [hmac.compare_digest(given, digest) for digest in sorted(self.digests)]
        return self.enabled and (any(known) or not self.needs_password)


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands that an engine has: their names, the names in each category (without the @), and those that the
    router has an engine do for a script."""

    names: frozenset[str]
    categories: Mapping[str, frozenset[str]] = field(default_factory=dict)
    scriptable: frozenset[str] = frozenset()

    def named(self, name: str) -> frozenset[str]:
        """A command with its subcommands; nothing when there is none of that name."""
        return frozenset(it for it in self.names if it == name or it.startswith(f"{name}|"))


def parse(text: str, commands: Commands) -> dict[str, User]:
    """The users of a file, by name. AclError names the line."""
    users: dict[str, User] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = BLANK.split(line.strip(" \t\r"))
        if not words[0] or words[0].startswith("#"):
            continue
        try:
            user = _user(words, commands)
            if user.name in users:
                raise AclError("this user has a line already: write all its rules in one")
        except AclError as error:
            raise AclError(f"line {number}: {error}") from None
        users[user.name] = user
    if not users:
        raise AclError("there is no user in it")
    return users


def _user(words: list[str], commands: Commands) -> User:
    if words[0].lower() != "user" or len(words) < 2:
        raise AclError("it begins with neither `user <name>` nor #")
    user = User(words[1])
    for number, rule in _joined(words[2:]):
        try:
            user = _with_rule(user, rule, commands)
        except AclError as error:
            raise AclError(f"word {number}: {error}") from None
    return replace(user, grants=tuple(_settled(grant, commands) for grant in user.grants))


def _settled(grant: Grant, commands: Commands) -> Grant:
    everything = grant.all_keys and b"*" in grant.channels and commands.scriptable <= grant.commands
    return replace(grant, may_script=everything)


def _joined(words: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Rules with the numbers of their words in the line; a selector, `(...)`, is one."""
    began, open_words = 0, list[str]()
    for number, word in enumerate(words, 3):
        if not open_words and not word.startswith("("):
            yield number, word
            continue
        began = began if open_words else number
        open_words.append(word)
        if word.endswith(")"):
            yield began, " ".join(open_words)
            open_words = []
    if open_words:
        raise AclError(f"word {began}: the selector that begins there has no closing parenthesis")


def _with_rule(user: User, rule: str, commands: Commands) -> User:
    word = rule.lower()
    match word:
        case "on" | "off":
            return replace(user, enabled=word == "on")
        case "nopass":
            return replace(user, needs_password=False, digests=frozenset())
        case "resetpass":
            return replace(user, needs_password=True, digests=frozenset())
        case "reset":
            return User(user.name)
        case "clearselectors":
            return replace(user, grants=user.grants[:1])
    if word in IGNORED:
        return user
    if rule[0] in "><#!":
        return _with_password(user, rule)
    if rule[0] == "(":
        grant = Grant()
        for part in rule[1:-1].split():
            grant = _with_permission(grant, part, commands)
        return replace(user, grants=(*user.grants, grant))
    return replace(user, grants=(_with_permission(user.grants[0], rule, commands), *user.grants[1:]))


def _with_password(user: User, rule: str) -> User:
    digest = rule[1:] if rule[0] in "#!" else hashlib.sha256(rule[1:].encode()).hexdigest()
    if not DIGEST.fullmatch(digest):
        raise AclError(f"{rule[0]} takes a SHA-256 as 64 lower-case hex digits")
    if rule[0] in ">#":
        return replace(user, needs_password=True, digests=user.digests | {digest})
    if digest not in user.digests:
        raise AclError("the user has no such password, so it cannot be taken away")
    return replace(user, digests=user.digests - {digest})


def _with_permission(grant: Grant, rule: str, commands: Commands) -> Grant:
    match rule.lower():
        case "allkeys":
            return replace(grant, keys=(KeyPattern(b"*"),))
        case "resetkeys":
            return replace(grant, keys=())
        case "allchannels":
            return replace(grant, channels=(b"*",))
        case "resetchannels":
            return replace(grant, channels=())
        case "allcommands":
            return replace(grant, commands=commands.names)
        case "nocommands":
            return replace(grant, commands=frozenset())
    if rule[0] == "~":
        return _with_keys(grant, KeyPattern(rule[1:].encode()))
    if rule[0] == "%" and "~" in rule:
        letters, _, glob = rule[1:].partition("~")
        if letters.upper() not in PERMISSIONS:
            raise AclError("write %R~pattern, %W~pattern or %RW~pattern")
        return _with_keys(grant, KeyPattern(glob.encode(), *PERMISSIONS[letters.upper()]))
    if rule[0] == "&":
        if rule == "&*":
            return replace(grant, channels=(b"*",))
        if b"*" in grant.channels:
            raise AclError("all channels are granted already; write resetchannels before it")
        return replace(grant, channels=(*grant.channels, rule[1:].encode()))
    if rule[0] in "+-" and len(rule) > 1:
        meant = _meant(rule[1:].lower(), commands)
        return replace(grant, commands=grant.commands | meant if rule[0] == "+" else grant.commands - meant)
    raise AclError("it is no rule (a password has > before it): see redis.io/docs/latest/commands/acl-setuser")


def _with_keys(grant: Grant, pattern: KeyPattern) -> Grant:
    if pattern == KeyPattern(b"*"):
        return replace(grant, keys=(pattern,))
    if grant.all_keys:
        raise AclError("all keys are granted already; write resetkeys before it")
    return replace(grant, keys=(*grant.keys, pattern))


def _meant(name: str, commands: Commands) -> frozenset[str]:
    """The commands that +name or -name is about."""
    if name == "@all":
        return commands.names
    if name.startswith("@"):
        found = commands.categories.get(name[1:])
        if found is None:
            raise AclError("there is no such category: ACL CAT lists them")
        return found
    meant = commands.named(name)
    if not meant:
        raise AclError("there is no such command: COMMAND LIST lists them; of a subcommand it is container|subcommand")
    return meant


def matches(glob: bytes, data: bytes) -> bool:
    """Redis' own globs: * ? [abc] [^a] [a-z] and \\ for what follows."""
    return glob == b"*" or _compiled(glob)(data)


@lru_cache(4096)
def _compiled(glob: bytes) -> Callable[[bytes], bool]:
    """What stands between two stars is looked for once, where it comes first: another place would find nothing else,
    and to try them all takes time that grows with a power of the length."""
    parts, at = [b""], 0
    while at < len(glob):
        if glob[at : at + 1] == b"*":
            at += 1
            parts.append(b"")
        else:
            at, piece = _piece(glob, at)
            parts[-1] += piece
    first, *middle = parts
    last = b".*" + middle.pop() if middle else b""
    found = re.compile(first + b"".join(b"(?>.*?" + part + b")" for part in middle if part) + last, re.DOTALL).fullmatch
    return lambda data: found(data) is not None


def _piece(glob: bytes, at: int) -> tuple[int, bytes]:
    """Where the next piece of a glob ends, and its regular expression."""
    match glob[at : at + 1]:
        case b"?":
            return at + 1, b"."
        case b"[":
            return _class(glob, at + 1)
        case b"\\" if at + 1 < len(glob):
            return at + 2, re.escape(glob[at + 1 : at + 2])
        case one:
            return at + 1, re.escape(one)


def _class(glob: bytes, at: int) -> tuple[int, bytes]:
    """A class behind its bracket; one that is not closed ends with the glob, as in Redis."""
    inverted = glob[at : at + 1] == b"^"
    at += inverted
    parts = b""
    while at < len(glob) and glob[at : at + 1] != b"]":
        if glob[at : at + 1] == b"\\" and at + 1 < len(glob):
            at += 1
            parts += re.escape(glob[at : at + 1])
        elif glob[at + 1 : at + 2] == b"-" and at + 2 < len(glob):
            low, high = sorted((glob[at], glob[at + 2]))
            parts += re.escape(bytes([low])) + b"-" + re.escape(bytes([high]))
            at += 2
        else:
            parts += re.escape(glob[at : at + 1])
        at += 1
    end = min(at + 1, len(glob))
    if not parts:
        return end, b"." if inverted else b"(?!)"
    return end, (b"[^" if inverted else b"[") + parts + b"]"
