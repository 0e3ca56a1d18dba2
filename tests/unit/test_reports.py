"""Reports on their way from agents to operators, also of other versions."""

from __future__ import annotations

import json

import pytest
from tests.unit.operator_views import STABLE, A, copy_report

from cachecluster_core.report import Process, Report

pytestmark = pytest.mark.t0

REPORT = Report(
    "uid-a", "i", "7", 2.0, {3: copy_report(STABLE, A.pod, lagging=(A,), process=Process.SILENT)}, {3: STABLE}
)


def test_a_report_arrives_as_it_was_sent() -> None:
    assert Report.from_json(json.loads(json.dumps(REPORT.to_json()))) == REPORT


def test_what_a_newer_agent_says_beside_is_left_out() -> None:
    said = REPORT.to_json()
    said["mood"] = said["copies"]["3"]["mood"] = "new"
    assert Report.from_json(said) == REPORT


@pytest.mark.parametrize("copies", [{"x": {}}, {"3": {"process": "dreams"}}, {"3": {"lagging": 1}}, []])
def test_a_report_that_makes_no_sense_is_refused(copies: object) -> None:
    with pytest.raises(ValueError):
        Report.from_json(REPORT.to_json() | {"copies": copies})
