"""Every alert fires when what it is about happens, and stays quiet when it does not: by promtool, without a server."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachecluster_operator.alerts import (
    GROUPS,
    alert_config_map,
    alert_groups,
    pod_monitors,
    prometheus_rule,
)

pytestmark = pytest.mark.t0
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")

C = 'cluster_namespace="default",cluster="demo"'
P = f'{C},pod="demo-0"'
PARTITION = f'{P},partition="0"'
LEADER = "cachecluster_operator_leader"
BOUNDS = "cachecluster_agent_authority_margin_seconds_bucket"


@dataclass(frozen=True, slots=True)
class Case:
    """Series, by minute in promtool's notation, under which the alert fires at `at`, and such where it does not."""

    fires: dict[str, str]
    quiet: dict[str, str]
    at: str = "20m"


CASES = {
    "CacheClusterPartitionsNotServed": Case(
        {f'cachecluster_partition_served{{{C},partition="0"}}': "1 1 0x30"},
        {f'cachecluster_partition_served{{{C},partition="0"}}': "1x30"},
    ),
    "CacheClusterPartitionsLost": Case(
        {f"cachecluster_partitions_lost_total{{{C}}}": "0x10 3x20"},
        {f"cachecluster_partitions_lost_total{{{C}}}": "3x30"},
    ),
    "CacheClusterShortOfCopies": Case(
        {f"cachecluster_partitions_short{{{C}}}": "0 5x30"},
        {f"cachecluster_partitions_short{{{C}}}": "0x12 5x5 0x10"},
    ),
    "CacheClusterNodesMissing": Case(
        {f"cachecluster_nodes_desired{{{C}}}": "3x30", f"cachecluster_nodes_ready{{{C}}}": "2x30"},
        {f"cachecluster_nodes_desired{{{C}}}": "3x30", f"cachecluster_nodes_ready{{{C}}}": "3x30"},
    ),
    "CacheClusterAgentsSilent": Case(
        {f"cachecluster_nodes_ready{{{C}}}": "3x30", f"cachecluster_nodes_reporting{{{C}}}": "2x30"},
        {f"cachecluster_nodes_ready{{{C}}}": "2x30", f"cachecluster_nodes_reporting{{{C}}}": "3x30"},
    ),
    "CacheClusterChangeHeldUp": Case(
        {f"cachecluster_change_idle_seconds{{{C}}}": "0+60x30"},
        {f"cachecluster_change_idle_seconds{{{C}}}": "0+60x14 0+60x10"},
    ),
    "CacheClusterFailedOver": Case(
        {f"cachecluster_failovers_total{{{C}}}": "0x15 5x10"},
        {f"cachecluster_failovers_total{{{C}}}": "5x30"},
    ),
    "CacheClusterNearlyFull": Case(
        {
            f"cachecluster_copy_used_memory_bytes{{{PARTITION}}}": "95x60",
            f"cachecluster_copy_gate_open{{{PARTITION}}}": "1x60",
            f"cachecluster_memory_usable_bytes{{{C}}}": "100x60",
        },
        {
            f"cachecluster_copy_used_memory_bytes{{{PARTITION}}}": "95x60",
            f"cachecluster_copy_gate_open{{{PARTITION}}}": "0x60",
            f"cachecluster_memory_usable_bytes{{{C}}}": "100x60",
        },
        at="45m",
    ),
    "CacheClusterMapUnknown": Case(
        {f"cachecluster_map_known{{{C}}}": "1 0x30"},
        {f"cachecluster_map_known{{{C}}}": "1x30"},
    ),
    "CacheClusterAuthorityNearLapse": Case(
        {f'{BOUNDS}{{{P},le="0.5"}}': "0+5x30", f'{BOUNDS}{{{P},le="+Inf"}}': "0+60x30"},
        {f'{BOUNDS}{{{P},le="0.5"}}': "0x30", f'{BOUNDS}{{{P},le="+Inf"}}': "0+60x30"},
    ),
    "CacheClusterQuorumReadsFail": Case(
        {f"cachecluster_agent_quorum_read_failures_total{{{P}}}": "0+60x30"},
        {f"cachecluster_agent_quorum_read_failures_total{{{P}}}": "0x10 3x20"},
    ),
    "CacheClusterEnginesDie": Case(
        {f"cachecluster_agent_engine_deaths_total{{{P}}}": "0+1x30"},
        {f"cachecluster_agent_engine_deaths_total{{{P}}}": "0x10 1x20"},
    ),
    "CacheClusterRoutersDie": Case(
        {f"cachecluster_agent_router_starts_total{{{P}}}": "2+1x30", f"cachecluster_agent_routers{{{P}}}": "2x30"},
        {f"cachecluster_agent_router_starts_total{{{P}}}": "0x10 4x20", f"cachecluster_agent_routers{{{P}}}": "4x30"},
    ),
    "CacheClusterReplicasLag": Case(
        {f"cachecluster_copy_lagging_members{{{PARTITION}}}": "1x30"},
        {f"cachecluster_copy_lagging_members{{{PARTITION}}}": "0x10 1 0x20"},
    ),
    "CacheClusterCommandsRefused": Case(
        {f'cachecluster_router_errors_total{{{P},worker="0",kind="tryagain"}}': "0+9x30"},
        {f'cachecluster_router_errors_total{{{P},worker="0",kind="moved"}}': "0+9x30"},
    ),
    "CacheClusterIndeterminateReplies": Case(
        {f'cachecluster_router_errors_total{{{P},worker="0",kind="indeterminate"}}': "0+9x30"},
        {f'cachecluster_router_errors_total{{{P},worker="0",kind="indeterminate"}}': "0x5 9x30"},
    ),
    "CacheClusterConnectionsRejected": Case(
        {f'cachecluster_router_connections_rejected_total{{{P},worker="0"}}': "0+2x30"},
        {f'cachecluster_router_connections_rejected_total{{{P},worker="0"}}': "2x30"},
    ),
    "CacheClusterNoOperator": Case(
        {f'{LEADER}{{instance="a"}}': "1x5 0x30", f'{LEADER}{{instance="b"}}': "0x30"},
        {f'{LEADER}{{instance="a"}}': "1x5 0x30", f'{LEADER}{{instance="b"}}': "0x5 1x30"},
    ),
    "CacheClusterOperatorErrors": Case(
        {f"cachecluster_step_errors_total{{{C}}}": "0x15 1x20"},
        {f"cachecluster_step_errors_total{{{C}}}": "1x30"},
    ),
    "CacheClusterReconcilesFail": Case(
        {"cachecluster_operator_reconcile_errors_total": "0+1x40"},
        {"cachecluster_operator_reconcile_errors_total": "0x20 1x20"},
        at="30m",
    ),
}  # fmt: skip


def test_every_alert_has_a_case() -> None:
    names = [alert.name for alerts in GROUPS.values() for alert in alerts]
    assert sorted(names) == sorted(CASES)
    assert len(set(names)) == len(names)


def _unit_test(name: str, series: dict[str, str], at: str, firing: bool) -> dict[str, Any]:
    counted = {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})', "eval_time": at}
    counted["exp_samples"] = [{"labels": "{}", "value": 1}] if firing else []
    return {
        "interval": "1m",
        "name": f"{name} {'fires' if firing else 'is quiet'}",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [counted],
    }


@needs_promtool
def test_alerts_fire_and_stay_quiet(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(alert_groups()))
    tests = [
        _unit_test(name, series, case.at, firing)
        for name, case in CASES.items()
        for series, firing in ((case.fires, True), (case.quiet, False))
    ]
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    ran = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_promtool_has_nothing_against_the_rules(tmp_path: Path) -> None:
    ((name, text),) = alert_config_map("cachecluster-system")["data"].items()
    (tmp_path / name).write_text(text)
    checked = subprocess.run(
        ["promtool", "check", "rules", tmp_path / name], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_tell_what_where_and_what_to_do() -> None:
    for group in alert_groups()["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["annotations"]["description"].endswith(".")
            where = "$labels" in rule["annotations"]["summary"]
            assert where or group["name"] == "cachecluster-operator", rule["alert"]


def test_manifests_for_the_prometheus_operator() -> None:
    rule = prometheus_rule("cachecluster-system")
    assert (rule["kind"], rule["spec"]) == ("PrometheusRule", alert_groups())
    pods, operator = pod_monitors("cachecluster-system")
    assert pods["spec"]["namespaceSelector"] == {"any": True}
    assert operator["spec"]["namespaceSelector"] == {"matchNames": ["cachecluster-system"]}
    assert all(item["spec"]["podMetricsEndpoints"][0]["port"] == "metrics" for item in (pods, operator))
