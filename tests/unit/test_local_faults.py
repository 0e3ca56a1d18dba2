"""Faults by signal against `cachecluster-local`: everything answers again, is repaired, and no two gates were open."""

from __future__ import annotations

import contextlib
import signal
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import pytest
from tests.datapath import keys_by_partition, plain_client
from tests.gate_watch import GateWatch
from tests.local_process import LocalProcess
from tests.outage import Load
from tests.replication import wait_replicated
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

from cachecluster_core.hashring import CopyId
from cachecluster_core.slots import partition_of_key

pytestmark = [pytest.mark.t1, pytest.mark.timeout(240)]

PARTITIONS = 16
ANSWER_S = 20.0


@dataclass
class Fault:
    """A cluster under load, with keys whose loss would be noticed, and a watch on its gates."""

    local: LocalProcess
    load: Load
    keys: list[str]
    may_forget: set[int] = field(default_factory=set)

    def strike(self, name: str, blow: Callable[[], None], *, within: float = ANSWER_S) -> float:
        """Do it; wait until every partition answers again; the seconds that took."""
        began = time.monotonic()
        blow()
        struck = time.monotonic()
        wait_until(lambda: self.load.all_answered_since(struck), within, f"{name}: all partitions answer")
        seconds = time.monotonic() - began
        print(f"\n{self.local.engine}, {name}: all answer after {seconds:.2f} s; {self.load.summary()}")  # noqa: T201
        return seconds

    def check_nothing_lost(self) -> None:
        """The keys written before the fault, which had been replicated, are all there."""
        with plain_client(self.local.endpoints().plain[0]) as client:
            assert client.mget(self.keys) == [key.encode() for key in self.keys]

    def copies_on(self, pod: str, partition: int | None = None) -> set[CopyId]:
        """The in-sync copies that the map names on a pod, of all partitions or of one."""
        ring = self.local.ring()
        entries = ring.entries if ring else ()
        return {
            copy for p, entry in enumerate(entries) for copy in entry.isr if copy.pod == pod and partition in (None, p)
        }

    def repaired(self, dead: Collection[CopyId] = (), seconds: float = 60.0) -> None:
        """The dead copies have left, and all copies are back, on different nodes."""
        began = time.monotonic()
        wait_until(lambda: not self._named(dead), seconds, "dead copies leave the map")
        self.local.wait_whole(seconds)
        print(f"  all copies back after {time.monotonic() - began:.2f} s more")  # noqa: T201 - figures for people

    def _named(self, copies: Collection[CopyId]) -> bool:
        ring = self.local.ring()
        return ring is None or any(copy in entry.isr for entry in ring.entries for copy in copies)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def local(request: pytest.FixtureRequest, local_cluster: LocalFactory) -> LocalProcess:
    return local_cluster("--repair-delay", "5", engine=request.param)


@pytest.fixture
def fault(local: LocalProcess) -> Iterator[Fault]:
    local.wait_whole()
    prefix = uuid.uuid4().hex[:8]
    keys = [f"{key}:{n}" for n in range(20) for key in keys_by_partition(f"{prefix}:{n}", PARTITIONS)]
    addresses = local.endpoints().plain
    with plain_client(addresses[0]) as client:
        client.mset({key: key for key in keys})
    with GateWatch(local.directory / "state.json") as watch, Load(addresses, PARTITIONS, prefix) as load:
        wait_until(lambda: load.all_answered_since(0.0), 10, "load")
        wait_replicated(local)
        fault = Fault(local, load, keys)
        yield fault
    assert load.forgotten <= fault.may_forget
    assert min(watch.result["samples"].values()) > 0, watch.result["samples"]


@contextlib.contextmanager
def scans_under_way(local: LocalProcess, key: str) -> Iterator[None]:
    """A hash, a set and a sorted set of which a part was scanned before; in the end nothing of them was missed."""
    members = {f"m{number}": number for number in range(4000)}
    with plain_client(local.endpoints().plain[0]) as client:
        client.hset(f"{{{key}}}h", mapping=members)
        client.sadd(f"{{{key}}}s", *members)
        client.zadd(f"{{{key}}}z", members)
        wait_replicated(local)
        scans = [
            client.hscan_iter(f"{{{key}}}h", count=100),
            client.sscan_iter(f"{{{key}}}s", count=100),
            client.zscan_iter(f"{{{key}}}z", count=100),
        ]
        found = [[next(scan) for _ in range(2000)] for scan in scans]
        yield
        for scan, known in zip(scans, found, strict=True):
            assert len({it[0] if isinstance(it, tuple) else it for it in (*known, *scan)}) == len(members)


def test_the_redis_process_of_a_primary_is_killed_and_what_is_scanned_goes_on_without_a_gap(fault: Fault) -> None:
    pod = fault.local.primary_of(3)
    engine = fault.local.node(pod)["pids"]["engines"]["3"]
    dead = fault.copies_on(pod, 3)
    key = next(key for key in fault.keys if partition_of_key(key.encode(), PARTITIONS) == 3)
    with scans_under_way(fault.local, key):
        fault.strike("kill -9 of a primary's redis", lambda: fault.local.signal([engine]))
    fault.check_nothing_lost()
    fault.repaired(dead)
    wait_until(
        lambda: engine not in fault.local.state()["pids"]["engine"], 10, "the state file forgets the dead process"
    )


def test_both_copies_of_a_partition_are_killed_and_it_is_served_empty_while_the_others_keep_their_keys(
    fault: Fault,
) -> None:
    before = fault.local.ring()
    assert before is not None
    dead = set(before.entries[3].isr)
    engines = [fault.local.node(copy.pod)["pids"]["engines"]["3"] for copy in dead]
    fault.may_forget.add(3)
    log = fault.local.directory / "log"
    begun = log.stat().st_size
    fault.strike("kill -9 of both copies of partition 3", lambda: fault.local.signal(engines))
    fault.repaired(dead)
    wait_until(lambda: " DataLost: " in log.read_text()[begun:], 10, "the event")
    after = fault.local.ring()
    assert after is not None and after.entries[3].epoch > before.entries[3].epoch
    with plain_client(fault.local.endpoints().plain[0]) as client:
        for key, value in zip(fault.keys, client.mget(fault.keys), strict=True):
            lost = partition_of_key(key.encode(), PARTITIONS) == 3
            assert value == (None if lost else key.encode()), key


def test_the_only_copy_in_sync_is_killed_and_a_replica_that_had_fallen_behind_serves_what_it_has(
    fault: Fault,
) -> None:
    ring = fault.local.ring()
    assert ring is not None and ring.entries[3].primary is not None
    primary = ring.entries[3].primary.pod
    replica = next(copy.pod for copy in ring.entries[3].isr if copy.pod != primary)
    first, second = (fault.local.node(pod)["pids"]["engines"]["3"] for pod in (primary, replica))
    dead = fault.copies_on(primary, 3)
    fault.may_forget.add(3)
    key = next(key for key in fault.keys if partition_of_key(key.encode(), PARTITIONS) == 3)
    with plain_client(fault.local.endpoints().plain[0]) as client:
        fault.local.signal([second], signal.SIGSTOP)
        try:
            for n in range(3):  # more than isrMaxLagBytes
                client.set(f"late{n}{{{key}}}", bytes(1 << 20))
            wait_until(lambda: not fault.copies_on(replica, 3), 20, "the replica leaves the in-sync set")
            fault.local.signal([first])
        finally:
            fault.local.signal([second], signal.SIGCONT)
        fault.strike("kill -9 of the only copy in sync", lambda: None)
    fault.check_nothing_lost()
    fault.repaired(dead)
    assert fault.local.primary_of(3) == replica


def test_a_router_is_killed(fault: Fault) -> None:
    node = fault.local.state()["nodes"][1]
    fault.strike("kill -9 of a router", lambda: fault.local.signal(node["pids"]["routers"]))
    fault.check_nothing_lost()
    fault.repaired()


def test_an_agent_is_killed(fault: Fault) -> None:
    node = fault.local.state()["nodes"][0]
    before = fault.local.ring()
    fault.strike("kill -9 of an agent", lambda: fault.local.signal([node["pids"]["agent"]]))
    wait_until(lambda: fault.local.node(node["uid"])["pids"]["agent"] not in (None, node["pids"]["agent"]), 10, "agent")
    fault.local.wait_whole()
    fault.strike("the agent is back", lambda: None)
    fault.check_nothing_lost()
    after = fault.local.ring()
    assert before is not None and after is not None
    moved = [
        p for p, (old, new) in enumerate(zip(before.entries, after.entries, strict=True)) if old.primary != new.primary
    ]
    print(f"  primaries moved: {moved}")  # noqa: T201 - figures for people


def test_every_process_of_a_node_is_killed(fault: Fault) -> None:
    node = fault.local.state()["nodes"][2]
    pids = node["pids"]
    victims = [pids["supervisor"], pids["agent"], *pids["routers"], *pids["engines"].values()]
    dead = fault.copies_on(node["uid"])
    fault.strike("kill -9 of a whole node", lambda: fault.local.signal(victims))
    fault.repaired(dead)
    fault.check_nothing_lost()
    again = fault.local.node(node["uid"])["pids"]
    assert not set(victims) & {again["supervisor"], again["agent"], *again["routers"], *again["engines"].values()}


def test_an_agent_is_stopped_for_seconds_and_goes_on(fault: Fault) -> None:
    agent = fault.local.state()["nodes"][1]["pids"]["agent"]

    def stop() -> None:
        fault.local.signal([agent], signal.SIGSTOP)

    try:
        fault.strike("SIGSTOP of an agent", stop)
        ring = fault.local.ring()
        assert ring is not None
        uid = fault.local.state()["nodes"][1]["uid"]
        wait_until(lambda: _leads_nothing(fault.local, uid), 15, "the stopped node leads nothing")
        struck = time.monotonic()
        wait_until(lambda: fault.load.all_answered_since(struck), ANSWER_S, "all partitions answer without it")
    finally:
        fault.local.signal([agent], signal.SIGCONT)
    print(f"  {fault.load.summary()}")  # noqa: T201 - figures for people
    fault.check_nothing_lost()
    fault.repaired()


def test_the_redis_process_of_a_primary_is_stopped_and_goes_on(fault: Fault) -> None:
    pod = fault.local.primary_of(5)
    engine = fault.local.node(pod)["pids"]["engines"]["5"]
    try:
        fault.strike("SIGSTOP of a primary's redis", lambda: fault.local.signal([engine], signal.SIGSTOP), within=30)
        assert fault.local.primary_of(5) != pod
    finally:
        with contextlib.suppress(ProcessLookupError):  # its agent replaces it when that has taken ten seconds
            fault.local.signal([engine], signal.SIGCONT)
    fault.check_nothing_lost()
    fault.repaired()


def test_the_map_is_deleted_by_hand(fault: Fault) -> None:
    before = fault.local.ring()
    assert before is not None
    fault.strike("map deleted", fault.local.delete_ring)
    wait_until(lambda: fault.local.ring() is not None, 20, "the map is back")
    fault.local.wait_whole()
    after = fault.local.ring()
    assert after is not None and after.uid != before.uid
    assert all(new.epoch > old.epoch for old, new in zip(before.entries, after.entries, strict=True))
    fault.check_nothing_lost()


def _leads_nothing(local: LocalProcess, uid: str) -> bool:
    ring = local.ring()
    return ring is not None and all(entry.primary is None or entry.primary.pod != uid for entry in ring.entries)
