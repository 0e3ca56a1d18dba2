"""The ways in which pods lose the API server, and the operator."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.e2e.cache_in_pods import CacheInPods, Json
from tests.e2e.installed import Release

from cachecluster_devcluster import network
from cachecluster_devcluster.cluster import DevCluster
from cachecluster_devcluster.namespaces import run

TABLE = "inet api-is-away"
RULES = f"""
table {TABLE} {{
  chain out {{
    type filter hook output priority -300; policy accept;
    ip daddr {{ {network.API_SERVICE_ADDRESS}, {network.HUB_ADDRESS} }} tcp dport {{ 443, {network.API_PORT} }} drop
  }}
}}
"""


@contextmanager
def api_killed(cluster: DevCluster) -> Iterator[None]:
    """No API server within: connections are refused. Afterwards there is one again."""
    cluster.stop_api()
    try:
        yield
    finally:
        cluster.start_api()


@contextmanager
def api_frozen(cluster: DevCluster) -> Iterator[None]:
    """The API server says nothing within, though connections stay open."""
    cluster.freeze_api()
    try:
        yield
    finally:
        cluster.thaw_api()


@contextmanager
def api_away_from(cache: CacheInPods, pod: Json) -> Iterator[None]:
    """What one pod sends to the API server is dropped, in the pod's own network."""
    agent = next(process for process in cache.processes(pod) if process.role == "agent")
    enter = ["nsenter", "-t", str(agent.pid), "-n", "--"]
    run([*enter, "nft", "-f", "-"], RULES)
    try:
        yield
    finally:
        # The agent may be another one by now, the network is the same as long as there is any process of the pod.
        left = cache.processes(pod)
        if left:
            run(["nsenter", "-t", str(left[0].pid), "-n", "--", "nft", "delete", "table", *TABLE.split()])


def operator_pods(operator: Release) -> list[Json]:
    """The pods of the operator."""
    selector = ("--namespace", operator.namespace, "-l", "app.kubernetes.io/name=cachecluster-operator")
    items: list[Json] = json.loads(operator.cluster.kubectl("get", "pods", *selector, "-o", "json"))["items"]
    return items


@contextmanager
def frozen(cluster: DevCluster, pods: Sequence[Json]) -> Iterator[None]:
    """All processes of these pods stand still, those that the kubelet starts meanwhile too."""
    with ExitStack() as stack:
        for pod in pods:
            groups = list(cluster.pod_cgroup(pod["spec"]["nodeName"]).glob(f"**/pod{pod['metadata']['uid']}"))
            assert groups, pod["metadata"]["name"]
            for group in groups:
                stack.callback((group / "freezer.state").write_text, "THAWED")
                (group / "freezer.state").write_text("FROZEN")
        yield
