"""Clients that run beside a test, one thread for every partition."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tests.datapath import Address, keys_by_partition

END_S = 20.0


@dataclass
class PerPartition:
    """`with` it, `run` goes on in a thread of its own for each partition, until `_stop` is set at the end."""

    addresses: tuple[Address, ...]
    partitions: int = 16
    prefix: str = "load"
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start the threads."""
        for partition, key in enumerate(keys_by_partition(self.prefix, self.partitions)):
            self.prepare(key)
            self._threads.append(threading.Thread(target=self.run, args=(partition, key), daemon=True))
        for thread in self._threads:
            thread.start()

    def prepare(self, key: str) -> None:
        """Called for each partition in turn before any thread runs."""

    def run(self, partition: int, key: str) -> None:
        """One client of one partition, until `_stop` is set."""
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(END_S)
