"""Every query of every panel returns data from a real Prometheus that scrapes real sidecars of a cluster with clients.

The operator's page is made here, by its own code, from the map of that cluster: `cachecluster-local` has no operator.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
from tests.loopback import free_block
from tests.prometheus import running_prometheus
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

from cachecluster_core.hashring import HashRing
from cachecluster_operator.dashboards import panel_queries
from cachecluster_operator.metrics import OperatorMetrics
from cachecluster_operator.snapshot import ClusterSnapshot, Desired

pytestmark = [
    pytest.mark.t1,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]

NAMESPACE = CLUSTER = "local"
PROMETHEUS_PORT = 9090
OPERATOR_PORT = 9120


@contextmanager
def _operator_page(host: str, ring: HashRing) -> Iterator[str]:
    """An operator's /metrics about this map."""
    metrics = OperatorMetrics()
    metrics.leader(True)
    metrics.reconciled(0.01, True)
    desired = Desired(nodes=3, partitions=len(ring.entries), settings=ring.settings)
    metrics.observe(NAMESPACE, ClusterSnapshot(name=CLUSTER, now=0.0, desired=desired, map=ring, map_known=True))

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", OperatorMetrics.CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(metrics.render())

        def log_message(self, *_: object) -> None:
            """Requests are not worth a line."""

    with ThreadingHTTPServer((host, OPERATOR_PORT), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{host}:{OPERATOR_PORT}"
        finally:
            server.shutdown()
            thread.join()


def test_every_panel_shows_data(local_cluster: LocalFactory, tmp_path: Path) -> None:
    local = local_cluster()
    ring = local.ring()
    assert ring is not None
    host, port = local.endpoints().plain[0]
    pods = [f"{address}:{metrics}" for address, metrics in local.state()["metrics"]]
    own = free_block(PROMETHEUS_PORT, OPERATOR_PORT)
    queries = panel_queries(NAMESPACE, CLUSTER, interval="5s")
    with (
        redis.Redis(host=host, port=port) as client,
        _operator_page(own, ring) as operator,
        running_prometheus(
            tmp_path / "prometheus", f"{own}:{PROMETHEUS_PORT}", {"pods": pods, "operator": [operator]}
        ) as prometheus,
    ):

        def all_answer() -> bool:
            for number in range(200):
                client.set(f"key-{number}", number)
            queries[:] = prometheus.empty(queries)
            return not queries

        try:
            wait_until(all_answer, 40, "data in every panel")
        except TimeoutError:
            pytest.fail("no data for " + "; ".join(f"{board}, {panel}: {expr}" for board, panel, expr in queries))
