"""The shape of dashboards as data, and the PromQL they are written in. How that becomes Grafana's JSON is `dashboards`.

`$namespace`, `$cluster` and `$__rate_interval` are Grafana's variables. Gauges of the operator are taken by `max by`:
two operators export them for a moment when the leadership changes hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

OF_NAMESPACE = 'cluster_namespace=~"$namespace"'
OF_CLUSTER = 'cluster_namespace="$namespace",cluster="$cluster"'


class Kind(StrEnum):
    """How a panel looks."""

    STAT = "stat"
    SERIES = "timeseries"
    STACK = "stack"
    TIMELINE = "timeline"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and the legend of its series (of its column in a table)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's name of it, `width` in 24ths; from `bad_from` a stat turns red."""

    title: str
    queries: tuple[Query, ...]
    described: str
    kind: Kind = Kind.SERIES
    unit: str = "short"
    width: int = 8
    bad_from: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A titled row of panels."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard; `query` gives its values."""

    name: str
    label: str
    query: str


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. With `all_values` its variables begin with, and may be, all of their values."""

    name: str
    title: str
    described: str
    variables: tuple[Variable, ...]
    all_values: bool
    rows: tuple[Row, ...]


def stat(title: str, expr: str, described: str, unit: str = "short", bad_from: float | None = None) -> Panel:
    """One number."""
    return Panel(title, (Query(expr),), described, Kind.STAT, unit, width=4, bad_from=bad_from)


def series(title: str, expr: str, legend: str, described: str, unit: str = "short", kind: Kind = Kind.SERIES) -> Panel:
    """Lines over time of one query."""
    return Panel(title, (Query(expr, legend),), described, kind, unit)


def of_operator(metric: str, where: str, *by: str) -> str:
    """A gauge of the operator, whichever of its replicas exports it."""
    return f"max by ({', '.join(('cluster_namespace', 'cluster', *by))}) ({metric}{{{where}}})"


def rate(metric: str, where: str, *by: str) -> str:
    """A counter per second, summed by labels."""
    return f"sum by ({', '.join(by)}) (rate({metric}{{{where}}}[$__rate_interval]))"


def increase(metric: str, where: str, span: str) -> str:
    """How much a counter grew within a span of time, over all of its series."""
    return f"sum(increase({metric}{{{where}}}[{span}]))"


def quantile(share: float, metric: str, where: str, *by: str, span: str = "$__rate_interval") -> str:
    """A quantile of what a histogram took in within a span of time, by labels."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{span}])))"


def memory_of_primaries(where: str) -> str:
    """Used memory of every copy whose gate is open; 0 for the others."""
    copies = f"cachecluster_copy_used_memory_bytes{{{where}}}"
    gates = f"cachecluster_copy_gate_open{{{where}}}"
    return f"{copies} * on (cluster_namespace, cluster, pod, partition) {gates}"
