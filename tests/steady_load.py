"""Clients of every kind that run without a break through planned changes, and what they saw. Also a program.

`python steady_load.py --plain HOST:PORT --cluster HOST:PORT` runs until its standard input ends, then writes one JSON
object. Each line of its input is answered with one of JSON: `look` and `next` (what was seen since the last `next`),
`check` (the keys that are missing), `forgive` (counters begin anew at what is there: a primary was lost).
It knows nothing of the rest, so that it runs in a pod as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

PAUSE_S = 0.004
"""Between two commands of a client: twenty of them must not take the cores from what they measure."""
PIPELINE = 50

Client = Any


@dataclass
class Seen:
    """What one client saw: commands answered, errors after the library's own retries, wrong answers, longest pause."""

    kind: str
    commands: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    incremented: int = 0
    unknown: int = 0
    forgiven: bool = False
    began: float = 0.0
    """Of the command that is not answered yet (monotonic seconds); 0 for none."""

    def waits_s(self) -> float:
        """How long it has waited for an answer up to now."""
        began = self.began
        return time.monotonic() - began if began else 0.0


@dataclass
class SteadyLoad:
    """`plain` and `cluster` are addresses; `keys` are written first, and checked by `missing` in the end."""

    plain: tuple[tuple[str, int], ...]
    cluster: tuple[str, int]
    keys: int = 2000
    clients: int = 20
    prefix: str = "steady"
    seen: list[Seen] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _before: tuple[int, Counter[str], Counter[str]] = (0, Counter(), Counter())

    def fill(self) -> None:
        """Write the keys that must all be there in the end."""
        with self._plain(0, protocol=3) as client:
            for start in range(0, self.keys, 500):
                numbers = range(start, min(self.keys, start + 500))
                client.mset({f"{self.prefix}:key:{n}": n for n in numbers})

    def missing(self) -> int:
        """How many of the keys are gone or wrong."""
        lost = 0
        with self._plain(0, protocol=3) as client:
            for start in range(0, self.keys, 500):
                numbers = range(start, min(self.keys, start + 500))
                values = client.mget([f"{self.prefix}:key:{n}" for n in numbers])
                lost += sum(value != str(n).encode() for n, value in zip(numbers, values, strict=True))
        return lost

    def start(self) -> None:
        """Start the clients."""
        kinds: list[tuple[str, Callable[[int], Client]]] = [
            ("RESP2", lambda n: self._plain(n, protocol=2)),
            ("RESP3", lambda n: self._plain(n, protocol=3)),
            ("RedisCluster", lambda n: redis.RedisCluster(*self.cluster)),
        ]
        for number in range(self.clients):
            kind, make = kinds[number % len(kinds)]
            seen = Seen(kind)
            self.seen.append(seen)
            self._threads.append(threading.Thread(target=self._run, args=(number, seen, make), daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client finish its command."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def counters_wrong(self) -> list[str]:
        """Counters that are not exactly what was answered; a command of unknown fate may have counted."""
        found = []
        with self._plain(0, protocol=3) as client:
            for number, seen in enumerate(self.seen):
                value = int(client.get(self._counter(number)) or 0)
                if not seen.incremented <= value <= seen.incremented + seen.unknown:
                    found.append(f"client {number} ({seen.kind}): {value}, answered {seen.incremented}")
        return found

    def result(self) -> dict[str, Any]:
        """Everything as JSON values."""
        errors: Counter[str] = Counter()
        for seen in self.seen:
            errors.update(seen.errors)
        pauses: dict[str, float] = {}
        for seen in self.seen:
            pauses[seen.kind] = round(max(pauses.get(seen.kind, 0.0), seen.longest_s), 4)
        return {
            "commands": sum(seen.commands for seen in self.seen),
            "errors": dict(errors),
            "wrong": [text for seen in self.seen for text in seen.wrong][:20],
            "missing": self.missing(),
            "counters": self.counters_wrong(),
            "longest_pause_s": pauses,
            "pause_per_client_s": [round(seen.longest_s, 4) for seen in self.seen],
        }

    def since(self, begin_anew: bool) -> dict[str, Any]:
        """What was seen since it was begun anew. `waits_s` is how long the most patient client waits now."""
        commands, errors, wrong = self._totals()
        before = self._before
        waits = [seen.waits_s() for seen in self.seen]
        pauses: dict[str, float] = {}
        for seen, wait_s in zip(self.seen, waits, strict=True):
            pauses[seen.kind] = round(max(pauses.get(seen.kind, 0.0), seen.longest_s, wait_s), 4)
        found = {
            "commands": commands - before[0],
            "errors": dict(errors - before[1]),
            "wrong": list((wrong - before[2]).elements())[:20],
            "longest_pause_s": pauses,
            "waits_s": round(max(waits), 4),
        }
        if begin_anew:
            self._before = (commands, errors, wrong)
            for seen in self.seen:
                seen.longest_s = 0.0
        return found

    def forgive(self) -> None:
        """Counters go on from what the next INCR answers."""
        for seen in self.seen:
            seen.forgiven = True

    def _totals(self) -> tuple[int, Counter[str], Counter[str]]:
        errors: Counter[str] = Counter()
        for seen in self.seen:
            errors.update(dict(seen.errors))
        wrong = Counter(text for seen in self.seen for text in tuple(seen.wrong))
        return sum(seen.commands for seen in self.seen), errors, wrong

    def _plain(self, number: int, protocol: int) -> redis.Redis:
        host, port = self.plain[number % len(self.plain)]
        return redis.Redis(host=host, port=port, protocol=protocol, socket_timeout=15, socket_connect_timeout=5)

    def _counter(self, number: int) -> str:
        return f"{self.prefix}:counter:{number}"

    def _run(self, number: int, seen: Seen, make: Callable[[int], Client]) -> None:
        client = make(number)
        steps = [self._set_get, self._increment, self._many, self._pipeline, self._transaction]
        steps += [self._queue, self._watch]
        turn = 0
        while not self._stop.wait(PAUSE_S):
            began = seen.began = time.monotonic()
            try:
                steps[turn % len(steps)](client, number, turn, seen)
                seen.commands += 1
            except Exception as error:  # a client that ends by one would look like one that waits
                seen.errors[f"{type(error).__name__}: {error}"[:160]] += 1
            seen.longest_s = max(seen.longest_s, time.monotonic() - began)
            seen.began = 0.0
            turn += 1
        client.close()

    def _set_get(self, client: Client, number: int, turn: int, seen: Seen) -> None:
        key = f"{self.prefix}:{number}:{turn % 200}"
        client.set(key, turn)
        self._expect(seen, client.get(key), str(turn).encode(), key)

    def _increment(self, client: Client, number: int, turn: int, seen: Seen) -> None:
        seen.unknown += 1
        value = client.incr(self._counter(number))
        seen.unknown -= 1
        seen.incremented += 1
        if seen.forgiven:
            seen.incremented, seen.unknown, seen.forgiven = value, 0, False
        if not seen.unknown and value != seen.incremented:
            seen.wrong.append(f"INCR of client {number} answered {value} instead of {seen.incremented}")

    def _many(self, client: Client, number: int, turn: int, seen: Seen) -> None:
        keys = [f"{self.prefix}:{number}:many:{n}" for n in range(10)]
        put, get = (
            (client.mset_nonatomic, client.mget_nonatomic)
            if seen.kind == "RedisCluster"
            else (client.mset, client.mget)
        )
        put(dict.fromkeys(keys, turn))
        self._expect(seen, get(keys), [str(turn).encode()] * len(keys), "MGET")

    def _pipeline(self, client: Client, number: int, turn: int, seen: Seen) -> None:
        key = f"{self.prefix}:{number}:pipe"
        with client.pipeline(transaction=False) as pipe:
            for n in range(PIPELINE):
                pipe.set(f"{key}:{n}", turn)
            pipe.execute()

    def _transaction(self, client: Client, number: int, turn: int, seen: Seen) -> None:
        key = f"{self.prefix}:{number}:{turn % 200}"
        with client.pipeline(transaction=True) as pipe:
            pipe.set(key, turn).get(key)
            self._expect(seen, pipe.execute()[1:], [str(turn).encode()], f"transaction on {key}")

    def _queue(self, client: Client, number: int, turn: int, seen: Seen) -> None:
        key = f"{self.prefix}:{number}:queue:{turn}"
        if turn % 3 == 0:
            self._expect(seen, client.blpop([key], 0.05), None, "BLPOP of nothing")
        client.rpush(key, turn)
        self._expect(seen, list(client.blpop([key], 10) or ()), [key.encode(), str(turn).encode()], "BLPOP")

    def _watch(self, client: Client, number: int, turn: int, seen: Seen) -> None:
        key = f"{self.prefix}:{number}:{turn % 200}"

        def body(pipe: Client) -> None:
            pipe.get(key)
            pipe.multi()
            pipe.set(key, turn)

        client.transaction(body, key)
        self._expect(seen, client.get(key), str(turn).encode(), f"WATCH and EXEC on {key}")

    @staticmethod
    def _expect(seen: Seen, value: object, expected: object, what: str) -> None:
        if value != expected:
            seen.wrong.append(f"{what}: {value!r} instead of {expected!r}"[:200])


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Fill, say so, load and answer until the standard input ends, and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", type=_address, action="append", required=True)
    parser.add_argument("--cluster", type=_address, required=True)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=20)
    arguments = parser.parse_args()
    load = SteadyLoad(tuple(arguments.plain), arguments.cluster, arguments.keys, arguments.clients)
    load.fill()
    load.start()
    sys.stdout.write("running\n")
    sys.stdout.flush()
    answers: dict[str, Callable[[], Any]] = {
        "look": lambda: load.since(begin_anew=False),
        "next": lambda: load.since(begin_anew=True),
        "check": load.missing,
        "forgive": load.forgive,
    }
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answers[line.strip()]()) + "\n")
        sys.stdout.flush()
    load.stop()
    sys.stdout.write(json.dumps(load.result()) + "\n")


if __name__ == "__main__":
    main()
