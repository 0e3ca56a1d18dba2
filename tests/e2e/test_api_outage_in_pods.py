"""The API server and the operator are away: clients of a cluster in pods notice nothing, whatever its durability.

CACHECLUSTER_TEST_OUTAGE_SECONDS (25) makes the outage longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.e2e.acknowledged_writers import PARTITIONS, AcknowledgedWriters
from tests.e2e.api_outages import api_away_from, api_frozen, api_killed, frozen, operator_pods
from tests.e2e.cache_in_pods import CacheInPods, Json, View, made
from tests.e2e.installed import Release
from tests.e2e.pod_gates import GateWatch
from tests.e2e.pod_metrics import samples
from tests.e2e.steady_clients import SteadyClients
from tests.waiting import wait_until

from cachecluster_core.hashring import Entry, HashRing
from cachecluster_devcluster.cluster import DevCluster

OUTAGE_S = float(os.environ.get("CACHECLUSTER_TEST_OUTAGE_SECONDS", "25"))
pytestmark = [pytest.mark.t4, pytest.mark.timeout(300 + OUTAGE_S)]

DURABILITIES = ("async", "sync")
KEYS = 2000
CLIENTS = 6
"""Of each cluster: two clusters and their clients share a machine."""
WRITE_S = 0.06
"""Between two writes of a partition."""
PARKED_S = 8.0
"""How long a router keeps a command for a partition that nobody serves."""
DEAD_S = 15.0
"""How long engines are dead in an outage: longer than commands are parked."""
HANG_S = 3.0
"""No partition that lost nothing waits longer for an answer."""
BACK_S = 60.0
MOVED_S = 30.0
ALONE_S = 12.0
"""Four times as long as a quorum read gives authority."""
AUTHORITY_S = 3.0
SHRUNK_S = 8.0
SAFE_S = 1.0
"""With `durability: async` what was acknowledged longer ago than that is replicated."""


@pytest.fixture(scope="module")
def clusters(operator: Release) -> Iterator[dict[str, CacheInPods]]:
    """One cluster of each durability."""
    with ExitStack() as stack:
        made_of = {}
        for durability in DURABILITIES:
            spec = {"nodes": 3, "replicationFactor": 2, "memory": "128Mi", "durability": durability}
            spec["repair"] = {"delaySeconds": 5}
            made_of[durability] = stack.enter_context(made(operator, f"outage-{durability}", spec))
        yield made_of


@pytest.fixture
def whole(clusters: dict[str, CacheInPods], faults: DevCluster) -> dict[str, CacheInPods]:
    """The same, with nothing left to repair; afterwards the API server is there again."""
    for cache in clusters.values():
        cache.wait_balanced()
    return clusters


@dataclass(frozen=True, slots=True)
class Watched:
    """A cluster whose gates are watched and to whose partitions somebody writes."""

    cache: CacheInPods
    durability: str
    writes: AcknowledgedWriters
    view: View

    @property
    def ring(self) -> HashRing:
        """The map as it was before the fault."""
        assert self.view.ring is not None
        return self.view.ring

    def led_by(self, uid: str) -> list[int]:
        """The partitions that a pod led before the fault."""
        return [
            p for p, entry in enumerate(self.ring.entries) if entry.primary is not None and entry.primary.pod == uid
        ]

    def copied_by(self, uid: str) -> list[int]:
        """The partitions of which a pod had a replica before the fault."""
        kept = {p for p, entry in enumerate(self.ring.entries) if uid in [copy.pod for copy in entry.isr]}
        return sorted(kept - set(self.led_by(uid)))

    def kill_engines(self, pod: Json, partitions: Sequence[int]) -> None:
        """SIGKILL to a pod's redis processes of these partitions."""
        processes = self.cache.processes(pod)
        engines = [it for it in processes if it.role == "engine" and it.partition in partitions]
        assert len(engines) == len(partitions), (partitions, processes)
        self.cache.kill(engines)

    def assert_served(self, seen: dict[str, Any], partitions: Sequence[int]) -> float:
        """By these figures writers of these partitions saw no error and no long pause; the longest (seconds)."""
        errors = {p: seen["errors"][p] for p in partitions if seen["errors"][p]}
        assert not errors, f"{self.durability}: {errors}"
        longest: float = max(seen["pause_s"][p] for p in partitions)
        assert longest < HANG_S, f"{self.durability}: {seen['pause_s']}"
        return longest


@contextmanager
def watched(cache: CacheInPods, durability: str) -> Iterator[Watched]:
    """In the end no two gates were ever open, and what was acknowledged is there."""
    view = cache.view()
    hosts = [pod["status"]["podIP"] for pod in view.pods]
    with GateWatch(cache.cluster, cache.namespace, cache.name, cache.token()) as gates:
        gates.wait_sees([pod["metadata"]["uid"] for pod in view.pods])
        with AcknowledgedWriters(cache, hosts, WRITE_S) as writes:
            yield Watched(cache, durability, writes, view)
        if durability == "sync":
            assert writes.result == {"missing": {}}


def others(*partitions: int) -> list[int]:
    """All partitions but these."""
    return [partition for partition in range(PARTITIONS) if partition not in partitions]


def test_nothing_is_noticed_of_an_outage_of_api_server_and_operator(
    whole: dict[str, CacheInPods], faults: DevCluster, operator: Release, say: Callable[[str], None]
) -> None:
    with ExitStack() as stack:
        seen_by = {
            durability: (
                stack.enter_context(watched(cache, durability)),
                stack.enter_context(SteadyClients(cache, KEYS, CLIENTS)),
            )
            for durability, cache in whole.items()
        }
        operators = operator_pods(operator)
        with api_killed(faults):
            time.sleep(OUTAGE_S / 4)  # the length of the outage is the test
            with frozen(faults, operators):
                time.sleep(OUTAGE_S / 2)
            time.sleep(OUTAGE_S / 4)
        back_s = max(cache.wait_whole(BACK_S) for cache in whole.values())
        say(f"API server away for {OUTAGE_S:.0f} s; whole {back_s:.1f} s after its return")
        seen = {}
        for durability, (cluster, _) in seen_by.items():
            cluster.writes.wait_goes_on(BACK_S)
            seen[durability] = cluster.writes.ask("look")
            errors = sum(sum(found.values()) for found in seen[durability]["errors"])
            counts = f"{sum(seen[durability]['acknowledged'])} writes acknowledged, {errors} errors"
            say(f"  writers, {durability}: {counts}, longest pause {max(seen[durability]['pause_s']):.2f} s")
            assert cluster.writes.missing() == {}
    for durability, (_, clients) in seen_by.items():
        result = clients.result
        counts = f"{result['commands']} commands, {sum(result['errors'].values())} errors"
        say(f"  clients, {durability}: {counts}, longest pauses {result['longest_pause_s']} s")
    for durability, (cluster, clients) in seen_by.items():
        cluster.assert_served(seen[durability], range(PARTITIONS))
        result = clients.result
        found = (result["errors"], result["wrong"], result["counters"], result["missing"])
        assert found == ({}, [], [], 0), f"{durability}: {result}"


@pytest.mark.parametrize("durability", DURABILITIES)
def test_partitions_of_engines_that_die_in_an_outage_wait_and_the_others_do_not(
    whole: dict[str, CacheInPods], faults: DevCluster, durability: str, say: Callable[[str], None]
) -> None:
    with watched(whole[durability], durability) as cluster:
        pod = cluster.view.pods[0]
        uid = pod["metadata"]["uid"]
        led, copied = cluster.led_by(uid)[0], cluster.copied_by(uid)[0]
        with api_frozen(faults):
            time.sleep(AUTHORITY_S)  # by now authority is by promises
            safe = cluster.writes.ask("next")["newest"]
            time.sleep(SAFE_S)
            cluster.kill_engines(pod, [led, copied])
            time.sleep(DEAD_S)
            seen = cluster.writes.ask("look")
        thawed = time.monotonic()
        longest = cluster.assert_served(seen, others(led, copied))
        assert_waited(seen["errors"][led])
        if durability == "async":
            cluster.assert_served(seen, [copied])
        elif seen["errors"][copied]:
            assert_unsure(seen["errors"][copied])
        cluster.writes.wait_goes_on(BACK_S)
        served_s = time.monotonic() - thawed
        cluster.cache.wait_whole(BACK_S)
        say(
            f"engines of a primary and a replica killed in an outage, {durability}: others' longest pause {longest:.2f}"
            f" s; primary's {seen['errors'][led]}, replica's {seen['errors'][copied]} in {DEAD_S:.0f} s; all served "
            f"{served_s:.1f} s and whole {time.monotonic() - thawed:.1f} s after the API server's return"
        )
        missing = cluster.writes.missing()
        assert set(missing) <= ({led} if durability == "async" else set()), missing
        assert all(number > safe[led] for number in missing.get(led, [])), (missing, safe)


def assert_waited(errors: dict[str, int]) -> None:
    """Commands for a partition that nobody served were answered with TRYAGAIN in the end; what was under way when the
    engine died, as indeterminate."""
    waited = [text for text in errors if text.startswith("TryAgainError: ")]
    assert waited and all("INDETERMINATE" in text for text in set(errors) - set(waited)), errors


def assert_unsure(errors: dict[str, int]) -> None:
    """Writes that a required copy did not acknowledge were answered as indeterminate, or refused."""
    assert all("INDETERMINATE" in text or "NOREPLICAS" in text for text in errors), errors


def failed_reads(cluster: Watched, pod: Json) -> float:
    """How many quorum reads of a pod's agent failed."""
    return sum(samples(cluster.cache, pod, "cachecluster_agent_quorum_read_failures_total"))


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_pod_that_alone_has_lost_the_api_server_serves_until_the_map_goes_on_without_it(
    whole: dict[str, CacheInPods], durability: str, say: Callable[[str], None]
) -> None:
    with watched(whole[durability], durability) as cluster:
        pod = cluster.view.pods[0]
        moved, shrunk = cluster.led_by(pod["metadata"]["uid"])[:2]
        with api_away_from(cluster.cache, pod):
            alone_s = serves_alone(cluster, pod)
            moved_s = moves_away(cluster, pod, moved)
            seen = cluster.writes.ask("next")
            longest_s = cluster.assert_served(seen, others(moved))
            cluster.kill_engines(*replica_of(cluster, shrunk))
            time.sleep(SHRUNK_S)
            later = cluster.writes.ask("look")
            longest_s = max(longest_s, cluster.assert_served(later, others(moved, shrunk)))
        cluster.writes.wait_goes_on(BACK_S)
        cluster.cache.wait_whole(BACK_S)
        say(
            f"API server away from one pod for {ALONE_S:.0f} s, {durability}: longest pause {alone_s:.2f} s; one of "
            f"its engines killed: another leads after {moved_s:.1f} s, pause {seen['pause_s'][moved]:.1f} s "
            f"{seen['errors'][moved]}; a replica of its killed: pause {later['pause_s'][shrunk]:.1f} of {SHRUNK_S:.0f}"
            f" s {later['errors'][shrunk]}; of other partitions {longest_s:.2f} s"
        )


def serves_alone(cluster: Watched, pod: Json) -> float:
    """A pod that cannot read the map goes on as primary, by promises; the longest pause of a partition (seconds)."""
    failed = failed_reads(cluster, pod)
    time.sleep(ALONE_S)  # authority by a quorum read has ended by now
    assert failed_reads(cluster, pod) > failed + AUTHORITY_S
    ring = cluster.cache.ring()
    assert ring is not None and went_on(cluster.ring, ring) == [], "the map went on without a reason"
    return cluster.assert_served(cluster.writes.ask("next"), range(PARTITIONS))


def went_on(before: HashRing, after: HashRing) -> list[tuple[int, Entry, Entry]]:
    """The partitions whose entries differ, with both."""
    pairs = enumerate(zip(before.entries, after.entries, strict=True))
    return [(partition, old, new) for partition, (old, new) in pairs if old != new]


def moves_away(cluster: Watched, pod: Json, partition: int) -> float:
    """A partition whose engine dies in such a pod is served by another; seconds until the map says so."""
    began = time.monotonic()
    cluster.kill_engines(pod, [partition])
    uid = pod["metadata"]["uid"]
    wait_until(lambda: not leads(cluster.cache, uid, partition), MOVED_S, "another pod leads the partition")
    moved_s = time.monotonic() - began
    cluster.writes.wait_goes_on(MOVED_S)
    return moved_s


def replica_of(cluster: Watched, partition: int) -> tuple[Json, list[int]]:
    """The pod with the replica of a partition, and that partition."""
    found = [pod for pod in cluster.view.pods if partition in cluster.copied_by(pod["metadata"]["uid"])]
    return found[0], [partition]


def leads(cache: CacheInPods, uid: str, partition: int) -> bool:
    """Whether the map names this pod primary of the partition, or nobody."""
    ring = cache.ring()
    primary = ring.entries[partition].primary if ring is not None else None
    return primary is None or primary.pod == uid
