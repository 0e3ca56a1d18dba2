"""Writers that remember what was acknowledged, so that it can be looked for element by element afterwards."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

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
    longest_s: float = 0.0
    """Between two acknowledgements."""
    slowest_s: float = 0.0
    """From sending a write to its answer, whatever it was."""


@dataclass
class AcknowledgedWrites(PerPartition):
    """`with AcknowledgedWrites(addresses) as writes:` pushes rising numbers to one list of every partition, each once,
    whatever the answer; a number whose answer was an error may or may not be there. A writer that is answered with an
    error goes on at the next address, as one behind a Service would."""

    prefix: str = "acknowledged"
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
        """Begin anew to look for the longest times."""
        for written in self.written:
            written.longest_s = written.slowest_s = 0.0

    def missing(self) -> dict[int, list[int]]:
        """By partition, the numbers that were acknowledged and are not there, or not in the order they were sent in."""
        found = {}
        with plain_client(self.addresses[0]) as client:
            for partition, written in enumerate(self.written):
                there = [int(value) for value in client.lrange(written.key, 0, -1)]
                assert len(set(there)) == len(there) and sorted(there) == there, f"partition {partition}: {there[-50:]}"
                if lost := sorted(set(written.acknowledged) - set(there)):
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

    def run(self, partition: int, key: str) -> None:
        written, turn, last = self.written[partition], partition, time.monotonic()
        while not self._stop.is_set():
            client = plain_client(self.addresses[turn % len(self.addresses)])
            try:
                while not self._stop.wait(PERIOD_S):
                    written.sent += 1
                    began = time.monotonic()
                    try:
                        client.rpush(written.key, written.sent)
                    finally:
                        now = time.monotonic()
                        written.slowest_s = max(written.slowest_s, now - began)
                    written.acknowledged.append(written.sent)
                    written.longest_s, last = max(written.longest_s, now - last), now
            except (redis.RedisError, OSError) as error:
                self.errors[f"{type(error).__name__}: {str(error)[:60]}"] += 1
                turn += 1
                self._stop.wait(PERIOD_S)
            finally:
                client.close()
