"""The agent's RESP parser against hiredis, and INFO replies that are not what they should be."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachecluster_core.agent_view import Attached
from cachecluster_core.hashring import CopyId
from cachecluster_sidecar.agent.observation import parse_info
from cachecluster_sidecar.agent.resp import ProtocolError, ReplyError, ReplyParser, encode

pytestmark = pytest.mark.t0

lines = st.binary(max_size=20).filter(lambda line: b"\r" not in line and b"\n" not in line)
scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b":%d\r\n" % number),
    st.binary(max_size=40).map(lambda data: b"$%d\r\n%b\r\n" % (len(data), data)),
    lines.map(lambda line: b"+%b\r\n" % line),
    st.just(b"$-1\r\n"),
    st.just(b"*-1\r\n"),
)
replies = st.recursive(
    scalars, lambda items: st.lists(items, max_size=4).map(lambda parts: b"*%d\r\n%b" % (len(parts), b"".join(parts)))
)

PRIMARY = b"""# Replication\r
role:master\r
connected_slaves:2\r
slave0:ip=pod-b.abc,port=17001,state=online,offset=140,lag=1\r
slave1:ip=10.1.2.3,port=17002,state=wait_bgsave,offset=0,lag=0,type=replica\r
master_replid:8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb\r
master_replid2:0000000000000000000000000000000000000000\r
master_repl_offset:154\r
\r
# Persistence\r
loading:0\r
async_loading:0\r
\r
# Memory\r
used_memory:1048576\r
\r
# Keyspace\r
db0:keys=12,expires=3,avg_ttl=0\r
"""


@given(st.lists(replies, min_size=1, max_size=4), st.integers(1, 7))
def test_replies_are_what_hiredis_says_however_they_are_cut(stream: list[bytes], width: int) -> None:
    data = b"".join(stream)
    oracle = hiredis.Reader()
    oracle.feed(data)
    expected = [oracle.gets() for _ in stream]
    parser, found = ReplyParser(), []
    for start in range(0, len(data), width):
        found += parser.feed(data[start : start + width])
    assert found == expected


def test_an_error_is_a_value_with_its_text() -> None:
    (error,) = ReplyParser().feed(b"-LOADING wait\r\n")
    assert isinstance(error, ReplyError) and str(error) == "LOADING wait"


@pytest.mark.parametrize("data", [b"?what\r\n", b":x\r\n", b"$1x\r\n", b"%1\r\n"])
def test_what_is_not_resp2_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyParser().feed(data)


def test_a_reply_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="longer than 10"):
        ReplyParser(max_bytes=10).feed(b"$100\r\n" + b"x" * 50)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_commands_are_encoded_as_hiredis_does(arguments: list[bytes]) -> None:
    assert encode(arguments) == hiredis.pack_command(tuple(arguments))


def test_a_primary_with_a_named_and_a_nameless_replica() -> None:
    seen = parse_info(PRIMARY)
    assert seen.replid == "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb"
    assert seen.source is None and seen.offset == 154 and not seen.has_stream
    assert seen.attached == (Attached(CopyId("pod-b", "abc"), True, 140), Attached(None, False, 0))
    assert not seen.settled, "a replica that is not online yet is worth looking again soon"
    assert (seen.used_memory, seen.keys) == (1048576, 12)


def test_figures_for_people_are_kept_when_only_the_state_was_asked_for() -> None:
    before = parse_info(PRIMARY)
    seen = parse_info(PRIMARY.partition(b"# Memory")[0], before)
    assert (seen.used_memory, seen.keys) == (1048576, 12)


def test_an_empty_database_has_no_line_and_no_keys() -> None:
    before = parse_info(PRIMARY)
    assert parse_info(PRIMARY.partition(b"db0:")[0], before).keys == 0


@pytest.mark.parametrize(
    "field", [b"role:master\r\n", b"master_replid:8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb\r\n", b"loading:0\r\n"]
)
def test_a_missing_field_is_named(field: bytes) -> None:
    with pytest.raises(ValueError, match="no field"):
        parse_info(PRIMARY.replace(b"\n" + field, b"\n", 1).replace(b"async_", b"async-"))


def test_a_sealed_copy_waits_for_nothing() -> None:
    def replica(**fields: Any) -> bytes:
        values = {"role": "slave", "master_host": "127.0.0.1", "master_port": 1, "master_link_status": "down"}
        values |= {"master_sync_in_progress": 0, "slave_repl_offset": 70, "master_replid": "a", "loading": 0} | fields
        return b"".join(f"\n{name}:{value}\r".encode() for name, value in values.items())

    assert not parse_info(replica()).awaits_link and parse_info(replica(master_port=17001)).awaits_link
    assert not parse_info(replica(master_port=17001, master_link_status="up")).awaits_link
    assert parse_info(replica()).settled and parse_info(replica()).has_stream
    assert not parse_info(replica(master_port=17001)).settled
    assert parse_info(replica(master_port=17001, master_link_status="up")).settled
    assert not parse_info(replica(slave_repl_offset=1)).has_stream
    assert parse_info(replica(loading=1)).syncing and parse_info(replica(master_sync_in_progress=1)).syncing
