"""Clients of a cluster in pods: what a fault looks like to applications.

Run in the cluster's network as `python -m tests.e2e.pod_load HOST PARTITIONS`, where HOST is the Service. It writes
old keys, then keeps two connections for every partition busy with SET and GET, and answers each line of its standard
input ("reset", "report", "check") with a line of JSON. `PodLoad` is the handle for tests. What it reads it judges by
`write_history`: acknowledged writes that are gone and its own writes that come late are told apart.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import hiredis
from tests.datapath import keys_by_partition
from tests.e2e.resp_connection import Connection
from tests.e2e.write_history import Finding, History, Meaning

PORT = 6379
CONNECTIONS = 2
PERIOD_S = 0.05
CONNECT_S = 1.0
ANSWER_S = 5.0
"""Longer than a failover, so that it is the cluster that decides how long a command is held."""
OLD_KEYS = 20
REPLICATED_S = 0.5
INDETERMINATE = "INDETERMINATE"
"""The only error that does not say that the command was not executed."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Client:
    """One connection's worth of an application: counts upwards in its own key and reads it back."""

    partition: int
    key: str
    history: History
    answered_at: float = 0.0
    """When the last command that was answered had been sent (monotonic seconds)."""
    last_answer: float = field(default_factory=time.monotonic)
    longest_s: float = 0.0


@dataclass
class Seen:
    """What all clients saw since the last reset."""

    clients: list[Client]
    errors: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    emptied: list[str] = field(default_factory=list)
    undone: list[dict[str, Any]] = field(default_factory=list)
    late: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    partition_answer: dict[int, float] = field(default_factory=dict)
    partition_longest_s: dict[int, float] = field(default_factory=dict)

    def answered(self, client: Client, sent_at: float) -> None:
        """A client got an answer now to what it sent then."""
        now = time.monotonic()
        client.answered_at = sent_at
        client.longest_s = max(client.longest_s, now - client.last_answer)
        client.last_answer = now
        pause = now - self.partition_answer.get(client.partition, now)
        self.partition_longest_s[client.partition] = max(pause, self.partition_longest_s.get(client.partition, 0.0))
        self.partition_answer[client.partition] = now
        self.answers += 1

    def found(self, client: Client, value: bytes | None) -> None:
        """A client read its key. Seconds are monotonic, as those of the test are."""
        finding = client.history.read(value)
        match finding.meaning:
            case Meaning.EMPTIED:
                self.emptied.append(client.key)
            case Meaning.WRONG:
                self.wrong.append(f"{client.key} is {value!r}")
            case Meaning.UNDONE:
                times = [write.acknowledged_at for write in finding.undone]
                self.undone.append(
                    {"key": client.key, "writes": len(times), "acknowledgedAt": [times[0], times[-1]]}
                    | self._place(client)
                )
            case Meaning.LATE:
                self.late.append(self._late(client, finding) | self._place(client))

    @staticmethod
    def _place(client: Client) -> dict[str, Any]:
        return {"partition": client.partition, "at": time.monotonic()}

    @staticmethod
    def _late(client: Client, finding: Finding) -> dict[str, Any]:
        assert finding.sequence is not None
        write = client.history.writes[finding.sequence]
        return {"key": client.key, "sentAt": write.sent_at, "fate": write.fate}

    def reset(self) -> None:
        """Forget figures. Pauses that last go on being counted from the last answer."""
        self.errors.clear()
        self.emptied.clear()
        self.undone.clear()
        self.late.clear()
        self.wrong.clear()
        self.answers = 0
        self.partition_longest_s.clear()
        for client in self.clients:
            client.longest_s = 0.0

    def report(self) -> dict[str, Any]:
        """The figures."""
        pauses = self.partition_longest_s
        return {
            "everybodyAnsweredAt": min(client.answered_at for client in self.clients),
            "partitionPause": max(pauses.values(), default=0.0),
            "partition": max(pauses, key=lambda p: pauses[p]) if pauses else None,
            "connectionPause": max(client.longest_s for client in self.clients),
            "answers": self.answers,
            "errors": dict(self.errors),
            "emptied": list(self.emptied),
            "undone": list(self.undone),
            "late": list(self.late),
            "wrong": list(self.wrong),
        }


async def _write(seen: Seen, client: Client, connection: Connection) -> None:
    history = client.history
    sent_at = time.monotonic()
    sequence = history.send(sent_at)
    try:
        answer = await connection.command("SET", client.key, history.value(sequence), timeout_s=ANSWER_S)
    except OSError as error:
        history.unknown(sequence, type(error).__name__)
        raise
    if isinstance(answer, hiredis.ReplyError):
        error_word = str(answer).split()[0]
        seen.errors[error_word] += 1
        (history.unknown if error_word == INDETERMINATE else history.refused)(sequence, error_word)
        return
    history.acknowledged(sequence, time.monotonic())
    seen.answered(client, sent_at)


async def _read(seen: Seen, client: Client, connection: Connection) -> None:
    sent_at = time.monotonic()
    answer = await connection.command("GET", client.key, timeout_s=ANSWER_S)
    if isinstance(answer, hiredis.ReplyError):
        seen.errors[str(answer).split()[0]] += 1
        return
    seen.answered(client, sent_at)
    seen.found(client, answer)


async def _begin(seen: Seen, client: Client, host: str) -> None:
    """Until the client's key has a value."""
    while client.history.newest < 0:
        try:
            connection = await Connection.open(host, PORT, CONNECT_S)
            try:
                await _write(seen, client, connection)
            finally:
                connection.close()
        except OSError:
            await asyncio.sleep(PERIOD_S)


async def _run(seen: Seen, client: Client, host: str) -> None:
    """Write and read, over one connection after the other. After a write of unknown fate it reads before it writes."""
    while True:
        connection = None
        try:
            connection = await Connection.open(host, PORT, CONNECT_S)
            while True:
                if not client.history.unsure:
                    await _write(seen, client, connection)
                await _read(seen, client, connection)
                await asyncio.sleep(PERIOD_S)
        except OSError as error:
            phase = "connecting" if connection is None else "answer"
            seen.errors[f"{type(error).__name__} ({phase})"] += 1
            await asyncio.sleep(PERIOD_S)
        finally:
            if connection is not None:
                connection.close()


async def _ask_once(host: str, *words: str) -> Any:
    """One command over a connection of its own, again until it is answered."""
    while True:
        try:
            connection = await Connection.open(host, PORT, CONNECT_S)
            try:
                answer = await connection.command(*words, timeout_s=ANSWER_S)
            finally:
                connection.close()
            if not isinstance(answer, hiredis.ReplyError):
                return answer
        except OSError:
            pass
        await asyncio.sleep(PERIOD_S)


async def _serve(host: str, partitions: int) -> None:
    prefix = uuid.uuid4().hex[:8]
    old = [key for n in range(OLD_KEYS) for key in keys_by_partition(f"{prefix}:old:{n}", partitions)]
    await _ask_once(host, "MSET", *(word for key in old for word in (key, key)))
    names = [keys_by_partition(f"{prefix}:{n}", partitions) for n in range(CONNECTIONS)]
    clients = [Client(partition, key, History(key)) for keys in names for partition, key in enumerate(keys)]
    seen = Seen(clients)
    await asyncio.gather(*(_begin(seen, client, host) for client in clients))
    await asyncio.sleep(REPLICATED_S)  # async durability: what is checked later had time to reach the replicas
    tasks = [asyncio.create_task(_run(seen, client, host)) for client in clients]
    loop = asyncio.get_running_loop()

    async def check() -> dict[str, Any]:
        values = await _ask_once(host, "MGET", *old)
        return {"missing": [key for key, value in zip(old, values, strict=True) if value != key.encode()]}

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line.strip() == "reset":
            seen.reset()
        answer = await check() if line.strip() == "check" else seen.report()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class PodLoad:
    """The program as a process beside a test. `in_network` makes its command line one of the cluster's network."""

    def __init__(self, in_network: Callable[[Sequence[str]], list[str]], host: str, partitions: int) -> None:
        self._command = in_network([sys.executable, "-m", "tests.e2e.pod_load", host, str(partitions)])
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        try:
            self._process.communicate(timeout=10)
        finally:
            self._process.kill()
            self._process.wait()

    def ask(self, question: str) -> dict[str, Any]:
        """ "reset", "report" or "check": see the program."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        with self._lock:
            process.stdin.write(question + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        assert line, f"the load program ended with {process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def everybody_answered_since(self, moment: float) -> bool:
        """Whether every connection had an answer to a command that it sent after `moment` (time.monotonic)."""
        return bool(self.ask("report")["everybodyAnsweredAt"] > moment)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
