"""The data path through `cachecluster-local`, with both engines."""

from __future__ import annotations

import pytest
from tests.datapath import DataPathSuite, Endpoints, prefix
from tests.unit.conftest import LocalFactory

pytestmark = [pytest.mark.t1, pytest.mark.timeout(180)]

__all__ = ["prefix"]


@pytest.fixture(scope="module", params=["valkey", "redis"])
def endpoints(request: pytest.FixtureRequest, local_cluster: LocalFactory) -> Endpoints:
    return local_cluster(engine=request.param).endpoints()


class TestDataPath(DataPathSuite):
    """Three nodes, sixteen partitions, two copies."""


@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_three_nodes_come_up_by_themselves(
    local_cluster: LocalFactory, engine: str, record_property: pytest.RecordProperty
) -> None:
    local = local_cluster(engine=engine)
    record_property("ready_s", local.ready_s)
    print(f"\n{engine}: ready after {local.ready_s:.2f} s")  # noqa: T201 - figures for people, under 10 on a quiet machine
    assert local.ready_s < 60
