"""One input of the fuzzer for the RESP scanner: a stream of bytes, cut into pieces.

The first byte says where the stream is cut. As requests and as replies it must give the same frames, and the same
error, in one piece, in two and byte by byte; what is passed on in pieces must be those frames; and wherever hiredis
finds the end of a reply, so must we.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import hiredis

from cachecluster_sidecar.router.feeds import ReplyFeed, ReplyPieces, RequestFeed, RequestPieces
from cachecluster_sidecar.router.resp import ProtocolError, encode_request, split_requests

NOT_FOR_HIREDIS = re.compile(rb"\d{6}|=")
"""It makes room for as many elements as are announced, and reads beyond verbatim strings that end too early."""


def check(data: bytes) -> None:
    """Raises AssertionError for what must not be."""
    if not data:
        return
    stream = data[1:]
    cut = data[0] * len(stream) // 255
    for feed in (RequestFeed, ReplyFeed):
        frames, error = _frames(feed, (stream[at : at + 1] for at in range(len(stream))))
        in_two, error_in_two = _frames(feed, (stream[:cut], stream[cut:]))
        assert error == error_in_two and (in_two == frames or (error and in_two == frames[: len(in_two)]))
        whole, error_in_one = _frames(feed, (stream,))
        assert error == error_in_one and (error or whole == frames), (frames, whole)
        assert stream.startswith(b"".join(frames))
        _pieces_are_the_frames(feed, frames, data[0])
        if feed is ReplyFeed:
            _compare_with_hiredis(stream, frames)
        elif error is None:
            _arguments_are_those_of_the_frames(stream, frames)


def _frames(kind: type[RequestFeed | ReplyFeed], pieces: Iterable[bytes]) -> tuple[list[bytes], str | None]:
    """The frames found piece by piece before an error, and the error."""
    feed, found = kind(), list[bytes]()
    try:
        for piece in pieces:
            found += feed.feed(piece)
    except ProtocolError as error:
        return found, str(error)
    return found, None


def _pieces_are_the_frames(kind: type[RequestFeed | ReplyFeed], frames: list[bytes], cut: int) -> None:
    """Of requests all but the last line end is passed on."""
    for frame in frames:
        pieces: ReplyPieces | RequestPieces
        if kind is ReplyFeed:
            pieces, expected = ReplyPieces(), frame
        elif frame.startswith(b"*") and b"$" in frame:
            pieces, expected = RequestPieces(), frame[:-2]
        else:
            continue
        at = cut * len(frame) // 255
        first, complete = pieces.feed(frame[:at])
        assert not complete or at == len(frame)
        rest, complete = pieces.feed(frame[at:]) if not complete else (b"", True)
        assert complete and first + rest == expected, (frame, first, rest)


def _arguments_are_those_of_the_frames(stream: bytes, frames: list[bytes]) -> None:
    requests, rest = split_requests(stream)
    assert len(requests) == len(frames) and b"".join(frames) + rest == stream
    for arguments, frame in zip(requests, frames, strict=True):
        if frame.startswith(b"*") and arguments:
            assert encode_request(arguments) == frame


def _compare_with_hiredis(stream: bytes, frames: list[bytes]) -> None:
    """hiredis is stricter about what is inside a reply, and gives up there; up to then the ends are the same."""
    if NOT_FOR_HIREDIS.search(stream):
        return
    missing = object()
    reader, ends = hiredis.Reader(notEnoughData=missing), list[int]()
    for at in range(len(stream)):
        try:
            reader.feed(stream[at : at + 1])
            if reader.gets() is not missing:
                ends.append(at + 1)
        except Exception:  # whatever it objects to
            break
    ours, at = [], 0
    for frame in frames:
        if _is_ours_alone(frame):
            break
        at += len(frame)
        ours.append(at)
    common = min(len(ours), len(ends))
    assert ours[:common] == ends[:common], (stream, ours, ends)


def _is_ours_alone(frame: bytes) -> bool:
    """hiredis takes an attribute for a reply of its own."""
    return b"|" in frame
