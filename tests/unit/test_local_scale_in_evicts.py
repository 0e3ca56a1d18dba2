"""A scale-in of a `cachecluster-local` that is full by LRU: refused, and done under load where keys may go for it."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import redis
from tests.local_process import LocalProcess
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(300)]

VALUE = b"x" * 8_000
KEYS = 16_000
"""More than four nodes of 48 MiB hold: 16 partitions of 6 MiB."""
DONE_S = 120.0


class Writer:
    """Goes on writing new keys, as applications do with a full cache; notes what is answered with an error."""

    def __init__(self, local: LocalProcess) -> None:
        (host, port), *_ = local.endpoints().plain
        self.client = redis.Redis(host=host, port=port, socket_timeout=15)
        self.errors: Counter[str] = Counter()
        self.written = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def fill(self) -> None:
        for start in range(0, KEYS, 100):
            with self.client.pipeline(transaction=False) as pipe:
                for number in range(start, start + 100):
                    pipe.set(f"fill:{number}", VALUE)
                pipe.execute()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            try:
                self.client.set(f"later:{self.written}", VALUE)
                assert self.client.get(f"later:{self.written}") == VALUE
                self.written += 1
            except redis.RedisError as error:
                self.errors[str(error)[:100]] += 1

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.client.close()


@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_a_scale_in_of_a_full_cache_evicts_where_it_may(local_cluster: LocalFactory, engine: str) -> None:
    local = local_cluster("--memory", "48Mi", engine=engine, nodes=4)
    writer = Writer(local)
    writer.fill()
    wait_until(lambda: float(local.status()["memory"]["used"].rstrip("Mi")) > 80, 20, "it is full")
    with writer:
        (refused,) = local.scale(2)
        assert "4 nodes stay" in refused and "set spec.scaleIn.whenFull to evict" in refused
        assert len(local.state()["nodes"]) == 4
        local.nodes = 2
        (evicting,) = local.scale(2, evict=True)
        assert "copies evict until they fit" in evicting
        assert local.progressing()[0] == "ScalingIn"
        local.wait_complete(DONE_S)
    used = float(local.status()["memory"]["used"].rstrip("Mi"))
    assert writer.errors == {} and writer.written > 100
    print(f"\n{engine}: {writer.written} keys written meanwhile, {used} MiB are left")  # noqa: T201
    assert used > 60, "no more than had to go: 16 copies may use 4.7 MiB each"
