"""The data-path suite through Services, for whatever happens to the cluster meanwhile; not collected by itself.

CACHE_HOST=demo.caches.svc... CLUSTER_HOST=demo-cluster.caches.svc... pytest tests/e2e/data_path_by_name.py
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from redis.cluster import RedisCluster
from tests.datapath import DataPathSuite, Endpoints, prefix
from tests.waiting import wait_until

__all__ = ["prefix"]

PORT = 6379
SCAN_S = 10.0


@pytest.fixture(scope="session")
def endpoints() -> Endpoints:
    """The Services, as applications know them."""
    front, cluster = ((os.environ[name], PORT) for name in ("CACHE_HOST", "CLUSTER_HOST"))
    return Endpoints((front, front), (cluster,))


class TestDataPathByName(DataPathSuite):
    """But for what compares two moments of the map."""

    def finds(self, client: Any, keys: set[bytes], pattern: str) -> None:
        """A cluster client scans one node after the other, and each tells what is its own then: of what moves meanwhile
        from one that is still to be asked to one that was, nothing is told. So it may have to scan again; and which
        nodes there are it learns from what they answer to other commands, not to SCAN."""
        if not isinstance(client, RedisCluster):
            super().finds(client, keys, pattern)
            return

        def scan() -> set[bytes]:
            client.nodes_manager.initialize()
            return set(client.scan_iter(match=pattern, count=100))

        wait_until(lambda: scan() == keys, SCAN_S, "a scan in which nothing moves tells every key")

    def test_the_cluster_port_shows_every_slot_once_and_sends_on_what_it_does_not_own(self) -> None:  # type: ignore[override]
        """It moves."""
