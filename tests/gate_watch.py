"""Watches every router's gates every 10 ms and says whether two gates of one partition were ever open at once.

Run as `python -m tests.gate_watch STATE_FILE`: it asks `CACHECLUSTER GATES` over peer connections until its standard
input ends, then writes what it saw as JSON. An answer describes some instant between question and answer; a gate seen
open at the same epoch by two questions in a row is taken as open from the first answer to the second question.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PERIOD_S = 0.01
ANSWER_S = 1.0
KEEP = 2000


@dataclass(frozen=True)
class Span:
    """A gate that was certainly open from `begin` to `end` (monotonic seconds)."""

    node: str
    epoch: int
    begin: float
    end: float


@dataclass
class Observations:
    """What all watchers saw together."""

    samples: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    violations: list[str] = field(default_factory=list)
    epochs: dict[int, int] = field(default_factory=dict)
    _spans: dict[int, deque[Span]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=KEEP)))

    def add(self, partition: int, span: Span) -> None:
        """Compare with what was seen on other nodes."""
        for other in self._spans[partition]:
            if other.node != span.node and max(other.begin, span.begin) < min(other.end, span.end):
                self.violations.append(f"partition {partition}: {other} and {span}")
        self._spans[partition].append(span)
        self.epochs[partition] = max(span.epoch, self.epochs.get(partition, 0))


async def _command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *words: str) -> list[str]:
    """Send a command; the answer's elements (one for a simple string). ConnectionError on an error answer."""
    writer.write(f"*{len(words)}\r\n".encode() + b"".join(f"${len(w)}\r\n{w}\r\n".encode() for w in words))
    head = (await reader.readuntil(b"\r\n")).decode()
    if head[0] == "*":
        answers = []
        for _ in range(int(head[1:])):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            answers.append((await reader.readexactly(size + 2))[:-2].decode())
        return answers
    if head[0] != "+":
        raise ConnectionError(head)
    return [head[1:].strip()]


async def _watch_connection(seen: Observations, node: dict[str, Any], port: int, token: str) -> None:
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(node["address"], port)
    try:
        async with asyncio.timeout(ANSWER_S):
            await _command(reader, writer, "CACHECLUSTER", "HELLO", "2", token, node["uid"])
        before: dict[int, int] = {}
        answered_at = 0.0
        while True:
            asked_at = time.monotonic()
            async with asyncio.timeout(ANSWER_S):
                lines = await _command(reader, writer, "CACHECLUSTER", "GATES")
            gates = {int(p): int(epoch) for p, epoch, left in (line.split() for line in lines) if int(left) > 0}
            for partition, epoch in gates.items():
                if before.get(partition) == epoch:
                    seen.add(partition, Span(node["name"], epoch, answered_at, asked_at))
            before, answered_at = gates, time.monotonic()
            seen.samples[node["name"]] += 1
            await asyncio.sleep(PERIOD_S)
    finally:
        writer.close()


async def _watch_node(seen: Observations, node: dict[str, Any], port: int, token: str) -> None:
    while True:
        try:
            await _watch_connection(seen, node, port, token)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            await asyncio.sleep(PERIOD_S)


async def _watch(state: dict[str, Any]) -> Observations:
    seen = Observations()
    ports = dict(state["cluster"])
    tasks = []
    for node in state["nodes"]:
        token = (
            Path(state["stateDir"]) / f"node-{node['name'].rpartition('-')[2]}" / "secrets" / "peer-token"
        ).read_text()
        tasks.append(asyncio.create_task(_watch_node(seen, node, ports[node["address"]], token)))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


class GateWatch:
    """The watcher as a process beside a test: `with GateWatch(state_file): ...` asserts on leaving."""

    def __init__(self, state_file: Path) -> None:
        self._state_file = state_file
        self._process: subprocess.Popen[str] | None = None
        self.result: dict[str, Any] = {}

    def __enter__(self) -> GateWatch:
        command = [sys.executable, "-m", "tests.gate_watch", str(self._state_file)]
        root = Path(__file__).parent.parent
        self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "watching\n"
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._process is not None
        out, _ = self._process.communicate(timeout=10)
        self.result = json.loads(out)
        if kind is None:
            assert not self.result["violations"], "\n".join(self.result["violations"][:10])
            assert sum(self.result["samples"].values()) > 10, self.result


def main() -> None:
    """Watch until standard input ends."""
    state = json.loads(Path(sys.argv[1]).read_text())
    sys.stdout.write("watching\n")
    sys.stdout.flush()
    seen = asyncio.run(_watch(state))
    sys.stdout.write(json.dumps({"samples": seen.samples, "violations": seen.violations, "epochs": seen.epochs}))


if __name__ == "__main__":
    main()
