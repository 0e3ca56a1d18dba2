"""Conditions of a status before they get their times, and words for lists of partitions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition: `holds` is its status, `reason` one word, `message` a sentence."""

    type: str
    holds: bool
    reason: str
    message: str


def condition(finding: Finding, generation: int, previous: Json, now: str) -> Json:
    """As the API has it. `previous` is the status before, for the time of the transition; `now` is RFC 3339 in UTC."""
    status = "True" if finding.holds else "False"
    before = next((c for c in previous.get("conditions") or () if c["type"] == finding.type), None)
    unchanged = before is not None and before["status"] == status
    return {
        "type": finding.type,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before is not None and unchanged else now,
        "reason": finding.reason,
        "message": finding.message[:MESSAGE_LIMIT],
    }


def partitions_text(numbers: Sequence[int]) -> str:
    """ "partition 3", "partitions 0-3, 7": runs are joined."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:16])
    more = ", ..." if len(runs) > 16 else ""
    return f"partition{'s' if len(numbers) > 1 else ''} {text}{more}"
