"""Memory: what a user gives a node is never exceeded by data, and containers have room for a lost node's copies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachecluster_core.pod_resources import pod_resources
from cachecluster_core.quantity import KIB, MIB, format_bytes, parse_bytes, parse_cpu
from cachecluster_core.sizing import (
    ENGINE_BASELINE,
    MIN_SHARE,
    PROCESS_OVERHEAD,
    copies_per_node,
    engine_limit,
    engine_request,
    size_copies,
)
from cachecluster_core.spec_parts import Resources, Router

pytestmark = pytest.mark.t0


@st.composite
def clusters(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(memory, partitions, replication factor, nodes) of a spec that is accepted."""
    partitions = draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
    replication_factor = draw(st.integers(1, min(5, partitions)))
    nodes = draw(st.integers(replication_factor, partitions))
    least = copies_per_node(partitions, replication_factor, nodes) * MIN_SHARE
    memory = draw(st.integers(least, 1 << 45))
    return memory, partitions, replication_factor, nodes


@given(clusters())
def test_data_of_a_node_never_exceeds_its_memory(cluster: tuple[int, int, int, int]) -> None:
    memory, partitions, replication_factor, nodes = cluster
    sizing = size_copies(memory, partitions, replication_factor, nodes)
    assert sizing.share * sizing.copies <= memory
    assert sizing.share * sizing.copies > memory - sizing.copies, "nothing but the rounding is given away"
    assert sizing.copies * nodes >= partitions * replication_factor, "every copy has a place"
    assert sizing.share >= MIN_SHARE


@given(clusters())
def test_loss_of_a_node_fits_in_the_container_without_eviction(cluster: tuple[int, int, int, int]) -> None:
    memory, partitions, replication_factor, nodes = cluster
    sizing = size_copies(memory, partitions, replication_factor, nodes)
    full = sizing.copies_after_loss * (sizing.maxmemory + PROCESS_OVERHEAD)
    assert full <= engine_limit(memory, partitions, replication_factor)
    assert sizing.copies_after_loss == min(partitions, -(-partitions * replication_factor // max(1, nodes - 1)))


@given(clusters())
def test_backlog_is_counted_and_small(cluster: tuple[int, int, int, int]) -> None:
    sizing = size_copies(*cluster)
    assert sizing.maxmemory == sizing.share + sizing.backlog + ENGINE_BASELINE
    assert 128 * KIB <= sizing.backlog <= 64 * MIB
    assert sizing.backlog <= max(sizing.share // 8, 128 * KIB)


@given(clusters())
def test_request_covers_a_full_node_and_stays_within_the_limit(cluster: tuple[int, int, int, int]) -> None:
    memory, partitions, replication_factor, nodes = cluster
    sizing = size_copies(memory, partitions, replication_factor, nodes)
    request = engine_request(memory, partitions)
    assert sizing.copies * (sizing.share + ENGINE_BASELINE) <= request
    derived = pod_resources(memory, partitions, replication_factor, Router(), Resources())["redis"]
    assert parse_bytes(derived["requests"]["memory"]) <= parse_bytes(derived["limits"]["memory"])


def test_adding_a_node_raises_what_the_cluster_holds_and_keeps_the_template() -> None:
    three, four = (size_copies(256 * MIB, 16, 2, nodes) for nodes in (3, 4))
    assert four.usable > three.usable
    assert four.share > three.share


def test_user_overrides_amounts_of_resources() -> None:
    wanted = Resources.model_validate(
        {
            "redis": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "6Gi"}},
            "sidecar": {"limits": {"cpu": "50m"}},
        }
    )
    amounts = pod_resources(256 * MIB, 16, 2, Router(), wanted)
    assert amounts["redis"] == {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "6Gi"}}
    assert amounts["sidecar"]["limits"]["cpu"] == amounts["sidecar"]["requests"]["cpu"] == "50m"


def test_no_cpu_limit_unless_asked_for() -> None:
    amounts = pod_resources(256 * MIB, 16, 2, Router(), Resources())
    assert all("cpu" not in container["limits"] for container in amounts.values())


@pytest.mark.parametrize(
    ("text", "count"), [("256Mi", 256 * MIB), (1024, 1024), ("1.5G", 1_500_000_000), ("0.5Gi", None), ("64 MB", None)]
)
def test_quantity_of_memory(text: str | int, count: int | None) -> None:
    if count is None:
        with pytest.raises(ValueError, match="is not a size"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == count


def test_quantity_of_cpu() -> None:
    assert [parse_cpu(text) for text in ("500m", "0.5", 2)] == [500, 500, 2000]
    with pytest.raises(ValueError, match="amount of CPU"):
        parse_cpu("half")


@given(st.integers(1, 1 << 60))
def test_formatted_bytes_read_back(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == count
