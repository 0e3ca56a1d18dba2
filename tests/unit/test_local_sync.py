"""`durability: sync` on `cachecluster-local`: no write that was acknowledged is missing, whatever happens."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.acknowledged import AcknowledgedWrites
from tests.datapath import keys_by_partition, plain_client
from tests.gate_watch import GateWatch
from tests.local_names import CLUSTER, PLAIN, service_names
from tests.local_process import LocalProcess
from tests.steady_load import SteadyLoad
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(240)]

PARTITIONS = 16
STALL_S = 3.0
"""How long a replica that is killed or cut may hold up a write."""
ANSWER_S = 0.5
"""And what a busy machine may add."""


@pytest.fixture(scope="module", params=["valkey", "redis"])
def local(request: pytest.FixtureRequest, local_cluster: LocalFactory) -> LocalProcess:
    return local_cluster("--durability", "sync", "--repair-delay", "5", engine=request.param)


@pytest.fixture
def writes(local: LocalProcess) -> Iterator[AcknowledgedWrites]:
    """A writer for every partition; in the end everything acknowledged is there, and no two gates were ever open."""
    local.wait_complete()
    addresses = local.endpoints().plain
    prefix = f"acknowledged{time.time_ns()}"
    with (
        GateWatch(local.directory / "state.json"),
        AcknowledgedWrites(addresses, PARTITIONS, prefix) as writes,
    ):
        wait_until(lambda: min(writes.counts()) > 20, 20, "every partition is written to")
        writes.forget_pauses()
        yield writes
        goes_on(writes)
    assert writes.missing() == {}
    print(f"\n{local.engine}: {writes.summary()}")  # noqa: T201 - figures for people


def goes_on(writes: AcknowledgedWrites, seconds: float = 20.0) -> None:
    """Every partition acknowledges new writes."""
    before = writes.counts()
    wait_until(
        lambda: all(now > was + 5 for now, was in zip(writes.counts(), before, strict=True)), seconds, "writes go on"
    )


def engine_of(local: LocalProcess, pod: str, partition: int) -> redis.Redis:
    """A client of a copy's engine itself."""
    name = str(local.node(pod)["name"])
    directory = Path(local.state()["stateDir"]) / f"node-{name.rpartition('-')[2]}"
    password = (directory / "secrets" / "agent-password").read_text().strip()
    where = str(directory / "run" / "sock" / f"p{partition}.sock")
    return redis.Redis(unix_socket_path=where, username="agent", password=password, socket_timeout=5)


def replica_of(local: LocalProcess, partition: int) -> str:
    """UID of the pod that has the replica of a partition."""
    ring = local.ring()
    assert ring is not None
    entry = ring.entries[partition]
    return next(copy.pod for copy in entry.isr if copy != entry.primary)


def test_an_acknowledged_write_is_on_every_copy(local: LocalProcess) -> None:
    local.wait_complete()
    keys = keys_by_partition("everywhere", PARTITIONS)
    with contextlib.ExitStack() as stack:
        replicas = [
            stack.enter_context(engine_of(local, replica_of(local, partition), partition))
            for partition in range(PARTITIONS)
        ]
        for address in local.endpoints().plain:
            with plain_client(address) as client:
                for number in range(20):
                    for key, replica in zip(keys, replicas, strict=True):
                        assert client.set(key, number)
                        assert replica.get(key) == str(number).encode()


def test_planned_changes_lose_nothing_and_give_no_error(local: LocalProcess) -> None:
    local.wait_complete()
    with service_names(local):
        load = SteadyLoad(((PLAIN, 6379),), (CLUSTER, 7379), prefix=f"steady{time.time_ns()}")
        load.fill()
        load.start()
        try:
            local.scale_out_and_in(3)
        finally:
            load.stop()
        result = load.result()
    print(f"\n{local.engine}: {result['commands']} commands, longest pauses {result['longest_pause_s']}")  # noqa: T201
    assert (result["errors"], result["wrong"], result["counters"], result["missing"]) == ({}, [], [], 0)


def test_a_hand_over_leaves_both_copies_in_sync_also_when_nothing_is_written(local: LocalProcess) -> None:
    """The former primary has to attach to its successor: that takes a moment, in which the successor may fail."""
    local.wait_complete()
    begun = (local.directory / "log").stat().st_size
    local.roll()
    wait_until(lambda: " RollStarted: " in (local.directory / "log").read_text()[begun:], 10, "the roll begins")
    local.wait_complete()
    told = (local.directory / "log").read_text()[begun:]
    assert told.count(" HandedOver: ") >= 4
    assert [line for line in told.splitlines() if "is not in sync" in line] == []


def test_the_redis_process_of_a_primary_is_killed(local: LocalProcess, writes: AcknowledgedWrites) -> None:
    for partition in (3, 7, 11):
        local.signal([local.node(local.primary_of(partition))["pids"]["engines"][str(partition)]])
        goes_on(writes)
    local.wait_whole()


def test_every_process_of_a_node_is_killed(local: LocalProcess, writes: AcknowledgedWrites) -> None:
    pids = local.state()["nodes"][2]["pids"]
    local.signal([pids["supervisor"], pids["agent"], *pids["routers"], *pids["engines"].values()])
    goes_on(writes)
    local.wait_whole(60)


def test_a_router_is_killed(local: LocalProcess, writes: AcknowledgedWrites) -> None:
    local.signal(local.state()["nodes"][1]["pids"]["routers"])
    goes_on(writes)


def test_an_agent_is_stopped_until_others_took_over(local: LocalProcess, writes: AcknowledgedWrites) -> None:
    node = local.state()["nodes"][1]
    local.signal([node["pids"]["agent"]], signal.SIGSTOP)
    try:
        wait_until(lambda: not leads(local, node["uid"]), 20, "the stopped node leads nothing")
        goes_on(writes)
    finally:
        local.signal([node["pids"]["agent"]], signal.SIGCONT)
    local.wait_whole()


def leads(local: LocalProcess, uid: str) -> bool:
    ring = local.ring()
    return ring is None or any(entry.primary is not None and entry.primary.pod == uid for entry in ring.entries)


def test_a_replica_that_is_killed_holds_writes_up_for_at_most_three_seconds(
    local: LocalProcess, writes: AcknowledgedWrites
) -> None:
    local.signal([local.node(replica_of(local, 5))["pids"]["engines"]["5"]])
    goes_on(writes)
    assert writes.written[5].longest_s < STALL_S + ANSWER_S
    local.wait_whole()


def test_a_replica_that_stops_holds_writes_up_for_at_most_three_seconds_and_no_reads(
    local: LocalProcess, writes: AcknowledgedWrites
) -> None:
    pod = replica_of(local, 5)
    victim = local.node(pod)["pids"]["engines"]["5"]
    key, longest = writes.written[5].key, 0.0
    with plain_client(writes.addresses[0]) as reader:
        reader.llen(key)
        local.signal([victim], signal.SIGSTOP)
        try:
            struck = time.monotonic()
            while time.monotonic() < struck + STALL_S:
                began = time.monotonic()
                assert reader.llen(key) > 0
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.01)
            goes_on(writes)
        finally:
            with contextlib.suppress(ProcessLookupError):
                local.signal([victim], signal.SIGCONT)
    print(f"\n{local.engine}: longest read {longest:.3f} s, {writes.summary()}")  # noqa: T201 - figures for people
    assert writes.written[5].slowest_s < STALL_S + ANSWER_S and longest < ANSWER_S
    local.wait_whole()
