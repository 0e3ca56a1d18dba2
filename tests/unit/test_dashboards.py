"""The dashboards: loadable, without overlaps, and every query of them is PromQL over metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachecluster_operator.dashboards import BOARDS, dashboard_config_maps, dashboards, panel_queries

pytestmark = pytest.mark.t0


def documented_metrics() -> set[str]:
    """Names in the tables of docs/metrics.md."""
    return set(re.findall(r"^\| `(cachecluster_\w+)` \|", Path("docs/metrics.md").read_text(), re.MULTILINE))


def _panels(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboards()[name])["panels"]
    return found


@pytest.mark.parametrize("name", [board.name for board in BOARDS])
def test_panels_fit_the_grid_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _panels(name):
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", [board.name for board in BOARDS])
def test_every_panel_says_what_it_shows(name: str) -> None:
    panels = [panel for panel in _panels(name) if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) >= len(panels) - 2, "titles repeat only across rows"
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_config_maps_are_what_grafana_looks_for() -> None:
    maps = dashboard_config_maps("cachecluster-system")
    assert [item["metadata"]["name"] for item in maps] == ["cachecluster-overview", "cachecluster-cluster"]
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert item["metadata"]["namespace"] == "cachecluster-system"
        ((name, text),) = item["data"].items()
        assert name.endswith(".json")
        assert json.loads(text)["uid"] == item["metadata"]["name"]


def test_queries_have_no_variables_left_and_name_documented_metrics() -> None:
    documented = documented_metrics()
    for _, panel, query in panel_queries("default", "demo"):
        assert "$" not in query, panel
        for metric in re.findall(r"cachecluster_\w+", query):
            assert re.sub("_(bucket|sum|count)$", "", metric) in documented, f"{panel}: {metric}"


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"q{index}", "expr": query} for index, (_, _, query) in enumerate(panel_queries("a", "b"))]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
