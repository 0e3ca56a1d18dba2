"""What one client that behaves badly does to the others, who ask 2,000 times a second at fixed times.

All of them are on one node, so on one router process, which a third of the keys' engines are beside. By itself this is
such a client: `python -m bench.router_hostile KIND HOST:PORT`, until it is ended. It goes on when it is disconnected.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.router_load import Load, Turn
from bench.router_parts import figures_of, in_turns, median, say, turn_of
from bench.router_subjects import Subject

from cachecluster_sidecar.router.resp import encode_request

LOAD = Load("get", 64, 1, 50, rate=2000.0)
NOBODY = "nobody"
PIPELINE = 1000
MGET_KEYS = 10_000
HEADER_BYTES = 4_000_000
"""Of a request that never ends."""
AGAIN_S = 2.0
"""How long one of its connections may take to be made or to answer."""


def _keys(count: int) -> list[bytes]:
    """Some of those that the load generator wrote."""
    return [b"bench:{%08d}:%d" % (number // 10, number % 10) for number in range(count)]


GETS = b"".join(encode_request([b"GET", key]) for key in _keys(PIPELINE))


def _flood(connection: socket.socket) -> None:
    """Pipelines of 1,000 GETs, one after the other."""
    expected = PIPELINE * len(b"$64\r\n\r\n" + bytes(64))
    while True:
        connection.sendall(GETS)
        _read(connection, expected)


def _deaf(connection: socket.socket) -> None:
    """GETs without end, of whose replies none is read."""
    connection.settimeout(None)
    while True:
        connection.sendall(GETS)


def _wide(connection: socket.socket) -> None:
    """An MGET of 10,000 keys after the other."""
    request = encode_request([b"MGET", *_keys(MGET_KEYS)])
    expected = len(b"*%d\r\n" % MGET_KEYS) + MGET_KEYS * len(b"$64\r\n\r\n" + bytes(64))
    while True:
        connection.sendall(request)
        _read(connection, expected)


def _fleeting(connection: socket.socket) -> None:
    """A connection for each request."""
    connection.sendall(encode_request([b"GET", *_keys(1)]))
    connection.recv(100)


def _senseless(connection: socket.socket) -> None:
    """What is no request, on a new connection every time."""
    connection.sendall(b"*1000000\r\n" + b"$x\r\n" * 1000)
    while connection.recv(65536):
        pass


def _endless(connection: socket.socket) -> None:
    """A request of a million words that stops in the middle, on a new connection every time."""
    connection.sendall(b"*1000000\r\n" + b"$1\r\nx\r\n" * (HEADER_BYTES // 7))


KINDS: dict[str, Callable[[socket.socket], None]] = {
    "flood": _flood,
    "deaf": _deaf,
    "wide": _wide,
    "fleeting": _fleeting,
    "senseless": _senseless,
    "endless": _endless,
}


def _read(connection: socket.socket, expected: int) -> None:
    while expected > 0:
        got = len(connection.recv(262144))
        if not got:
            raise ConnectionError("disconnected")
        expected -= got


def be_hostile(kind: str, address: str) -> None:
    """For ever."""
    host, _, port = address.partition(":")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), AGAIN_S) as connection:
            KINDS[kind](connection)


@contextlib.contextmanager
def hostile_client(kind: str, address: str) -> Iterator[None]:
    """One such client for as long as the block lasts. RuntimeError when it ended by itself."""
    if kind == NOBODY:
        yield
        return
    child = subprocess.Popen([sys.executable, "-m", "bench.router_hostile", kind, address], stdin=subprocess.DEVNULL)
    try:
        yield
        if child.poll() is not None:
            raise RuntimeError(f"the hostile client ({kind}) ended with {child.returncode}")
    finally:
        child.kill()
        child.wait()


def beside_hostile(subjects: Sequence[Subject], rounds: int, seconds: float) -> dict[str, Any]:
    """Figures of the well-behaved clients by kind of the hostile one and subject, and what it adds to their latency."""
    kinds = (NOBODY, *KINDS)
    turns: dict[str, dict[str, list[Turn]]] = {kind: {it.name: [] for it in subjects} for kind in kinds}
    for (number, subject), kind in itertools.product(in_turns(subjects, rounds), kinds):
        if subject is subjects[0]:
            say(f"hostile: round {number + 1}, {kind}")
        address = subject.fill_targets[0]
        with hostile_client(kind, address):
            turns[kind][subject.name].append(turn_of(Subject(subject.name, [address], subject.pids), LOAD, seconds))
    return {
        kind: {name: figures_of(seen) | _added(seen, turns[NOBODY][name]) for name, seen in by_name.items()}
        for kind, by_name in turns.items()
    }


def _added(turns: Sequence[Turn], alone: Sequence[Turn]) -> dict[str, float]:
    pairs = list(zip(turns, alone, strict=True))
    return {
        "p50 us added": median(beside.p50 - without.p50 for beside, without in pairs),
        "p99 us added": median(beside.p99 - without.p99 for beside, without in pairs),
    }


if __name__ == "__main__":
    be_hostile(sys.argv[1], sys.argv[2])
