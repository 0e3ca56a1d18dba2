"""What a fault looks like to clients: one client for every partition writes and reads all the time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import redis
from tests.datapath import plain_client
from tests.per_partition import PerPartition

PERIOD_S = 0.05


@dataclass
class Load(PerPartition):
    """`with Load(addresses, partitions) as load:` runs the clients; afterwards it holds what they saw.

    `longest_s[p]` is the longest time between two answers of partition p; `forgotten` are partitions that did not know
    a key right after it was written. A client whose connection breaks goes on
    at the next address, as one behind a Service would.
    """

    longest_s: dict[int, float] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    forgotten: set[int] = field(default_factory=set)
    _answered_at: dict[int, float] = field(default_factory=dict)

    def __enter__(self) -> Load:
        self.start()
        return self

    def all_answered_since(self, moment: float) -> bool:
        """Whether every partition has answered a command that was sent after `moment` (time.monotonic)."""
        return len(self._answered_at) == self.partitions and all(at > moment for at in self._answered_at.values())

    def run(self, partition: int, key: str) -> None:
        turn, last = partition, time.monotonic()
        while not self._stop.is_set():
            client = plain_client(self.addresses[turn % len(self.addresses)])
            try:
                while not self._stop.wait(PERIOD_S):
                    sent_at = time.monotonic()
                    client.set(key, sent_at)
                    if client.get(key) is None:
                        self.forgotten.add(partition)
                    now = time.monotonic()
                    self.longest_s[partition] = max(now - last, self.longest_s.get(partition, 0.0))
                    last, self.answers = now, self.answers + 1
                    self._answered_at[partition] = sent_at
            except (redis.RedisError, OSError) as error:
                self.errors[f"{type(error).__name__}: {str(error)[:60]}"] += 1
                turn += 1
                self._stop.wait(PERIOD_S)
            finally:
                client.close()

    def summary(self, of: Iterable[int] | None = None) -> str:
        """One line for people."""
        worst = {p: self.longest_s.get(p, 0.0) for p in (of if of is not None else range(self.partitions))}
        partition = max(worst, key=lambda p: worst[p])
        errors = ", ".join(f"{count} x {what}" for what, count in self.errors.items()) or "none"
        return f"longest without an answer {worst[partition]:.2f} s (partition {partition}), errors: {errors}"
