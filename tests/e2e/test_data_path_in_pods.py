"""A cluster in pods, from `kubectl apply` to clients of every kind, and what kubectl tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.datapath import DataPathSuite, Endpoints, prefix
from tests.e2e.cache_in_pods import CacheInPods, network_of
from tests.e2e.demo_in_pods import Demo

from cachecluster_devcluster import image

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

__all__ = ["prefix"]

READY_S = 60.0
"""Bounds a hang; a quiet machine takes less than 8."""
# Each client writes, and each reads what all wrote: as applications connect, by name alone.
CLIENTS = """\
import redis
clients = {
    "RESP3": redis.Redis("demo"),
    "RESP2": redis.Redis("demo", protocol=2),
    "cluster": redis.RedisCluster("demo-cluster", 6379),
}
for number in range(100):
    for writer, client in clients.items():
        assert client.set(f"{writer}:{number}", f"{writer} {number}")
for reader, client in clients.items():
    for writer in clients:
        for number in range(100):
            assert client.get(f"{writer}:{number}") == f"{writer} {number}".encode(), (reader, writer, number)
print(redis.__version__)
"""
SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def client_pod(demo: Demo) -> Iterator[Callable[..., str]]:
    """Runs a command in a pod that is no part of any cluster."""
    container = {
        "name": "client",
        "image": image.DEFAULT_TAG,
        "imagePullPolicy": "Never",
        "command": ["sleep", "infinity"],
        "securityContext": SECURITY,
    }
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": spec}
    cache = demo.cache
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(pod))
    cache.kubectl("wait", "pod/client", "--for=condition=Ready", "--timeout=60s")

    def run(*command: str, input_text: str | None = None) -> str:
        return cache.kubectl("exec", "-i", "client", "--", *command, input_text=input_text)

    yield run
    cache.kubectl("delete", "pod", "client", "--wait=false")


def test_ready_after_apply(demo: Demo, say: Callable[[str], None]) -> None:
    say(f"apply to Ready: {demo.ready_s:.1f} s (three nodes, 16 partitions, the image on the nodes)")
    assert demo.ready_s <= READY_S


def test_redis_cli_needs_no_option(client_pod: Callable[..., str]) -> None:
    assert client_pod("redis-cli", "-h", "demo", "SET", "greeting", "hello").strip() == "OK"
    assert client_pod("redis-cli", "-h", "demo", "GET", "greeting").strip() == "hello"
    assert client_pod("redis-cli", "-c", "-h", "demo-cluster", "GET", "greeting").strip() == "hello"


def test_clients_by_name_read_what_the_others_wrote(client_pod: Callable[..., str]) -> None:
    assert client_pod("python3", "-c", CLIENTS).startswith("8.")


@pytest.fixture(scope="module")
def endpoints(demo: Demo) -> Endpoints:
    """The Service and every pod."""
    demo.cache.wait_whole()
    pods = [pod["status"]["podIP"] for pod in demo.cache.view().pods]
    plain = ((demo.cache.cluster_ip(), 6379), *((host, 6379) for host in pods))
    return Endpoints(plain, tuple((host, 7379) for host in pods))


class TestDataPathInPods(DataPathSuite):
    """The suite, from within the cluster's network."""

    @pytest.fixture(autouse=True)
    def in_the_clusters_network(self, demo: Demo, endpoints: Endpoints) -> Iterator[None]:
        """Pods and Services answer this test."""
        with network_of(demo.cache.cluster.machine("hub").init):
            yield


# -- what kubectl tells --


def test_kubectl_get_shows_columns(demo: Demo) -> None:
    demo.cache.wait_whole()
    head, row = demo.cache.kubectl("get", "cc", "demo").splitlines()
    shown = dict(zip(head.split(), row.split(), strict=True))
    assert {"NAME", "READY", "NODES", "PARTITIONS", "AGE"} <= set(shown), head
    assert (shown["NAME"], shown["READY"], shown["NODES"], shown["PARTITIONS"]) == ("demo", "True", "3/3", "16/16")


def test_kubectl_describe_tells_of_nodes_conditions_and_events(demo: Demo) -> None:
    cache: CacheInPods = demo.cache
    cache.wait_whole()
    text = cache.kubectl("describe", "cc", "demo")
    for word in ("Members:", "Primaries:", "Replicas:", "Memory Used:", "Conditions:", "Events:", "PartitionStarted"):
        assert word in text, f"no {word} in\n{text}"
    members: list[dict[str, Any]] = cache.get("cc", "demo")["status"]["members"]
    assert {member["zone"] for member in members} == {"z1", "z2", "z3"}
    assert {member["node"] for member in members} == {"n1", "n2", "n3"}
    assert sum(member["primaries"] for member in members) == 16
    assert sum(member["replicas"] for member in members) == 16
    assert all(member["ready"] and member["memoryUsed"] and member["memoryLimit"] for member in members)


def test_kubectl_waits_and_explains(demo: Demo) -> None:
    demo.cache.kubectl("wait", "--for=condition=Ready", "cc/demo", "--timeout=30s")
    text = demo.cache.kubectl("explain", "cc.spec")
    for name in ("nodes", "replicationFactor", "memory", "partitions", "eviction", "engine", "repair"):
        assert f"  {name}\t" in text, text
