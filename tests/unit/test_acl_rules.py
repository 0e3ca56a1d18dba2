"""Users in the syntax of Redis' ACL files: what they say, and what is wrong with those that say nothing."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachecluster_sidecar.router.access import objection, only_key, permissions, touched
from cachecluster_sidecar.router.acl import AclError, Commands, KeyPattern, User, matches, parse
from cachecluster_sidecar.router.commands import command_names

pytestmark = pytest.mark.t0

COMMANDS = Commands(
    frozenset({"get", "set", "publish", "client", "client|list", "client|kill", "flushall"}),
    {"read": frozenset({"get"}), "dangerous": frozenset({"client|list", "client|kill", "flushall"})},
)


def user(rules: str) -> User:
    return parse(f"user app {rules}", COMMANDS)["app"]


def test_default_is_off_until_a_line_says_otherwise() -> None:
    assert not parse("", COMMANDS)["default"].accepts(b"")
    assert parse("user default on nopass ~* &* +@all", COMMANDS)["default"].accepts(b"anything")


def test_two_passwords_are_accepted_while_one_replaces_the_other() -> None:
    digest = hashlib.sha256(b"new").hexdigest()
    assert [user(f"on >old #{digest}").accepts(it) for it in (b"old", b"new", b"other")] == [True, True, False]
    assert [user(f"on >old #{digest} <old").accepts(it) for it in (b"old", b"new")] == [False, True]
    assert not user(f"on >old !{hashlib.sha256(b'old').hexdigest()}").accepts(b"old")
    assert not user("off >old").accepts(b"old")
    assert not user("on nopass resetpass").accepts(b"")


def test_rules_count_in_their_order() -> None:
    assert user("+@all -@dangerous +client|list").grants[0].commands == COMMANDS.names - {"client|kill", "flushall"}
    assert user("+client -client|kill").grants[0].commands == {"client", "client|list"}
    assert user("+@all on >p ~a reset").grants == User("app").grants


def test_keys_are_granted_to_read_and_to_write_and_a_selector_stands_alone() -> None:
    app = user("+get ~cache:* %R~shared:* (+set %W~log:* &news)")
    assert app.grants[0].keys == (KeyPattern(b"cache:*"), KeyPattern(b"shared:*", read=True, write=False))
    allowed = ["get cache:1", "get shared:1", "set log:1 v"]
    refused = ["set cache:1 v", "set shared:1 v", "get log:1", "set log:1 v GET", "publish news m"]
    for line in allowed + refused:
        words = line.encode().split()
        assert (objection(app, words[0].decode(), words) is None) == (line in allowed), line
    assert user("allkeys").grants[0].all_keys and not app.grants[0].all_keys


@pytest.mark.parametrize("name", [name for name in command_names("valkey") if only_key(name)])
@given(st.lists(st.sampled_from([b"STORE", b"GET", b"SET", b"INCRBY", b"0", b"1", b"2", b"other"]), max_size=6))
def test_what_is_known_of_an_only_key_covers_all_options(name: str, options: list[bytes]) -> None:
    for key, read, write in touched(name, [name.encode(), b"key", *options]):
        assert key == b"key" and permissions(read, write) & ~only_key(name) == 0


def test_prefixes_are_patterns_without_another_special_byte() -> None:
    found = user("~a:* %R~b\\** ~c?* ~exact ~*d* %W~e*").grants[0].prefixes()
    assert [(pattern.write, prefix) for pattern, prefix in found] == [(True, b"a:"), (True, b"e")]
    assert [prefix for _, prefix in user("~*").grants[0].prefixes()] == [b""]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("app on", "`user <name>`"),
        ("user", "`user <name>`"),
        ("user app +nonsense", "there is no command NONSENSE"),
        ("user app +@nonsense", "there is no category @nonsense"),
        ("user app nonsense", "nonsense is no rule"),
        ("user app #abc", "64 lower-case hex digits"),
        ("user app %X~a", "%R~pattern"),
        ("user app (+get ~a", "closing parenthesis"),
        ("user other on\nuser app on\nuser app off", "defined twice"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(line: str, why: str) -> None:
    with pytest.raises(AclError, match=r"^line \d+: ") as told:
        parse(line, COMMANDS)
    assert why in str(told.value)


def test_blank_lines_and_remarks_are_no_users() -> None:
    assert set(parse("\n# people\nuser app on\n", COMMANDS)) == {"app", "default"}


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        (b"*", b"", None),
        (b"a*c", b"abbc", b"abd"),
        (b"a?c", b"a\nc", b"ac"),
        (b"[ab]x", b"bx", b"cx"),
        (b"[^ab]x", b"cx", b"ax"),
        (b"[c-a]", b"b", b"d"),
        (b"a\\*", b"a*", b"ab"),
        (b"[a", b"a", b"b"),
        (b"\xff*", b"\xff1", b"\xfe"),
    ],
)
def test_globs_are_those_of_redis(glob: bytes, yes: bytes, no: bytes | None) -> None:
    assert matches(glob, yes) and (no is None or not matches(glob, no))
