"""Losses of data: how status remembers them, and how a person takes note, which clears the condition. Pure.

The time of a loss stands in the status, not in the operator's memory, and what is taken note of is a time, not "all": a
loss that nobody has seen is never cleared with an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .findings import Finding, partitions_text
from .labels import DATA_LOSS_SEEN_ANNOTATION

Json = dict[str, Any]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def data_loss_seen(cluster: Json) -> str:
    """The annotation of the CacheCluster: the time up to which losses were taken note of, '' for none."""
    return str((cluster["metadata"].get("annotations") or {}).get(DATA_LOSS_SEEN_ANNOTATION) or "")


def data_loss(lost: Mapping[int, float], seen: str, previous: Json) -> tuple[Json | None, Finding | None]:
    """`status.dataLoss` and the condition, None for each that is not there.

    `lost` is when (seconds since 1970) partitions were given up that this operator knows of; `previous` is the last
    status, which knows of earlier ones.
    """
    condition = next((c for c in previous.get("conditions") or () if c["type"] == "DataLoss"), None)
    valid = seen if _TIME.fullmatch(seen) else ""
    times = {partition: _rfc3339(at) for partition, at in lost.items()}
    unseen = {partition for partition, at in times.items() if at > valid}
    at = max((times[partition] for partition in unseen), default="")
    before = previous.get("dataLoss") or {}
    if not before and condition is not None and condition["status"] == "True":
        before = {"at": condition["lastTransitionTime"], "partitions": []}
    if before and before["at"] > valid:
        unseen |= set(before["partitions"])
        at = max(at, before["at"])
    if at:
        return {"at": at, "partitions": sorted(unseen)}, Finding(
            "DataLoss", True, "NoCopyLeft", _text(unseen, at, seen)
        )
    if times or condition is not None:
        return None, Finding("DataLoss", False, "Acknowledged", f"losses up to {valid or 'now'} were taken note of")
    return None, None


def _text(partitions: set[int], at: str, seen: str) -> str:
    which = partitions_text(sorted(partitions)) if partitions else "partitions that are not known any more"
    text = (
        f"no in-sync copy could come back, and what only those held is lost, last at {at}: {which}. When you have taken"
        " note: kubectl"
    )
    remedy = f"{text} annotate cc NAME --overwrite {DATA_LOSS_SEEN_ANNOTATION}={at}"
    wrong = seen and not _TIME.fullmatch(seen)
    return f'{remedy} (now it is "{seen}", which is no such time)' if wrong else remedy


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
