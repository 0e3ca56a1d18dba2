"""The router hub with router processes that are small scripts: registering, admitting, confirming, dying, outliving."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.waiting import until

from cachecluster_local.processes import is_alive, send_signal
from cachecluster_sidecar.agent.clock import boottime_ns
from cachecluster_sidecar.agent.router_hub import RouterHub, RouterTimes

pytestmark = pytest.mark.t1

# A router that writes down what it hears, and does what it is told to in the file `orders`: mute, confirm, die, babble.
ROUTER = """
import json, os, socket, sys, time
run, worker = sys.argv[1], int(sys.argv[2])
orders = lambda: open(f"{run}/orders").read().split() if os.path.exists(f"{run}/orders") else []
if "die" in orders():
    sys.exit(3)
while True:
    try:
        link = socket.socket(socket.AF_UNIX)
        link.connect(f"{run}/agent.sock")
    except OSError:
        time.sleep(0.01)
        continue
    def send(message):
        link.sendall(json.dumps(message).encode() + b"\\n")
    if "mute" not in orders():
        send({"register": {"worker": worker, "pid": os.getpid()}})
    if "babble" in orders():
        link.sendall(b"what?\\n")
    try:
        for line in link.makefile():
            message = json.loads(line)
            with open(f"{run}/heard-{worker}", "a") as log:
                log.write(line)
            if "ping" in message and "silent" not in orders():
                send({"pong": message["ping"]})
            if "gates" in message and "slow" not in orders():
                send({"confirm": message["gates"]})
            if "metrics" in message:
                send({"metrics": {"id": message["metrics"], "worker": worker, "clients": 7}})
    except OSError:
        pass
    time.sleep(0.01)
"""

TIMES = RouterTimes(ping=0.05, silence=0.4, first_word=10.0, first_pause=0.02, longest_pause=0.1, term=0.5)


class Pod:
    """A run directory and a hub that can be replaced as an agent's death and restart would."""

    def __init__(self, run_dir: Path, workers: int) -> None:
        self.run_dir = run_dir
        self.workers = workers
        self.changes = self.registered = self.started = 0
        self.script = run_dir / "router.py"
        self.script.write_text(ROUTER)
        self.hub = self._new_hub()

    def _new_hub(self) -> RouterHub:
        return RouterHub(
            self.run_dir,
            self.workers,
            lambda worker: [sys.executable, str(self.script), str(self.run_dir), str(worker)],
            self._count("changes"),
            self._count("registered"),
            self._count("started"),
            TIMES,
        )

    def _count(self, name: str) -> Any:
        return lambda *_: setattr(self, name, getattr(self, name) + 1)

    async def start(self) -> None:
        await self.hub.start()
        await until(lambda: self.registered == self.workers)

    async def agent_dies_and_returns(self) -> None:
        await self.hub.close()
        self.hub, self.registered = self._new_hub(), 0
        await self.hub.start()

    def order(self, text: str) -> None:
        (self.run_dir / "orders").write_text(text)

    def heard(self, worker: int = 0) -> str:
        path = self.run_dir / f"heard-{worker}"
        return path.read_text() if path.exists() else ""


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(tmp_path, 1)
    yield made
    await made.hub.stop()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Pod]:
    made = Pod(tmp_path, 2)
    yield made
    await made.hub.stop()


async def test_a_router_hears_of_gates_only_after_a_read_that_was_sent_after_it_registered(pod: Pod) -> None:
    before = boottime_ns()
    await pod.start()
    pod.hub.read_succeeded(before, [(0, 5)])
    assert pod.hub.admitted == 0
    pod.hub.announce([(0, 6)])
    pod.hub.read_succeeded(boottime_ns(), [(0, 6)])
    assert pod.hub.admitted == 1
    await until(lambda: '"gates":[[0,6]]' in pod.heard())
    assert "[0,5]" not in pod.heard() and pod.heard().count("gates") == 1


async def test_while_the_map_cannot_be_read_a_router_hears_of_gates_that_were_promised_after_it_registered(
    pod: Pod,
) -> None:
    before = boottime_ns()
    await pod.start()
    pod.hub.promised({0: before, 1: boottime_ns()}, lambda partition: (partition, 5))
    await until(lambda: '"gates":[[1,5]]' in pod.heard())
    assert pod.hub.waiting and pod.hub.admitted == 1
    pod.hub.announce([(0, 6), (1, 6)])
    await until(lambda: '"gates":[[1,6]]' in pod.heard())
    await until(lambda: pod.hub.confirmed(1, 6))
    assert pod.hub.confirmed(0, 6), "of that gate it was never told"
    assert not pod.hub.confirmed(1, 7)
    pod.hub.promised({1: boottime_ns()}, lambda partition: (partition, 6))
    pod.hub.read_succeeded(boottime_ns(), [(0, 6), (1, 6)])
    await until(lambda: '"gates":[[0,6],[1,6]]' in pod.heard())
    assert not pod.hub.waiting and pod.heard().count("gates") == 3


async def test_a_generation_is_confirmed_when_every_router_says_so(two: Pod) -> None:
    await two.start()
    assert two.hub.confirmed(3, 1), "a router that was never told anything lets nothing through"
    two.order("slow")
    two.hub.read_succeeded(boottime_ns(), [(3, 1)])
    assert not two.hub.confirmed(3, 1)
    two.order("")
    two.hub.announce([(3, 2)])
    await until(lambda: two.hub.confirmed(3, 2))
    assert two.hub.confirmed(3, 1) and not two.hub.confirmed(3, 3)
    assert two.changes > 0


async def test_a_dead_router_has_confirmed_everything_and_another_takes_its_place(pod: Pod) -> None:
    await pod.start()
    pod.order("slow")
    pod.hub.read_succeeded(boottime_ns(), [(0, 1)])
    assert not pod.hub.confirmed(0, 1)
    (pid,) = pod.hub.pids
    pod.order("")
    send_signal(pid, signal.SIGKILL)
    await until(lambda: pod.hub.confirmed(0, 1))
    await until(lambda: pod.registered == 2)
    assert pod.hub.pids != [pid] and pod.hub.admitted == 0 and pod.started == 2


async def test_a_router_that_outlived_the_agent_is_adopted_and_has_confirmed_nothing_until_it_says_so(pod: Pod) -> None:
    await pod.start()
    pod.hub.read_succeeded(boottime_ns(), [(0, 1)])
    await until(lambda: pod.hub.confirmed(0, 1))
    pids = pod.hub.pids
    await pod.agent_dies_and_returns()
    assert pod.hub.pids == pids and pod.started == 1
    assert not pod.hub.confirmed(0, 1)
    await until(lambda: pod.registered == 1)
    assert not pod.hub.confirmed(0, 1), "registering is not confirming"
    pod.hub.read_succeeded(boottime_ns(), [(0, 1)])
    await until(lambda: pod.hub.confirmed(0, 1))
    send_signal(pids[0], signal.SIGKILL)
    await until(lambda: pod.hub.pids and pod.hub.pids != pids)


async def test_an_adopted_router_that_does_not_come_back_is_killed(pod: Pod) -> None:
    await pod.start()
    pids = pod.hub.pids
    send_signal(pids[0], signal.SIGSTOP)
    await pod.agent_dies_and_returns()
    assert pod.hub.pids == pids and not pod.hub.confirmed(0, 1)
    await until(lambda: pod.registered == 1)
    assert pod.hub.pids != pids


@pytest.mark.parametrize("order", ["mute", "silent"])
async def test_a_silent_router_is_killed_and_replaced(tmp_path: Path, order: str) -> None:
    pod = Pod(tmp_path, 1)
    try:
        await pod.start()
        (pid,) = pod.hub.pids
        pod.order(order)
        await pod.hub.close()
        pod.hub = pod._new_hub()
        await pod.hub.start()
        await until(lambda: pod.hub.pids and pod.hub.pids != [pid])
    finally:
        await pod.hub.stop()


def test_a_router_that_answers_is_not_killed_by_an_agent_that_did_not_listen(tmp_path: Path) -> None:
    """On the loop of the shipped agent, which looks at timers before it reads."""

    async def stalls() -> None:
        pod = Pod(tmp_path, 1)
        try:
            await pod.start()
            pids = pod.hub.pids
            for _ in range(3):
                asyncio.get_running_loop().call_soon(time.sleep, TIMES.silence * 1.5)
                await asyncio.sleep(TIMES.ping * 3)
            assert pod.hub.pids == pids
        finally:
            await pod.hub.stop()

    uvloop.run(stalls())


async def test_breaking_the_protocol_ends_the_connection_but_not_the_router(pod: Pod) -> None:
    pod.order("babble")
    await pod.hub.start()
    await until(lambda: pod.registered > 2)
    assert pod.started == 1
    pod.order("")
    count = pod.registered
    await until(lambda: pod.registered > count)


async def test_routers_that_die_young_are_started_again_with_pauses(pod: Pod) -> None:
    pod.order("die")
    await pod.hub.start()
    await until(lambda: pod.started >= 3)
    pod.order("")
    await until(lambda: pod.registered == 1)


async def test_routes_come_with_the_registration_and_again_only_when_they_changed(pod: Pod) -> None:
    pod.hub.set_routes({"version": "1"})
    await pod.start()
    await until(lambda: pod.heard().count("routes") == 1)
    pod.hub.set_routes({"version": "1"})
    pod.hub.set_routes({"version": "2"})
    await until(lambda: '"version":"2"' in pod.heard())
    assert pod.heard().count("routes") == 2


async def test_counters_are_those_of_the_routers_that_answer(two: Pod) -> None:
    await two.start()
    counters = await two.hub.counters()
    assert {worker: numbers["clients"] for worker, numbers in counters.items()} == {0: 7, 1: 7}
    send_signal(two.hub.pids[1], signal.SIGSTOP)
    assert list(await two.hub.counters()) == [0]


async def test_stopping_ends_every_router(two: Pod) -> None:
    await two.start()
    pids = two.hub.pids
    send_signal(pids[0], signal.SIGSTOP)
    await two.hub.stop()
    for pid in pids:
        assert not is_alive(pid)
