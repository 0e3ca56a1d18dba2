"""The operator's part: stopped while a node dies, and two of them at once, with real agents and engines."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.gate_watch import GateWatch
from tests.loopback import free_block
from tests.outage import Load
from tests.waiting import until

from cachecluster_core.hashring import HashRing, State
from cachecluster_local import state_file
from cachecluster_local.cluster import LocalCluster
from cachecluster_local.main import parse_plan

pytestmark = [pytest.mark.t1, pytest.mark.timeout(180)]

PARTITIONS = 8


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    first = free_block(6379, 7379, 7380, 9121, 17000)
    flags = ["--first-address", first, "--partitions", str(PARTITIONS), "--repair-delay", "3"]
    plan, spec, _ = parse_plan(flags)
    async with LocalCluster(plan, spec) as cluster:
        await cluster.wait_ready()
        yield cluster


def is_whole(ring: HashRing | None) -> bool:
    return ring is not None and all(entry.state is State.STABLE and len(entry.isr) == 2 for entry in ring.entries)


def load_of(cluster: LocalCluster) -> Load:
    return Load(tuple((host, port) for host, port in cluster.state["plain"]), PARTITIONS)


def write_state(cluster: LocalCluster, directory: str) -> Path:
    path = Path(directory) / "state.json"
    state_file.write(path, cluster.state)
    return path


def kill_node(cluster: LocalCluster, number: int) -> None:
    pids = cluster.state["nodes"][number]["pids"]
    for pid in (pids["supervisor"], pids["agent"], *pids["routers"], *pids["engines"].values()):
        assert pid > 1
        os.kill(pid, signal.SIGKILL)


async def test_a_node_that_died_while_the_operator_was_stopped_is_repaired(cluster: LocalCluster) -> None:
    operator = cluster.operator_tasks[0]
    operator.cancel()
    await asyncio.gather(operator, return_exceptions=True)
    before = cluster.store.current
    kill_node(cluster, 1)
    await asyncio.sleep(1.0)
    assert cluster.store.current == before
    cluster.start_operator()
    await until(lambda: cluster.store.current != before, 20)
    await until(lambda: is_whole(cluster.store.current), 40)
    with load_of(cluster) as load:
        await until(lambda: load.all_answered_since(0.0), 20)


async def test_two_operators_at_once_do_no_harm(cluster: LocalCluster) -> None:
    cluster.start_operator()
    with tempfile.TemporaryDirectory() as directory:
        state = write_state(cluster, directory)
        with GateWatch(state) as watch, load_of(cluster) as load:
            await until(lambda: load.all_answered_since(0.0), 20)
            for number in (0, 2):
                before = cluster.store.current
                kill_node(cluster, number)
                await until(lambda before=before: cluster.store.current != before, 20)
                await until(lambda: is_whole(cluster.store.current), 60)
            await until(lambda: is_whole(cluster.store.current), 60)
        assert sum(watch.result["samples"].values()) > 100
