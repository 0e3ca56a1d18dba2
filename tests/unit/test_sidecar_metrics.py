"""The sidecar's metrics page: what is on it, and that Prometheus' own checker has nothing to say against it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cachecluster_core.hashring import CopyId
from cachecluster_core.report import CopyReport, Process, Report
from cachecluster_sidecar.metrics import SidecarMetrics

pytestmark = pytest.mark.t0

ROUTER = {
    "requests": {"local": 10, "forwarded": 5, "split": 1, "answered": 3},
    "errors": {"tryagain": 2, "indeterminate": 1, "protocol": 0, "moved": 4, "crossslot": 0, "gated": 0, "unserved": 0},
    "clients": 7,
    "peers": 2,
    "connections": 9,
    "rejected": 1,
    "bytesIn": 1000,
    "bytesOut": 2000,
    "parked": 3,
    "parkedBytes": 300,
    "private": 2,
    "waiting": 1,
    "subscriptions": 4,
    "messages": 12,
    "parkedTotal": 30,
    "retried": 1,
    "partitions": [4, 12],
    "relayed": 6,
    "latency": {
        "sample": 16,
        "families": {"string": [0, 1, 2, 0, 5], "sorted-set": [0, 0, 0, 1, 0]},
        "partitions": [[3, 0.25], [6, 0.5]],
    },
    "heldFor": [0, 0, 7, 0, 0],
    "loopLagMs": 0.5,
}

REPORT = Report(
    pod="uid-a",
    incarnation="1",
    authority_s=2.5,
    copies={
        0: CopyReport(process=Process.UP, epoch=3, gate_epoch=3, offset=500, used_memory=1 << 20, keys=42),
        1: CopyReport(process=Process.DEAD, epoch=2, lagging=(CopyId("uid-b", "r"),)),
        2: CopyReport(),
    },
    routers=2,
)


def _page(
    *, routers: dict[int, dict[str, object]] | None = None
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    metrics = SidecarMetrics("default", "demo", "demo-0")
    metrics.quorum_read(0.004, True, 1.97)
    metrics.quorum_read(1.0, False, 0.9)
    metrics.engine_started()
    metrics.engine_died()
    metrics.router_started()
    metrics.handover_done(0.004)
    metrics.handover_given_up()
    text = metrics.render(REPORT, 2 << 20, {0: ROUTER, 1: ROUTER} if routers is None else routers, {0: 77}).decode()
    return {
        (
            sample.name,
            tuple(sorted((k, v) for k, v in sample.labels.items() if k != "cluster_namespace")),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted({"cluster": "demo", "pod": "demo-0", **labels}.items()))


def test_page_tells_the_agent_its_copies_and_its_routers() -> None:
    page = _page()
    assert page[_key("cachecluster_agent_authority_seconds")] == 2.5
    assert page[_key("cachecluster_agent_quorum_read_failures_total")] == 1
    assert page[_key("cachecluster_handovers_total", result="done")] == 1
    assert page[_key("cachecluster_handovers_total", result="given_up")] == 1
    assert page[_key("cachecluster_handover_seconds_bucket", le="0.005")] == 1
    assert page[_key("cachecluster_agent_quorum_read_seconds_bucket", le="0.005")] == 1
    assert page[_key("cachecluster_agent_authority_margin_seconds_bucket", le="2.0")] == 1
    assert page[_key("cachecluster_agent_engine_deaths_total")] == 1
    assert page[_key("cachecluster_agent_process_resident_memory_bytes")] > 0
    assert page[_key("cachecluster_copy_gate_open", partition="0")] == 1
    assert page[_key("cachecluster_copy_gate_open", partition="1")] == 0
    assert page[_key("cachecluster_copy_up", partition="1")] == 0
    assert page[_key("cachecluster_copy_maxmemory_bytes", partition="0")] == 2 << 20
    assert page[_key("cachecluster_copy_replica_lag_bytes", partition="0")] == 77
    assert page[_key("cachecluster_copy_lagging_members", partition="1")] == 1
    assert page[_key("cachecluster_router_requests_total", worker="1", kind="forwarded")] == 5
    assert page[_key("cachecluster_router_errors_total", worker="0", kind="tryagain")] == 2
    assert page[_key("cachecluster_router_relayed_total", worker="0")] == 6
    assert page[_key("cachecluster_router_clients", worker="0")] == 7
    assert page[_key("cachecluster_router_partition_requests_total", partition="1")] == 24


def test_partition_without_a_process_is_not_on_the_page() -> None:
    assert _key("cachecluster_copy_up", partition="2") not in _page()


def test_latency_is_cumulated_by_family() -> None:
    page = _page()
    bucket = "cachecluster_router_request_seconds_bucket"
    assert page[_key(bucket, worker="0", family="string", le="2e-06")] == 1
    assert page[_key(bucket, worker="0", family="string", le="4e-06")] == 3
    assert page[_key(bucket, worker="0", family="string", le="+Inf")] == 8
    assert page[_key(bucket, worker="1", family="sorted-set", le="4e-06")] == 0
    assert page[_key(bucket, worker="1", family="sorted-set", le="8e-06")] == 1
    assert page[_key("cachecluster_router_held_seconds_bucket", worker="1", le="+Inf")] == 7


def test_latency_of_a_partition_is_that_of_all_workers() -> None:
    page = _page()
    name = "cachecluster_router_partition_latency_seconds"
    assert (page[_key(f"{name}_count", partition="0")], page[_key(f"{name}_sum", partition="0")]) == (6, 0.5)
    assert (page[_key(f"{name}_count", partition="1")], page[_key(f"{name}_sum", partition="1")]) == (12, 1.0)


def test_page_without_answering_routers_is_still_a_page() -> None:
    page = _page(routers={})
    assert page[_key("cachecluster_agent_authority_seconds")] == 2.5
    assert not any(name.startswith("cachecluster_router") for name, _ in page)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_has_nothing_against_the_page() -> None:
    page = SidecarMetrics("default", "demo", "demo-0").render(REPORT, 1, {0: ROUTER}, {0: 1})
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert checked.stderr.decode().splitlines() == []
