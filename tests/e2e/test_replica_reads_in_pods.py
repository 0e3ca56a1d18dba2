"""`spec.reads: nearest-zone` in pods: what is read stays in the zone of the pod that the client is connected to."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.datapath import keys_by_partition, plain_client
from tests.e2e.cache_in_pods import CacheInPods, Json, network_of
from tests.e2e.installed import Release
from tests.e2e.pod_metrics import samples
from tests.waiting import wait_until

pytestmark = [pytest.mark.t4, pytest.mark.timeout(240)]

NAME = "zoned"
PARTITIONS, PODS, PORT = 16, 6, 6379
KEYS = keys_by_partition("zoned", PARTITIONS)
CLUSTER = {
    "apiVersion": "cachecluster.io/v1alpha1",
    "kind": "CacheCluster",
    "metadata": {"name": NAME},
    "spec": {"nodes": PODS, "replicationFactor": 2, "memory": "64Mi", "reads": "nearest-zone"},
}


@pytest.fixture(scope="module")
def cache(operator: Release) -> Iterator[CacheInPods]:
    """Two pods in each of three zones."""
    cache = CacheInPods(operator, NAME)
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(CLUSTER))
    try:
        cache.wait_ready()
        cache.wait_whole(nodes=PODS)
        wait_until(lambda: cache.view().is_balanced(), 60, "primaries are in their places")
        yield cache
    finally:
        cache.kubectl("delete", "cc", NAME, "--ignore-not-found")


def in_its_zone(cache: CacheInPods, uid: str) -> set[int]:
    """The partitions that a client of this pod reads off a replica: one here, or in the zone when no primary is."""
    ring = cache.view().ring
    assert ring is not None
    zone_of = {pod: member.zone for pod, member in ring.members}
    found = set()
    for partition, entry in enumerate(ring.entries):
        assert entry.primary is not None
        replicas = {copy.pod for copy in entry.isr} - {entry.primary.pod}
        near = zone_of[uid] in {zone_of[pod] for pod in replicas} and zone_of[entry.primary.pod] != zone_of[uid]
        if uid in replicas or near:
            found.add(partition)
    return found


def read(cache: CacheInPods, pod: Json, partition: int) -> tuple[bytes | None, bool]:
    """What a client of this pod reads, and whether a replica answered."""
    before = sum(samples(cache, pod, "cachecluster_router_replica_reads_total"))
    with network_of(cache.cluster.machine("hub").init), plain_client((pod["status"]["podIP"], PORT)) as client:
        value: bytes | None = client.get(KEYS[partition])
    return value, sum(samples(cache, pod, "cachecluster_router_replica_reads_total")) > before


def read_off_replicas(cache: CacheInPods, pod: Json) -> set[int]:
    """The partitions whose keys a replica tells a client of this pod; all of them are right."""
    found = set()
    for partition in range(PARTITIONS):
        value, aside = read(cache, pod, partition)
        assert value == b"%d" % partition
        if aside:
            found.add(partition)
    return found


def test_reads_stay_in_the_zone_until_primaries_are_asked_for(cache: CacheInPods) -> None:
    service = cache.cluster_ip()
    with network_of(cache.cluster.machine("hub").init), plain_client((service, PORT)) as client:
        client.mset({key: partition for partition, key in enumerate(KEYS)})
    pod = cache.view().pods[0]
    wanted = in_its_zone(cache, pod["metadata"]["uid"])
    assert 0 < len(wanted) < PARTITIONS
    wait_until(lambda: read_off_replicas(cache, pod) == wanted, 30, "what the zone has is read there")
    cache.kubectl("patch", "cc", NAME, "--type=merge", "-p", '{"spec":{"reads":"primary"}}')
    wait_until(lambda: not read_off_replicas(cache, pod), 30, "primaries are read")
