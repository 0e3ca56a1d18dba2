"""`make bench-move`: what clients see of planned hand-overs of a primary, beside the engine's own FAILOVER command.

50 clients write and read all the time, each keys of one partition. For every hand-over: the longest time that a command
of that partition took which overlaps it. FAILOVER: two bare engines, the same clients, which change over to the other
one when it says that it is the primary (the best that a client without a proxy can do).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachecluster_core.slots import partition_of_key
from cachecluster_local.engines import engine_binary

RESULT = Path("build/bench/move.json")
PAUSE_S = 0.01
PARTITIONS = 16


@dataclass
class Seen:
    """Commands of all clients: (partition, began, ended)."""

    commands: list[tuple[int, float, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def worst(self, partition: int, begun: float, ended: float) -> float:
        """The longest command of a partition that overlaps a time."""
        return max((b - a for p, a, b in self.commands if p == partition and b >= begun and a <= ended), default=0.0)


class Connection:
    """The least of a Redis client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, host: str, port: int) -> Connection:
        """Connect."""
        return cls(*await asyncio.open_connection(host, port))

    async def ask(self, *words: str) -> bytes:
        """One command and its reply, which is a line or one bulk string."""
        parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
        self._writer.write("".join(parts).encode())
        line = await self._reader.readline()
        if not line:
            raise ConnectionResetError("closed")
        if line[:1] == b"$" and line != b"$-1\r\n":
            return await self._reader.readexactly(int(line[1:]) + 2)
        return line

    def close(self) -> None:
        """End it."""
        self._writer.close()


def key_of(partition: int, client: int) -> str:
    """A key of this partition."""
    return next(
        key for n in range(100000) if partition_of_key((key := f"move:{client}:{n}").encode(), PARTITIONS) == partition
    )


async def client_of_cluster(
    address: tuple[str, int], partition: int, number: int, seen: Seen, stop: asyncio.Event
) -> None:
    """One client on one node, all the time."""
    connection, key, turn = await Connection.to(*address), key_of(partition, number), 0
    while not stop.is_set():
        began = time.monotonic()
        reply = await connection.ask("SET", key, str(turn)) if turn % 2 else await connection.ask("GET", key)
        seen.commands.append((partition, began, time.monotonic()))
        if reply[:1] == b"-":
            seen.errors[reply.decode()[:60]] += 1
        turn += 1
        await asyncio.sleep(PAUSE_S)
    connection.close()


async def measure_handovers(engine: str, moves: int, clients: int) -> dict[str, Any]:
    """Hand-overs of a cluster of three nodes."""
    command = [sys.executable, "-m", "bench.mover", "--engine", engine, "--moves", str(moves)]
    child = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None and child.stdin is not None
    seen, stop, done = Seen(), asyncio.Event(), []
    try:
        ready = json.loads(await child.stdout.readline())
        addresses = [(host, port) for host, port in ready["plain"]]
        tasks = [
            asyncio.create_task(client_of_cluster(addresses[n % len(addresses)], n % PARTITIONS, n, seen, stop))
            for n in range(clients)
        ]
        await asyncio.sleep(1.0)
        before = full_syncs(Path(ready["stateDir"]))
        child.stdin.write(b"go\n")
        while len(done) < moves:
            done.append(json.loads(await child.stdout.readline()))
            if len(done) % 20 == 0:
                sys.stderr.write(f"{engine}: {len(done)} of {moves} hand-overs\n")
        await asyncio.sleep(1.0)
        after = full_syncs(Path(ready["stateDir"]))
        stop.set()
        await asyncio.gather(*tasks)
        child.stdin.write(b"end\n")
    finally:
        child.stdin.close()
        await child.wait()
    pauses = [seen.worst(move["partition"], move["begun"], move["ended"]) for move in done]
    calm = [b - a for _, a, b in seen.commands if b < done[0]["begun"]]
    return {
        "hand-overs": sum(move["done"] for move in done),
        "given up": sum(not move["done"] for move in done),
        "pause ms": percentiles(pauses),
        "without a hand-over ms": percentiles(calm),
        "map to map ms": percentiles([move["ended"] - move["begun"] for move in done]),
        "client errors": dict(seen.errors),
        "full resyncs": after - before,
        "commands": len(seen.commands),
    }


def full_syncs(state_dir: Path) -> int:
    """How many full resyncs all engines of the cluster have served."""
    total = 0
    for sock in state_dir.glob("node-*/run/sock/p*.sock"):
        password = (sock.parents[2] / "secrets" / "agent-password").read_text().strip()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(sock))
            connection.sendall(f"AUTH agent {password}\r\nINFO stats\r\nQUIT\r\n".encode())
            data = b""
            while chunk := connection.recv(65536):
                data += chunk
        total += int(data.partition(b"sync_full:")[2].partition(b"\r")[0] or 0)
    return total


def measure_failover(engine: str, times: int, clients: int) -> dict[str, Any]:
    """The engine's own FAILOVER between a primary and its replica."""
    with tempfile.TemporaryDirectory() as directory:
        binary = str(engine_binary(engine, Path(directory) / "links"))
        ports = [free_port(), free_port()]
        flags = ["--bind", "127.0.0.1", "--save", "", "--dir", directory, "--repl-diskless-sync-delay", "0"]
        engines = [subprocess.Popen([binary, "--port", str(port), *flags], stdout=subprocess.DEVNULL) for port in ports]
        try:
            return asyncio.run(_failovers(ports, times, clients))
        finally:
            for process in engines:
                process.kill()
                process.wait()


async def _failovers(ports: list[int], times: int, clients: int) -> dict[str, Any]:
    admin = [await connect_until(port) for port in ports]
    await admin[1].ask("REPLICAOF", "127.0.0.1", str(ports[0]))
    seen, stop, primary = Seen(), asyncio.Event(), [0]
    tasks = [asyncio.create_task(client_of_pair(ports, primary, n, seen, stop)) for n in range(clients)]
    pauses = []
    for _ in range(times):
        await asyncio.sleep(1.5)
        began, old = time.monotonic(), primary[0]
        await admin[old].ask("FAILOVER", "TO", "127.0.0.1", str(ports[1 - old]), "TIMEOUT", "5000")
        await promoted(admin[1 - old])
        primary[0] = 1 - old
        await asyncio.sleep(0.5)
        pauses.append(seen.worst(0, began, time.monotonic()))
    stop.set()
    await asyncio.gather(*tasks)
    return {"failovers": times, "pause ms": percentiles(pauses), "refusals": sum(seen.errors.values())}


async def connect_until(port: int) -> Connection:
    """A connection to an engine that is starting."""
    while True:
        try:
            return await Connection.to("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)


async def promoted(connection: Connection) -> None:
    """Until this engine says that it is the primary; it has no event for that."""
    while await role(connection) != "master":  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def role(connection: Connection) -> str:
    """`master` or `slave`."""
    info = await connection.ask("INFO", "replication")
    return info.partition(b"role:")[2].partition(b"\r")[0].decode()


async def client_of_pair(ports: list[int], primary: list[int], number: int, seen: Seen, stop: asyncio.Event) -> None:
    """One client that asks again, at whoever is primary by now, until it has its answer."""
    connections = [await Connection.to("127.0.0.1", port) for port in ports]
    turn = 0
    while not stop.is_set():
        began = time.monotonic()
        while True:
            reply = await connections[primary[0]].ask("SET", f"k{number}", str(turn))
            if reply[:1] != b"-":
                break
            seen.errors[reply.decode()[:20]] += 1
            await asyncio.sleep(0.001)
        seen.commands.append((0, began, time.monotonic()))
        turn += 1
        await asyncio.sleep(PAUSE_S)
    for connection in connections:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p90, p99 and the longest, in milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    points = {"p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": max(seconds)}
    return {name: round(value * 1000, 2) for name, value in points.items()}


def main() -> None:
    """Measure, print, and write build/bench/move.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("valkey", "redis"), action="append", help="default: both")
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--failovers", type=int, default=20)
    parser.add_argument("--clients", type=int, default=50)
    flags = parser.parse_args()
    result: dict[str, Any] = {}
    for engine in flags.engine or ["valkey", "redis"]:
        handed = asyncio.run(measure_handovers(engine, flags.moves, flags.clients))
        failed_over = measure_failover(engine, flags.failovers, flags.clients)
        result[engine] = {"hand-over": handed, "FAILOVER": failed_over}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
