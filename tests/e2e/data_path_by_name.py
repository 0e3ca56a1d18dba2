"""The data-path suite through Services, for whatever happens to the cluster meanwhile; not collected by itself.

CACHE_HOST=demo.caches.svc... CLUSTER_HOST=demo-cluster.caches.svc... pytest tests/e2e/data_path_by_name.py
"""

from __future__ import annotations

import os

import pytest
from tests.datapath import DataPathSuite, Endpoints, prefix

__all__ = ["prefix"]

PORT = 6379


@pytest.fixture(scope="session")
def endpoints() -> Endpoints:
    """The Services, as applications know them."""
    front, cluster = ((os.environ[name], PORT) for name in ("CACHE_HOST", "CLUSTER_HOST"))
    return Endpoints((front, front), (cluster,))


class TestDataPathByName(DataPathSuite):
    """But for what compares two moments of the map."""

    def test_the_cluster_port_shows_every_slot_once_and_sends_on_what_it_does_not_own(self) -> None:  # type: ignore[override]
        """It moves."""
