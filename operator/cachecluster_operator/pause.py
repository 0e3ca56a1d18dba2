"""The annotation `cachecluster.io/paused`: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .labels import PAUSED_ANNOTATION


@dataclass(frozen=True, slots=True)
class Pause:
    """Whether planned changes are held back; `problem` says what is wrong with the annotation ('' for nothing)."""

    paused: bool = False
    problem: str = ""


def pause_of(cluster: dict[str, Any]) -> Pause:
    """By the CacheCluster's annotation. A value that means nothing holds back too: whoever wrote it did not want
    changes to go on, most likely."""
    value = (cluster["metadata"].get("annotations") or {}).get(PAUSED_ANNOTATION)
    if value in (None, "false"):
        return Pause()
    if value == "true":
        return Pause(paused=True)
    remedy = f'set it to "true" or "false", or remove it: kubectl annotate cc NAME {PAUSED_ANNOTATION}-'
    return Pause(True, f'the annotation {PAUSED_ANNOTATION} is "{value}", which means nothing and pauses: {remedy}')
