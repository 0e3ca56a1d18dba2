"""The API server and the operator are away: data is served all the time, in the hands of the agents alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
import redis
from tests.datapath import keys_by_partition, plain_client
from tests.gate_watch import GateWatch
from tests.local_names import CLUSTER, PLAIN, service_names
from tests.local_process import LocalProcess
from tests.steady_load import SteadyLoad
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(300)]

OUTAGE_S = 15.0
"""Five times as long as a quorum read gives authority."""
AUTHORITY_S = 4.0
SERVED_S = 20.0


@pytest.fixture(scope="module", params=["valkey", "redis"])
def local(request: pytest.FixtureRequest, local_cluster: LocalFactory) -> Iterator[LocalProcess]:
    local = local_cluster("--repair-delay", "5", engine=request.param)
    try:
        yield local
    finally:
        local.signal([local.process.pid], signal.SIGCONT)


def test_nothing_is_noticed_of_an_outage(local: LocalProcess) -> None:
    local.wait_whole()
    with service_names(local), GateWatch(local.directory / "state.json") as watch:
        load = SteadyLoad(((PLAIN, 6379),), (CLUSTER, 7379))
        load.fill()
        load.start()
        local.signal([local.process.pid], signal.SIGSTOP)
        try:
            time.sleep(OUTAGE_S)  # the length of the outage is the test
        finally:
            local.signal([local.process.pid], signal.SIGCONT)
        local.wait_whole()
        load.stop()
        result = load.result()
    print(f"\n{local.engine}: {result['commands']} commands, longest pauses {result['longest_pause_s']}")  # noqa: T201
    assert (result["errors"], result["wrong"], result["counters"], result["missing"]) == ({}, [], [], 0)
    assert min(watch.result["samples"].values()) > 0


def test_partitions_of_an_engine_that_dies_in_an_outage_wait_and_the_others_do_not(local: LocalProcess) -> None:
    local.wait_whole()
    ring, keys = local.ring(), keys_by_partition("outage", 16)
    assert ring is not None and ring.entries[3].primary is not None
    pod = ring.entries[3].primary.pod
    engine = local.node(pod)["pids"]["engines"]["3"]
    address = local.endpoints().plain[0]
    local.signal([local.process.pid], signal.SIGSTOP)
    try:
        local.signal([engine])
        until = time.monotonic() + 8.0
        with plain_client(address) as client:
            while time.monotonic() < until:
                for partition, key in enumerate(keys):
                    if partition != 3:
                        assert client.set(key, partition)
    finally:
        local.signal([local.process.pid], signal.SIGCONT)
    local.wait_whole()
    with plain_client(address) as client:
        wait_until(lambda: bool(client.set(keys[3], 3)), 20, "the partition is back")


def test_a_router_that_is_killed_in_an_outage_serves_again_before_its_end(local: LocalProcess) -> None:
    local.wait_whole()
    node = local.node(local.primary_of(3))
    keys = keys_by_partition("router", 16)
    with GateWatch(local.directory / "state.json"):
        local.signal([local.process.pid], signal.SIGSTOP)
        try:
            time.sleep(AUTHORITY_S)  # by now authority is by promises
            local.signal(node["pids"]["routers"])
            address = next(it for it in local.endpoints().plain if it[0] != node["address"])
            with plain_client(address) as client:
                wait_until(lambda: served(client, keys), SERVED_S, "every partition is served")
        finally:
            local.signal([local.process.pid], signal.SIGCONT)
    local.wait_whole()


def served(client: redis.Redis, keys: list[str]) -> bool:
    """Every partition takes a write."""
    try:
        return all(client.set(key, 1) for key in keys)
    except redis.RedisError:
        return False
