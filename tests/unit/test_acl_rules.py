"""Users in the syntax of Redis' ACL files: what they say, and what is wrong with those that say nothing."""

from __future__ import annotations

import hashlib
from dataclasses import replace

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
    assert "default" not in parse("user app on", COMMANDS)
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


def test_an_option_is_one_in_any_case_up_to_a_byte_0_and_each_counts() -> None:
    def keys(*arguments: bytes) -> list[tuple[bytes, bool, bool]]:
        return list(touched(arguments[0].decode(), list(arguments)))

    sources = (b"georadius", b"a", b"15", b"37", b"200", b"km")
    read, stored = (b"a", True, False), [(b"b", False, True), (b"c", False, True)]
    assert set(keys(*sources, b"STORE", b"b", b"storedist\0x", b"c")) == {read, *stored}
    assert set(keys(b"sort", b"a", b"store\0", b"b", b"STORE", b"c")) == {read, *stored}
    assert keys(b"xread", b"streams\0", b"a", b"0") == [read]
    assert keys(b"set", b"a", b"v", b"get\0") == [(b"a", True, True)]
    assert keys(b"bitfield", b"a", b"get\0", b"u8", b"0") == [read]
    for write in ([b"set\0", b"u8", b"0", b"1"], [b"get", b"u8"], [b"overflow", b"wrap", b"incrby", b"u8", b"0", b"1"]):
        assert keys(b"bitfield", b"a", *write) == [(b"a", True, True)]


def test_prefixes_are_patterns_without_another_special_byte() -> None:
    found = user("~a:* %R~b\\** ~c?* ~exact ~*d* %W~e*").grants[0].prefixes()
    assert [(pattern.write, prefix) for pattern, prefix in found] == [(True, b"a:"), (True, b"e")]
    assert [prefix for _, prefix in user("~*").grants[0].prefixes()] == [b""]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("app on", "`user <name>`"),
        ("user", "`user <name>`"),
        ("user app +nonsense", "word 3: there is no such command"),
        ("user app +@nonsense", "word 3: there is no such category"),
        ("user app on nonsense", "word 4: it is no rule"),
        ("user app #abc", "64 lower-case hex digits"),
        ("user app <nonsense", "no such password"),
        ("user app %nonsense~a", "%R~pattern"),
        ("user app on (+get ~nonsense", "word 4: the selector"),
        ("user app (+get >nonsense)", "word 3: it is no rule"),
        ("user app ~* ~nonsense", "all keys are granted already"),
        ("user app &* &nonsense", "all channels are granted already"),
        ("user other on\nuser nonsense on\nuser nonsense off", "line already"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(line: str, why: str) -> None:
    with pytest.raises(AclError, match=r"^line \d+: ") as told:
        parse(line, COMMANDS)
    assert why in str(told.value)
    assert "nonsense" not in str(told.value), "a word where it does not belong may be a password"
    with pytest.raises(AclError, match="no user"):
        parse("# nobody", COMMANDS)


def test_blank_lines_and_remarks_are_no_users() -> None:
    assert set(parse("\n# people\r\nuser app on\r\n", COMMANDS)) == {"app"}
    assert parse("user app on >a\u00a0b", COMMANDS)["app"].accepts("a\u00a0b".encode()), (
        "only blanks and tabs part words"
    )


def test_a_glob_takes_no_time_that_grows_with_a_power_of_the_key() -> None:
    key = b":a:b" * 50_000
    assert not matches(b"*:a:*:b:*:a:*:c", key) and matches(b"*:a:*b:a*:b", key)


def test_scripts_take_all_that_they_can_do() -> None:
    commands = replace(COMMANDS, scriptable=frozenset({"get", "flushall"}))
    for rules, may in (
        ("~* &* +@all", True),
        ("~* +@all", False),
        ("&* +@all", False),
        ("~* &* +@all -flushall", False),
    ):
        assert parse(f"user app {rules}", commands)["app"].grants[0].may_script == may, rules


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
