"""What pods tell Prometheus, asked from within the cluster's network."""

from __future__ import annotations

from tests.e2e.cache_in_pods import CacheInPods, Json

from cachecluster_operator.labels import METRICS_PORT


def samples(cache: CacheInPods, pod: Json, name: str) -> list[float]:
    """All samples of a metric of a pod, whatever their labels; none while the pod does not answer."""
    url = f"http://{pod['status']['podIP']}:{METRICS_PORT}/metrics"
    lines = cache.cluster.hub_exec(["curl", "--silent", "--fail", "--max-time", "5", url]).splitlines()
    return [float(line.split()[-1]) for line in lines if line.partition("{")[0].split()[:1] == [name]]
