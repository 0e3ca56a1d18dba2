"""docs/metrics.md lists exactly the metrics that are exported and the alerts that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cachecluster_core.hashring import HashRing, Settings
from cachecluster_core.report import Report
from cachecluster_operator.alerts import GROUPS
from cachecluster_operator.metrics import OperatorMetrics
from cachecluster_operator.snapshot import ClusterSnapshot, Desired
from cachecluster_sidecar.metrics import SidecarMetrics

pytestmark = pytest.mark.t0

DOCUMENT = Path("docs/metrics.md")


def _rows(section: str) -> dict[str, str]:
    """First column and last column of the table below a heading."""
    text = DOCUMENT.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return {
        row[1]: row[2]
        for row in re.finditer(r"^\| `?(\w+)`? \|.*\| (.*) \|$", text, re.MULTILINE)
        if row[1] not in ("metric", "alert")
    }


def _exported(page: bytes) -> dict[str, str]:
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        suffix = "_total" if family.type == "counter" and not family.name.endswith("_total") else ""
        kind = f" {family.type.title()}." if family.type in ("histogram", "summary") else ""
        found[family.name + suffix] = family.documentation + kind
    return found


def test_metrics_of_each_pod() -> None:
    page = SidecarMetrics("default", "demo", "demo-0").render(Report(pod="uid", incarnation="1"), 1, {0: {}})
    assert _rows("Of each pod") == _exported(page)


def test_metrics_of_the_operator() -> None:
    metrics = OperatorMetrics()
    desired = Desired(nodes=1, partitions=1, settings=Settings())
    metrics.observe("default", ClusterSnapshot(name="demo", now=0, desired=desired, map=HashRing(name="demo")))
    assert _rows("Of the operator") == _exported(metrics.render())


def test_alerts() -> None:
    alerts = [alert for group in GROUPS.values() for alert in group]
    assert _rows("Alerts") == {alert.name: alert.description for alert in alerts}
