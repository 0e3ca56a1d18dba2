"""The command table: current with the engines, complete, and right about keys and slots."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachecluster_core.slots import slot_of_key
from cachecluster_sidecar.router import blocking
from cachecluster_sidecar.router.checks import CHECKS
from cachecluster_sidecar.router.command_table import CommandTable, slot
from cachecluster_sidecar.router.commands import load_commands, load_docs
from cachecluster_sidecar.router.generate_commands import generate

pytestmark = pytest.mark.t0


@pytest.fixture(scope="module")
def table() -> CommandTable:
    return CommandTable(load_commands())


@pytest.mark.t1
def test_the_checked_in_files_are_what_the_engines_say() -> None:
    package = files("cachecluster_sidecar.router")
    for name, content in generate().items():
        stored = (package / name).read_text()
        assert stored == content, f"{name} is stale: run python -m cachecluster_sidecar.router.generate_commands"


@given(st.binary(max_size=60))
@example(b"{}")
@example(b"{a")
@example(b"a}{b}c")
@example(b"{{a}}")
def test_slots_are_those_of_the_core(key: bytes) -> None:
    assert slot(key) == slot_of_key(key)


@given(st.text("{}ab", max_size=12))
def test_hash_tags_are_those_of_the_core(key: str) -> None:
    assert slot(key.encode()) == slot_of_key(key.encode())


def test_names_are_found_in_any_case(table: CommandTable) -> None:
    for entry in load_commands():
        name, _, sub = entry["name"].partition("|")
        assert table.lookup(name.upper().encode(), sub.title().encode() if sub else None) == entry
    assert table.lookup(b"nonsense") is None
    assert table.lookup(b"client", b"nonsense") is None


def test_every_command_of_both_engines_is_classified() -> None:
    names = {entry["name"] for entry in load_commands()}
    assert names == set(load_docs())


def test_forwarded_commands_never_change_a_shared_connection() -> None:
    docs = load_docs()
    for entry in load_commands():
        if entry["kind"] in ("keys", "split", "members"):
            flags = set(docs[entry["name"]]["flags"])
            assert not flags & {"admin", "pubsub"} or entry["name"] == "spublish", entry["name"]
            assert "blocking" not in flags or entry["blocks"], entry["name"]


@pytest.mark.parametrize(
    ("request_line", "keys"),
    [
        ("GET a", "a"),
        ("MSET a 1 b 2", "a b"),
        ("DEL a b c", "a b c"),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b"),
        ("XREAD COUNT 2 STREAMS a b 0 0", "a b"),
        ("XREAD STREAMS\0 streams b 0 0", "streams b"),
        ("xreadgroup GROUP g c streams a >", "a"),
        ("EVAL script 2 a b x", "a b"),
        ("SORT a BY nosort STORE b", "a b"),
        ("SORT a store\0x b", "a b"),
        ("SORT a STORE b STORE c", "a b c"),
        ("SORT a BY STORE STORE b", "a STORE b"),
        ("GEORADIUS a 1 2 3 m STORE b", "a b"),
        ("GEORADIUS a 1 2 3 m STORE b STOREDIST c", "a b c"),
        ("BITOP AND d a b", "d a b"),
        ("LMPOP 2 a b LEFT", "a b"),
        ("OBJECT ENCODING a", "a"),
        ("XINFO STREAM a FULL", "a"),
        ("XGROUP CREATE a g $", "a"),
        ("SINTERCARD 0 a", ""),
        ("ZUNION many a", ""),
        ("XREAD COUNT 2", ""),
        ("PING a", ""),
    ],
)
def test_keys_of_a_request(table: CommandTable, request_line: str, keys: str) -> None:
    assert table.keys([word.encode() for word in request_line.split()]) == keys.encode().split()


@pytest.mark.parametrize(
    ("request_line", "served"),
    [
        ("SORT a BY w_* GET #", False),
        ("SORT a GET # BY nosort LIMIT 0 1 ALPHA", True),
        ("SORT a GET o_*", False),
        ("SORT a get\0 o_*", False),
    ],
)
def test_commands_that_are_served_for_some_arguments(table: CommandTable, request_line: str, served: bool) -> None:
    words = [word.encode() for word in request_line.split()]
    entry = table.lookup(words[0])
    assert entry is not None
    assert (CHECKS[entry["check"]](words) is None) == served


@pytest.mark.parametrize(
    ("request_line", "limit", "with_2_s"),
    [
        ("BLPOP a b 1.5", 1.5, "BLPOP a b 2.000"),
        ("blmove a b LEFT RIGHT 0", 0, "blmove a b LEFT RIGHT 2.000"),
        ("BLMPOP 3 1 a LEFT", 3, "BLMPOP 2.000 1 a LEFT"),
        ("BZPOPMIN a nonsense", 0, "BZPOPMIN a 2.000"),
        ("BZPOPMIN a inf", 0, "BZPOPMIN a 2.000"),
        ("XREAD BLOCK 1500 STREAMS a $", 1.5, "XREAD BLOCK 2000 STREAMS a $"),
        ("XREAD block\0 0 STREAMS a $", 0, "XREAD block\0 2000 STREAMS a $"),
        (
            "XREADGROUP GROUP streams streams BLOCK 5 STREAMS a >",
            0.005,
            "XREADGROUP GROUP streams streams BLOCK 2000 STREAMS a >",
        ),
        ("XREAD COUNT 1 STREAMS block $", None, "XREAD COUNT 1 STREAMS block $"),
        ("XREADGROUP GROUP block block COUNT 1 STREAMS a >", None, "XREADGROUP GROUP block block COUNT 1 STREAMS a >"),
        ("XREAD BLOCK", None, "XREAD BLOCK"),
    ],
)
def test_how_long_a_command_waits(request_line: str, limit: float | None, with_2_s: str) -> None:
    words = [word.encode() for word in request_line.split(" ")]
    assert (blocking.limit_at(words) is None) == (limit is None)
    assert blocking.limit_s(words) == (limit or 0)
    assert blocking.with_limit(words, 2.0) == [word.encode() for word in with_2_s.split(" ")]


def test_a_time_that_is_over_is_not_for_ever() -> None:
    assert blocking.with_limit([b"BLPOP", b"a", b"1"], -5.0) == [b"BLPOP", b"a", b"0.001"]
    assert blocking.with_limit([b"XREAD", b"BLOCK", b"1", b"STREAMS", b"a", b"$"], -5.0)[2] == b"1"
