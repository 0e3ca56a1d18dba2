"""`spec.reads: replica` on `cachecluster-local`: replicas answer, and with nothing that is older than promised."""

from __future__ import annotations

import signal
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from tests.datapath import keys_by_partition, plain_client
from tests.local_process import LocalProcess
from tests.unit.conftest import LocalFactory
from tests.unit.test_local_sync import engine_of, replica_of
from tests.waiting import wait_until

from cachecluster_core import pod_table
from cachecluster_core.replica_reads import LINK_SILENT_S, LOOK_S

pytestmark = [pytest.mark.t1, pytest.mark.timeout(240)]

PARTITIONS = 16
PARTITION = 5
OLDEST_S = LINK_SILENT_S + 1 + LOOK_S
"""How long a replica may be read that does not hear its primary any more."""
BUSY_S = 1.5
"""And what a busy machine may add."""


@pytest.fixture(scope="module", params=["valkey", "redis"])
def local(request: pytest.FixtureRequest, local_cluster: LocalFactory) -> LocalProcess:
    return local_cluster("--reads", "replica", "--repair-delay", "5", engine=request.param)


def replica_reads(local: LocalProcess) -> list[float]:
    """How many reads of each node's clients a replica has answered."""
    counts = []
    for host, port in local.state()["metrics"]:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            found = next(it for it in families if it.name == "cachecluster_router_replica_reads")
        counts.append(sum(sample.value for sample in found.samples))
    return counts


def may_be_read(local: LocalProcess, pod: str, partition: int) -> bool:
    """What the pod's agent tells its routers of the copy there."""
    name = str(local.node(pod)["name"])
    table = Path(local.state()["stateDir"]) / f"node-{name.rpartition('-')[2]}" / "run" / "pod-table"
    at = pod_table.gate_offset(partition) + 8 * pod_table.READABLE_NS
    until_ns = int.from_bytes(table.read_bytes()[at : at + 8], "little")
    return until_ns > time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wait_readable(local: LocalProcess) -> None:
    """All is whole, and every replica may be read."""
    local.wait_complete()
    wait_until(lambda: all(has_readable_replica(local, p) for p in range(PARTITIONS)), 20, "replicas may be read")


def has_readable_replica(local: LocalProcess, partition: int) -> bool:
    """By the map of now: a primary that was silent may not be the primary any more."""
    ring = local.ring()
    assert ring is not None
    entry = ring.entries[partition]
    return any(may_be_read(local, copy.pod, partition) for copy in entry.isr if copy != entry.primary)


class Clock:
    """A writer that counts, in all partitions at once, through one node, and knows which count was answered when."""

    def __init__(self, address: tuple[str, int], keys: list[str]) -> None:
        self.keys = keys
        self.key = keys[PARTITION]
        self._client = plain_client(address)
        self._client.mset(dict.fromkeys(keys, 0))
        self._answered: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Clock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self._client.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            count = self._answered[-1][1] + 1
            try:
                self._client.mset(dict.fromkeys(self.keys, count))
                self._answered.append((time.monotonic(), count))
            except redis.ResponseError as error:  # of a pod whose agent is stopped until its authority has ended
                if not str(error).startswith("INDETERMINATE"):
                    raise
            self._stop.wait(0.005)

    def least_at(self, when: float) -> int:
        """The count that had been answered by then."""
        return next((count for answered, count in reversed(list(self._answered)) if answered <= when), 0)


class Reader(threading.Thread):
    """Reads all keys of a clock through one node, and notes what was older than is promised."""

    def __init__(self, clock: Clock, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.too_old: list[str] = []
        self.reads = 0
        self._clock = clock
        self._address = address
        self._ended = threading.Event()

    def run(self) -> None:
        with plain_client(self._address) as client:
            while not self._ended.is_set():
                asked = time.monotonic()
                counts = [int(value or 0) for value in client.mget(self._clock.keys)]
                least = self._clock.least_at(asked - OLDEST_S)
                if min(counts) < least:
                    self.too_old.append(f"{counts} at {self._address}, {least} was answered {OLDEST_S} s before")
                self.reads += 1
                self._ended.wait(0.005)

    def end(self) -> None:
        self._ended.set()
        self.join(20)


@pytest.fixture
def clock(local: LocalProcess) -> Iterator[Clock]:
    """It counts through the pod of the primary of `PARTITION`."""
    wait_readable(local)
    host = local.node(local.primary_of(PARTITION))["address"]
    keys = keys_by_partition(f"clock{time.time_ns()}", PARTITIONS)
    with Clock((host, local.endpoints().plain[0][1]), keys) as clock:
        yield clock


def test_replicas_answer_reads_of_the_clients_of_their_pods(local: LocalProcess) -> None:
    wait_readable(local)
    keys = keys_by_partition(f"spread{time.time_ns()}", PARTITIONS)
    before = replica_reads(local)
    for address in local.endpoints().plain:
        with plain_client(address) as client:
            for key in keys:
                assert client.set(key, "value")
            for key in keys:
                wait_until(lambda key=key: client.get(key) == b"value", 5, "the replica has it")  # type: ignore[misc]
            for _ in range(20):
                assert client.mget(keys) == [b"value"] * PARTITIONS
    now = replica_reads(local)
    assert all(after > was + 20 for after, was in zip(now, before, strict=True)), (before, now)


def test_a_client_that_asks_for_the_primary_reads_what_it_has_written(local: LocalProcess, clock: Clock) -> None:
    with plain_client((local.node(replica_of(local, PARTITION))["address"], local.endpoints().plain[0][1])) as client:
        assert client.execute_command("CACHECLUSTER", "READS", "primary") in (b"OK", True)
        key = clock.key + f"{{{clock.key}}}"
        for number in range(200):
            client.set(key, number)
            assert client.get(key) == str(number).encode()


def test_a_replica_that_follows_no_more_while_its_agent_is_stopped_is_not_read_for_long(
    local: LocalProcess, clock: Clock
) -> None:
    """It stays as it was at that moment for ever, and nobody is there to say so."""
    pod = replica_of(local, PARTITION)
    agent = local.node(pod)["pids"]["agent"]
    old_reads = 0
    with (
        plain_client((local.node(pod)["address"], local.endpoints().plain[0][1])) as reader,
        engine_of(local, pod, PARTITION) as replica,
    ):
        wait_until(lambda: int(reader.get(clock.key) or 0) > 10, 10, "it counts")
        local.signal([agent], signal.SIGSTOP)
        try:
            replica.execute_command("REPLICAOF", "127.0.0.1", "1")
            cut = time.monotonic()
            while time.monotonic() < cut + OLDEST_S + BUSY_S:
                asked = time.monotonic()
                count = int(reader.get(clock.key) or 0)
                assert count >= clock.least_at(asked - OLDEST_S)
                old_reads += count < clock.least_at(asked - 0.2)
                time.sleep(0.01)
            asked = time.monotonic()
            assert int(reader.get(clock.key) or 0) >= clock.least_at(asked - 0.01), "the primary answers now"
        finally:
            local.signal([agent], signal.SIGCONT)
    assert old_reads > 5, "the replica was read while it might be"
    wait_readable(local)


def test_a_replica_whose_primary_is_silent_is_not_read_for_long(local: LocalProcess, clock: Clock) -> None:
    pod, primary = replica_of(local, PARTITION), local.primary_of(PARTITION)
    engine = local.node(primary)["pids"]["engines"][str(PARTITION)]
    try:
        local.signal([engine], signal.SIGSTOP)
        took = wait_until(lambda: not may_be_read(local, pod, PARTITION), OLDEST_S + BUSY_S, "it is not read any more")
    finally:
        local.signal([engine], signal.SIGCONT)
    print(f"\n{local.engine}: the replica of a silent primary was read for {took:.2f} s")  # noqa: T201 - for people
    wait_readable(local)


def test_reads_go_on_when_the_replica_is_silent_or_dies(local: LocalProcess, clock: Clock) -> None:
    pod = replica_of(local, PARTITION)
    engine = local.node(pod)["pids"]["engines"][str(PARTITION)]
    with plain_client((local.node(pod)["address"], local.endpoints().plain[0][1])) as reader:
        for number, lasts_s in ((signal.SIGSTOP, 3.0), (signal.SIGKILL, 1.0)):
            wait_readable(local)
            local.signal([engine], number)
            try:
                struck = time.monotonic()
                while time.monotonic() < struck + lasts_s:
                    asked = time.monotonic()
                    assert int(reader.get(clock.key) or 0) >= clock.least_at(asked - OLDEST_S)
                    assert time.monotonic() - asked < 1.2 + BUSY_S
                    time.sleep(0.01)
            finally:
                if number == signal.SIGSTOP:
                    local.signal([engine], signal.SIGCONT)
    wait_readable(local)


def test_what_is_read_is_not_older_while_copies_move(local: LocalProcess) -> None:
    wait_readable(local)
    addresses = local.endpoints().plain
    before = sum(replica_reads(local))
    with Clock(addresses[0], keys_by_partition(f"moves{time.time_ns()}", PARTITIONS)) as clock:
        readers = [Reader(clock, address) for address in addresses]
        for reader in readers:
            reader.start()
        try:
            local.scale_out_and_in(3)
        finally:
            for reader in readers:
                reader.end()
        assert clock.least_at(time.monotonic()) > 100
    assert [it for reader in readers for it in reader.too_old] == []
    assert all(reader.reads > 100 for reader in readers)
    assert sum(replica_reads(local)) > before + 1000
