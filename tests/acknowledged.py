"""Writers that remember what was acknowledged, so that it can be looked for element by element. Also a program.

`python -m tests.acknowledged --address HOST:PORT` runs until its standard input ends, then writes one JSON object: what
is missing. Each line of its input is answered with one of JSON: `look` and `next` (figures by partition since the last
`next`), `missing`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis
from tests.datapath import plain_client
from tests.per_partition import PerPartition

PERIOD_S = 0.005


@dataclass
class Written:
    """What one writer of one partition knows: numbers pushed to its list, in order, that were acknowledged."""

    key: str
    acknowledged: list[int] = field(default_factory=list)
    sent: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    answered_at: float = field(default_factory=time.monotonic)
    """When the last acknowledgement came (monotonic seconds)."""
    longest_s: float = 0.0
    """Between two acknowledgements."""
    slowest_s: float = 0.0
    """From sending a write to its answer, whatever it was."""

    def pause_s(self) -> float:
        """The longest time without an acknowledgement, the one that lasts included."""
        return max(self.longest_s, time.monotonic() - self.answered_at)


@dataclass
class AcknowledgedWrites(PerPartition):
    """`with AcknowledgedWrites(addresses) as writes:` pushes rising numbers to one list of every partition, each once,
    whatever the answer; a number whose answer was an error may or may not be there. A writer that is answered with an
    error goes on at the next address, as one behind a Service would."""

    prefix: str = "acknowledged"
    period_s: float = PERIOD_S
    errors: Counter[str] = field(default_factory=Counter)
    written: list[Written] = field(default_factory=list)

    def __enter__(self) -> AcknowledgedWrites:
        self.start()
        return self

    def prepare(self, key: str) -> None:
        """What its writer will know."""
        self.written.append(Written(key))

    def counts(self) -> list[int]:
        """How many writes of each partition were acknowledged up to now."""
        return [len(written.acknowledged) for written in self.written]

    def forget_pauses(self) -> None:
        """Begin anew to look for the longest times and for errors; a pause that lasts is counted from its beginning."""
        self.errors.clear()
        for written in self.written:
            written.longest_s = written.slowest_s = 0.0
            written.errors.clear()

    def missing(self) -> dict[int, list[int]]:
        """By partition, the numbers that were acknowledged and are not there. Numbers are there once, and acknowledged
        ones in the order they were sent in; one whose answer was an error may come late."""
        found = {}
        with plain_client(self.addresses[0]) as client:
            for partition, written in enumerate(self.written):
                acknowledged = set(written.acknowledged)
                there = [int(value) for value in client.lrange(written.key, 0, -1)]
                ordered = [number for number in there if number in acknowledged]
                assert len(set(there)) == len(there), f"partition {partition}, twice: {there[-50:]}"
                assert sorted(ordered) == ordered, f"partition {partition}, in disorder: {ordered[-50:]}"
                if lost := sorted(acknowledged - set(there)):
                    found[partition] = lost
        return found

    def summary(self) -> str:
        """One line for people."""
        longest = max(range(self.partitions), key=lambda p: self.written[p].longest_s)
        errors = ", ".join(f"{count} x {what}" for what, count in self.errors.items()) or "none"
        return (
            f"{sum(self.counts())} of {sum(w.sent for w in self.written)} writes acknowledged, longest pause "
            f"{self.written[longest].longest_s:.2f} s (partition {longest}), errors: {errors}"
        )

    def look(self) -> dict[str, list[Any]]:
        """Figures by partition: acknowledged up to now; errors and longest times (seconds) since the last `next`."""
        return {
            "acknowledged": self.counts(),
            "newest": [written.acknowledged[-1] if written.acknowledged else 0 for written in self.written],
            "errors": [dict(written.errors) for written in self.written],
            "pause_s": [round(written.pause_s(), 3) for written in self.written],
            "slowest_s": [round(written.slowest_s, 3) for written in self.written],
        }

    def next(self) -> dict[str, list[Any]]:
        """The same, and begin anew."""
        seen = self.look()
        self.forget_pauses()
        return seen

    def run(self, partition: int, key: str) -> None:
        written, turn = self.written[partition], partition
        while not self._stop.is_set():
            client = plain_client(self.addresses[turn % len(self.addresses)])
            try:
                while not self._stop.wait(self.period_s):
                    self._push(client, written)
            except (redis.RedisError, OSError) as error:
                text = f"{type(error).__name__}: {str(error)[:60]}"
                self.errors[text] += 1
                written.errors[text] += 1
                turn += 1
                self._stop.wait(self.period_s)
            finally:
                client.close()

    @staticmethod
    def _push(client: redis.Redis, written: Written) -> None:
        written.sent += 1
        began = time.monotonic()
        try:
            client.rpush(written.key, written.sent)
        finally:
            now = time.monotonic()
            written.slowest_s = max(written.slowest_s, now - began)
        written.acknowledged.append(written.sent)
        written.longest_s, written.answered_at = max(written.longest_s, now - written.answered_at), now


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    """Write, say so, answer until the standard input ends, and tell what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", type=_address, action="append", required=True)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--period", type=float, default=PERIOD_S, help="seconds between two writes of a partition")
    arguments = parser.parse_args()
    addresses = tuple(arguments.address)
    with AcknowledgedWrites(addresses, arguments.partitions, uuid.uuid4().hex[:8], period_s=arguments.period) as writes:
        _say("running")
        answers: dict[str, Callable[[], Any]] = {"look": writes.look, "next": writes.next, "missing": writes.missing}
        for line in sys.stdin:
            _say(json.dumps(answers[line.strip()]()))
    _say(json.dumps({"missing": writes.missing()}))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
