"""The command table: current with the engines, complete, and right about keys and slots."""

from __future__ import annotations

from importlib.resources import files

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachecluster_core.slots import slot_of_key
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
        if entry["kind"] in ("keys", "split"):
            flags = set(docs[entry["name"]]["flags"])
            assert not flags & {"admin", "pubsub"}, entry["name"]
            assert "blocking" not in flags or entry["check"] == "no_block", entry["name"]


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
        ("XREAD BLOCK 0 STREAMS a $", False),
        ("XREAD block\0 0 STREAMS a $", False),
        ("XREAD COUNT 1 STREAMS block $", True),
        ("XREADGROUP GROUP streams streams BLOCK 0 STREAMS a >", False),
        ("XREADGROUP GROUP block block COUNT 1 STREAMS a >", True),
        ("SORT a BY w_* GET #", False),
        ("SORT a GET # BY nosort LIMIT 0 1 ALPHA", True),
        ("SORT a GET o_*", False),
        ("SORT a get\0 o_*", False),
        ("EVAL script 0", False),
        ("EVAL script 1 a", True),
    ],
)
def test_commands_that_are_served_for_some_arguments(table: CommandTable, request_line: str, served: bool) -> None:
    words = [word.encode() for word in request_line.split()]
    entry = table.lookup(words[0])
    assert entry is not None
    assert (CHECKS[entry["check"]](words) is None) == served
