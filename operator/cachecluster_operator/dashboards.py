"""Grafana's dashboards, built from the boards, and the ConfigMaps from which Grafana's sidecar loads them."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, StackingConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from .board_cluster import CLUSTER
from .board_overview import OVERVIEW
from .panels import Board, Kind, Panel, Query

BOARDS = (OVERVIEW, CLUSTER)
LABELS = {"grafana_dashboard": "1", "app.kubernetes.io/name": "cachecluster-operator"}
HEIGHTS = {Kind.STAT: 4, Kind.SERIES: 8, Kind.STACK: 8, Kind.TIMELINE: 8, Kind.TABLE: 8}
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

Manifest = dict[str, Any]


def dashboards() -> dict[str, str]:
    """The JSON text of every dashboard, by its name."""
    return {board.name: JSONEncoder(sort_keys=True, indent=1).encode(_build(board)) for board in BOARDS}


def dashboard_config_maps(namespace: str) -> list[Manifest]:
    """A ConfigMap for each dashboard, labelled for Grafana's sidecar."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(LABELS)},
            "data": {f"{name}.json": text},
        }
        for name, text in dashboards().items()
    ]


def panel_queries(namespace: str, cluster: str, interval: str = "1m") -> list[tuple[str, str, str]]:
    """Every query as (dashboard, panel, PromQL), with Grafana's variables replaced. `interval` is a Prometheus duration
    of at least four scrapes."""
    variables = {"$namespace": namespace, "$cluster": cluster, "$__rate_interval": interval}
    queries = []
    for board in BOARDS:
        for panel in (panel for row in board.rows for panel in row.panels):
            for query in panel.queries:
                expr = query.expr
                for name, value in variables.items():
                    expr = expr.replace(name, value)
                queries.append((board.title, panel.title, expr))
    return queries


def _build(board: Board) -> models.Dashboard:
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.name)
        .description(board.described)
        .tags(["cachecluster"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in board.variables:
        query = dashboard.QueryVariable(variable.name).label(variable.label).query(variable.query)
        query = query.datasource(DATASOURCE).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        if board.all_values:
            query = query.include_all(True).multi(True).all_value(".*")
        built = built.with_variable(query)
    for row in board.rows:
        built = built.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            built = built.with_panel(_panel(panel))
    return built.build()


def _panel(panel: Panel) -> Builder[models.Panel]:
    match panel.kind:
        case Kind.STAT:
            return _stat(panel)
        case Kind.TABLE:
            return _table(panel)
        case Kind.TIMELINE:
            return _fill(statetimeline.Panel(), panel)
        case Kind.STACK:
            stacking = StackingConfig().mode(common_models.StackingMode.NORMAL)
            return _fill(timeseries.Panel().stacking(stacking).fill_opacity(30), panel)
        case Kind.SERIES:
            return _fill(timeseries.Panel(), panel)


def _fill(builder: Any, panel: Panel) -> Builder[models.Panel]:
    """What every kind of panel has. (The kinds' builders share these methods but no base class.)"""
    builder = builder.title(panel.title).description(panel.described).unit(panel.unit).datasource(DATASOURCE)
    builder = builder.span(panel.width).height(HEIGHTS[panel.kind])
    for index, query in enumerate(panel.queries):
        builder = builder.with_target(_target(query, chr(ord("A") + index), panel.kind))
    filled: Builder[models.Panel] = builder
    return filled


def _target(query: Query, ref_id: str, kind: Kind) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(ref_id).legend_format(query.legend)
    if kind in (Kind.STAT, Kind.TABLE):
        target = target.instant()
    if kind is Kind.TABLE:
        target = target.format(PromQueryFormat.TABLE)
    return target


def _stat(panel: Panel) -> Builder[models.Panel]:
    steps = [models.Threshold(color="green", value=None)]
    if panel.bad_from is not None:
        steps.append(models.Threshold(color="red", value=panel.bad_from))
    thresholds = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    reduce = ReduceDataOptions().calcs(["lastNotNull"])
    return _fill(stat.Panel().thresholds(thresholds).reduce_options(reduce), panel)


def _table(panel: Panel) -> Builder[models.Panel]:
    """Queries joined by cluster: one line each, a column for every query."""
    names = {f"Value #{chr(ord('A') + index)}": query.legend for index, query in enumerate(panel.queries)}
    names |= {"cluster_namespace": "Namespace", "cluster": "Cluster"}
    merge = models.DataTransformerConfig(id_val="merge", options={})
    organize = models.DataTransformerConfig(
        id_val="organize", options={"renameByName": names, "excludeByName": {"Time": True}}
    )
    builder = table.Panel().with_transformation(merge).with_transformation(organize)
    for name in ("Memory used", "Memory usable"):
        builder = builder.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value="bytes")])
    return _fill(builder, panel)
