"""Random faults, one after the other, on a cluster under load: nothing replicated is lost, no two gates are ever open.

The seed is printed; put it into CACHECLUSTER_SEED to strike in the same order again.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.datapath import plain_client
from tests.gate_watch import GateWatch
from tests.local_process import LocalProcess
from tests.outage import Load
from tests.replication import wait_replicated
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(300)]

ROUNDS = 6
KEYS = 200
ANSWER_S = 30.0
MAX_STOP_S = 6.0


@dataclass
class Striker:
    """Knows the faults and chooses among them."""

    local: LocalProcess
    dice: random.Random

    def strike(self) -> str:
        """One fault on one node; a stopped process goes on before this returns. Says what it was."""
        node = self.dice.choice(self.local.state()["nodes"])
        faults: list[Callable[[dict[str, Any]], str]] = [self._kill, self._kill_group, self._stop, self._delete_map]
        return f"{self.dice.choice(faults)(node)} of {node['name']}"

    def _kill(self, node: dict[str, Any]) -> str:
        pids = node["pids"]
        kind = self.dice.choice(["agent", "router", "redis"])
        victims = {"agent": [pids["agent"]], "router": pids["routers"], "redis": list(pids["engines"].values())}[kind]
        self.local.signal([self.dice.choice(victims)])
        return f"kill {kind}"

    def _kill_group(self, node: dict[str, Any]) -> str:
        pids = node["pids"]
        sidecar = [pids["agent"], *pids["routers"]]
        redis = [pids["supervisor"], *pids["engines"].values()]
        groups = {"sidecar": sidecar, "redis container": redis, "everything": sidecar + redis}
        kind = self.dice.choice(list(groups))
        self.local.signal(groups[kind])
        return f"kill {kind}"

    def _stop(self, node: dict[str, Any]) -> str:
        kind = self.dice.choice(["agent", "redis"])
        pids = node["pids"]
        victim = pids["agent"] if kind == "agent" else self.dice.choice(list(pids["engines"].values()))
        seconds = self.dice.uniform(0.5, MAX_STOP_S)
        self.local.signal([victim], signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self.local.signal([victim], signal.SIGCONT)
        return f"stop {kind} for {seconds:.1f} s"

    def _delete_map(self, node: dict[str, Any]) -> str:
        self.local.delete_ring()
        return "delete map, and nothing"


@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_faults_in_random_order_lose_nothing(local_cluster: LocalFactory, engine: str) -> None:
    seed = int(os.environ.get("CACHECLUSTER_SEED", time.time_ns() % 1_000_000))
    print(f"\n{engine}, CACHECLUSTER_SEED={seed}")  # noqa: T201 - figures for people
    local = local_cluster("--repair-delay", "2", engine=engine)
    striker = Striker(local, random.Random(seed))
    addresses = local.endpoints().plain
    with GateWatch(local.directory / "state.json"), Load(addresses) as load:
        for number in range(ROUNDS):
            local.wait_whole()
            keys = [f"{seed}:{number}:{n}" for n in range(KEYS)]
            with plain_client(addresses[0]) as client:
                client.mset({key: key for key in keys})
            wait_replicated(local)
            what = striker.strike()
            struck = time.monotonic()
            wait_until(lambda struck=struck: load.all_answered_since(struck), ANSWER_S, what)
            print(f"  {what}: {load.summary()}")  # noqa: T201 - figures for people
            local.wait_whole()
            with plain_client(addresses[0]) as client:
                assert client.mget(keys) == [key.encode() for key in keys], what
            load.longest_s.clear()
            load.errors.clear()
    assert not load.forgotten
