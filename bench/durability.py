"""`make bench-durability`: what it costs a client that its writes are on two nodes when they are answered.

Side by side, in turns of a few seconds, on two clusters of three nodes with two copies of everything: `async` and
`sync` through the routers; and, straight at the engines of the async cluster, without a router, `SET` alone and `SET`
with a `WAIT 1` behind it, as a client does it that wants the same (WAIT counts replicas, it does not know which). Each
client sends its next write when the last one is answered. Throughput is the median of the turns, latencies are of all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from bench.move import percentiles

from cachecluster_core.hashring import HashRing
from cachecluster_core.slots import partition_of_key

RESULT = Path("build/bench/durability.json")
PARTITIONS = 16
VALUE = "x" * 100
READY_S = 30.0
FIRST_ADDRESSES = ("127.31.1.1", "127.31.2.1")

Way = Callable[[int, float, list[float]], Awaitable[None]]
"""A client: its number, when to end, and where the seconds of each write go."""


@dataclass
class Cluster:
    """A running `cachecluster-local`: where clients connect, and the socket and password of every primary's engine."""

    plain: list[tuple[str, int]]
    engines: dict[int, tuple[str, str]]


@dataclass
class Figures:
    """Of one way to write: writes a second by turn, and the seconds of each write."""

    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "writes a second": round(statistics.median(self.rates)),
            "lowest and highest turn": [round(min(self.rates)), round(max(self.rates))],
            "latency ms": percentiles(self.seconds),
        }


class Line:
    """A connection that sends words and reads that many replies of one line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, data: bytes, replies: int = 1) -> None:
        """RuntimeError when a reply is an error."""
        self._writer.write(data)
        for _ in range(replies):
            reply = await self._reader.readline()
            if not reply or reply[:1] == b"-":
                raise RuntimeError(reply.decode() or "the connection ended")

    def close(self) -> None:
        """End it."""
        self._writer.close()


def frame(*words: str) -> bytes:
    """A request."""
    return "".join([f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]).encode()


@contextlib.asynccontextmanager
async def running(durability: str, engine: str, first: str, directory: Path) -> AsyncIterator[Cluster]:
    """A cluster of three nodes."""
    state_file = directory / f"{durability}.json"
    command = [sys.executable, "-m", "cachecluster_local.main", "--engine", engine, "--durability", durability]
    command += ["--first-address", first, "--state-file", str(state_file)]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        line = await asyncio.wait_for(child.stdout.readline(), READY_S)
        if not line.startswith(b"Ready"):
            raise RuntimeError(f"the {durability} cluster is not ready: {line.decode()}")
        yield await when_whole(json.loads(state_file.read_text()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)
        await child.wait()


async def when_whole(state: dict[str, Any]) -> Cluster:
    """Once every partition has two copies."""
    host, _, port = state["api"].removeprefix("http://").rpartition(":")
    while True:
        ring = await read_map(host, int(port))
        if all(len(entry.isr) == 2 for entry in ring.entries):
            break
        await asyncio.sleep(0.2)
    names = {node["uid"]: node["name"] for node in state["nodes"]}
    engines = {}
    for partition, entry in enumerate(ring.entries):
        assert entry.primary is not None
        node = Path(state["stateDir"]) / f"node-{names[entry.primary.pod].rpartition('-')[2]}"
        password = (node / "secrets" / "agent-password").read_text().strip()
        engines[partition] = (str(node / "run" / "sock" / f"p{partition}.sock"), password)
    return Cluster([(host, port) for host, port in state["plain"]], engines)


async def read_map(host: str, port: int) -> HashRing:
    """The map, as agents read it."""
    reader, writer = await asyncio.open_connection(host, port)
    path = "/apis/cachecluster.io/v1alpha1/namespaces/local/hashrings/local"
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return HashRing.from_object(json.loads(answer.partition(b"\r\n\r\n")[2]))


def keys_of(client: int) -> list[str]:
    """A key of every partition."""
    keys: dict[int, str] = {}
    number = 0
    while len(keys) < PARTITIONS:
        key = f"durability:{client}:{number}"
        keys.setdefault(partition_of_key(key.encode(), PARTITIONS), key)
        number += 1
    return [keys[partition] for partition in range(PARTITIONS)]


async def through_routers(cluster: Cluster, client: int, end: float, seconds: list[float]) -> None:
    """One client of one node, with keys of all partitions in turn."""
    line = Line(*await asyncio.open_connection(*cluster.plain[client % len(cluster.plain)]))
    frames = [frame("SET", key, VALUE) for key in keys_of(client)]
    turn = client
    while (began := time.monotonic()) < end:
        await line.ask(frames[turn % PARTITIONS])
        seconds.append(time.monotonic() - began)
        turn += 1
    line.close()


async def at_engines(
    cluster: Cluster, more: bytes, replies: int, client: int, end: float, seconds: list[float]
) -> None:
    """One client with a connection to every primary's engine; it sends `more` behind every write."""
    lines = []
    for partition in range(PARTITIONS):
        path, password = cluster.engines[partition]
        lines.append(Line(*await asyncio.open_unix_connection(path)))
        await lines[-1].ask(frame("AUTH", "agent", password))
    frames = [frame("SET", key, VALUE) + more for key in keys_of(client)]
    turn = client
    while (began := time.monotonic()) < end:
        await lines[turn % PARTITIONS].ask(frames[turn % PARTITIONS], replies)
        seconds.append(time.monotonic() - began)
        turn += 1
    for line in lines:
        line.close()


async def measure(engine: str, numbers: list[int], turns: int, turn_s: float) -> dict[str, Any]:
    """All four ways, with each of these numbers of clients."""
    with tempfile.TemporaryDirectory() as directory:
        async with contextlib.AsyncExitStack() as stack:
            clusters = [
                await stack.enter_async_context(running(durability, engine, first, Path(directory)))
                for durability, first in zip(("async", "sync"), FIRST_ADDRESSES, strict=True)
            ]
            ways: dict[str, Way] = {
                "async": partial(through_routers, clusters[0]),
                "sync": partial(through_routers, clusters[1]),
                "engine alone": partial(at_engines, clusters[0], b"", 1),
                "engine with WAIT": partial(at_engines, clusters[0], frame("WAIT", "1", "3000"), 2),
            }
            return {f"{clients} clients": await in_turns(ways, clients, turns, turn_s) for clients in numbers}


async def in_turns(ways: dict[str, Way], clients: int, turns: int, turn_s: float) -> dict[str, Any]:
    """Every way for a moment, and again."""
    figures = {way: Figures() for way in ways}
    for _ in range(turns):
        for way, client in ways.items():
            seconds: list[float] = []
            end = time.monotonic() + turn_s
            await asyncio.gather(*(client(number, end, seconds) for number in range(clients)))
            figures[way].rates.append(len(seconds) / turn_s)
            figures[way].seconds += seconds
    return {way: found.result() for way, found in figures.items()}


def main() -> None:
    """Measure, print, and write build/bench/durability.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("valkey", "redis"), default="valkey")
    parser.add_argument("--clients", type=int, action="append", help="default: 1 and 32, one after the other")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    flags = parser.parse_args()
    result: dict[str, Any] = {"engine": flags.engine, "cores": os.cpu_count()}
    result |= uvloop.run(measure(flags.engine, flags.clients or [1, 32], flags.turns, flags.seconds))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
