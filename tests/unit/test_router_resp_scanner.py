"""The RESP scanner against hiredis: the same frames, whatever the pieces they arrive in."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachecluster_sidecar.router.feeds import ReplyFeed, RequestFeed
from cachecluster_sidecar.router.resp import (
    MAX_INLINE_BYTES,
    ProtocolError,
    encode_request,
    split_inline,
    split_requests,
)

pytestmark = pytest.mark.t0

CORPUS = [
    b"+OK\r\n",
    b"-ERR no such key\r\n",
    b":-42\r\n",
    b"$5\r\nhello\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*3\r\n$1\r\na\r\n:1\r\n*2\r\n+x\r\n$-1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b"(123456789012345678901234567890\r\n",
    b"=8\r\ntxt:abcd\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
    b"~2\r\n+a\r\n+b\r\n",
    b">2\r\n+message\r\n+x\r\n",
    b"$4\r\n\r\n\r\n\r\n",
    b"+a\nb\r\n",
]


def test_each_reply_is_one_frame() -> None:
    for reply in CORPUS:
        assert ReplyFeed().feed(reply) == [reply]


def test_replies_split_at_every_offset() -> None:
    stream = b"".join(CORPUS)
    for at in range(len(stream) + 1):
        feed = ReplyFeed()
        assert feed.feed(stream[:at]) + feed.feed(stream[at:]) == CORPUS


def test_replies_byte_by_byte() -> None:
    feed = ReplyFeed()
    found = [frame for byte in b"".join(CORPUS) for frame in feed.feed(bytes([byte]))]
    assert found == CORPUS


values = st.recursive(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1).map(lambda v: b":%d\r\n" % v),
        st.binary(max_size=40).map(lambda v: b"$%d\r\n%s\r\n" % (len(v), v)),
        st.sampled_from([b"$-1\r\n", b"_\r\n", b"#f\r\n", b"+OK\r\n"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda v: b"*%d\r\n" % len(v) + b"".join(v)),
        st.lists(inner, max_size=4).map(lambda v: b"~%d\r\n" % len(v) + b"".join(v)),
    ),
    max_leaves=12,
)


@given(st.lists(values, min_size=1, max_size=5), st.data())
def test_any_replies_in_any_pieces_are_what_hiredis_finds(replies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(replies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    feed = ReplyFeed()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += feed.feed(stream[start:end])
    assert found == replies
    reader = hiredis.Reader()
    for frame in found:
        reader.feed(frame)
        reader.gets()
        assert not reader.has_data()


def test_an_attribute_belongs_to_the_reply_after_it() -> None:
    reply = b"|1\r\n+ttl\r\n:3600\r\n*2\r\n:1\r\n:2\r\n"
    assert ReplyFeed().feed(reply) == [reply]


def test_depth_costs_nothing() -> None:
    reply = b"*1\r\n" * 200_000 + b":1\r\n"
    assert ReplyFeed().feed(reply) == [reply]


@pytest.mark.parametrize("junk", [b"hello\r\n", b"$x\r\n", b"*1x\r\n", b"\x00\r\n", b"$1\r\naxx", b"$1\rXa\r\n"])
def test_bytes_that_are_no_reply(junk: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyFeed().feed(junk)


arguments = st.lists(st.binary(max_size=50), min_size=1, max_size=8)


@given(st.lists(arguments, min_size=1, max_size=5), st.data())
def test_any_requests_in_any_pieces(requests: list[list[bytes]], data: st.DataObject) -> None:
    frames = [encode_request(request) for request in requests]
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    feed = RequestFeed()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += feed.feed(stream[start:end])
    assert found == frames
    assert split_requests(stream) == (requests, b"")


def test_requests_byte_by_byte_with_inline_ones_between() -> None:
    frames = [
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"*-1\r\n",
        b"set a b\n",
        b"*0\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    ]
    feed = RequestFeed()
    assert [frame for byte in b"".join(frames) for frame in feed.feed(bytes([byte]))] == frames


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n:4\r\n", "expected '$', got ':'"),
        (b"*1\r\n\n", "expected '$', got ' '"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$a\r\n", "invalid bulk length"),
        (b"*1\rX$4\r\nPING\r\n", "invalid CRLF in request"),
        (b"*1\r\n$4\rXPING\r\n", "invalid CRLF in request"),
        (b"*1\r\n$4\r\nPINGxx", "invalid CRLF in request"),
        (b"*1\r\n$4\r\nPING\rx", "invalid CRLF in request"),
        (b"x" * (MAX_INLINE_BYTES + 1), "too big inline request"),
    ],
)
def test_protocol_errors_have_redis_words(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message.replace("$", r"\$")):
        RequestFeed().feed(data)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"set a b", [b"set", b"a", b"b"]),
        (b"  spaced   out  ", [b"spaced", b"out"]),
        (b"", []),
        (b'set "a b" c', [b"set", b"a b", b"c"]),
        (b'"\\x41\\n\\t\\"\\\\"', [b'A\n\t"\\']),
        (b"'a\\'b' '\\n'", [b"a'b", b"\\n"]),
        (b'""', [b""]),
        (b'"open', None),
        (b'"a"b', None),
        (b"'a", None),
        (b'pre"fix"', [b"prefix"]),
    ],
)
def test_inline_words_are_split_as_redis_does(line: bytes, words: list[bytes] | None) -> None:
    assert split_inline(line) == words
