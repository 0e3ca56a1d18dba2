"""The numbers in the names of pods."""

from __future__ import annotations


def pod_number(cluster: str, pod: str) -> int | None:
    """The number in `<cluster>-<number>`, None for another name."""
    prefix, _, number = pod.rpartition("-")
    return int(number) if prefix == cluster and number.isdecimal() else None
