"""The operator's metrics page: what it says of clusters, and what it counts from one map to the next."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.operator_view import Pod, PodView, Suspicion
from cachecluster_core.report import Report
from cachecluster_operator.map_changes import NOTHING, map_changes
from cachecluster_operator.metrics import OperatorMetrics
from cachecluster_operator.snapshot import ClusterSnapshot, Desired

pytestmark = pytest.mark.t0

A, B, C = (CopyId(f"pod-{letter}", f"run-{letter}") for letter in "abc")
STABLE = Entry(epoch=2, state=State.STABLE, primary=A, isr=(A, B), term=2)
ELECTING = Entry(epoch=3, state=State.ELECTING, isr=(A, B), former=(A,), term=2)
PROMOTED = Entry(epoch=4, state=State.STABLE, primary=B, isr=(B,), learners=("pod-c",), term=4)
REPAIRED = Entry(epoch=5, state=State.STABLE, primary=B, isr=(B, C), term=4)
LOST = Entry(epoch=5, state=State.LOST, term=4)


def _snapshot(*entries: Entry, now: float = 0.0) -> ClusterSnapshot:
    settings = Settings(maxmemory_cluster=1000)
    return ClusterSnapshot(
        name="demo",
        now=now,
        desired=Desired(nodes=3, partitions=len(entries), settings=settings),
        map=HashRing(name="demo", entries=entries, settings=settings),
        map_known=True,
        pods=(
            Pod(uid="pod-a", name="demo-0", ready=True),
            Pod(uid="pod-b", name="demo-1", ready=True, terminating=True),
        ),
        agents={
            "pod-a": PodView(report=Report(pod="pod-a", incarnation="1"), suspicion=Suspicion.NONE),
            "pod-b": PodView(suspicion=Suspicion.SUSPECTED),
        },
        map_writes=7,
    )


def _values(metrics: OperatorMetrics) -> dict[str, float]:
    """Samples of the cluster, named `name` or `name{label}` by what they have beside the cluster's labels."""
    values = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            rest = [value for key, value in sample.labels.items() if key not in ("cluster", "cluster_namespace")]
            values[sample.name + "".join(f"{{{value}}}" for value in rest)] = sample.value
    return values


def test_page_tells_the_state_of_a_cluster() -> None:
    metrics = OperatorMetrics()
    metrics.leader(True)
    metrics.reconciled(0.02, True)
    metrics.reconciled(0.02, False)
    metrics.observe("default", _snapshot(STABLE, ELECTING))
    values = _values(metrics)
    assert values["cachecluster_operator_leader"] == 1
    assert values["cachecluster_operator_reconcile_errors_total"] == 1
    assert values["cachecluster_nodes_desired"] == 3
    assert values["cachecluster_nodes_ready"] == 1
    assert values["cachecluster_nodes_reporting"] == 1
    assert values["cachecluster_partitions{Stable}"] == 1
    assert values["cachecluster_partitions{Electing}"] == 1
    assert values["cachecluster_partitions{Lost}"] == 0
    assert values["cachecluster_partitions_short"] == 0
    assert values["cachecluster_partition_served{0}"] == 1
    assert values["cachecluster_partition_served{1}"] == 0
    assert values["cachecluster_partition_in_sync_copies{0}"] == 2
    assert values["cachecluster_memory_usable_bytes"] == 1000
    assert values["cachecluster_map_writes_total"] == 7


def test_failover_is_counted_and_timed() -> None:
    metrics = OperatorMetrics()
    for now, entry in enumerate((STABLE, ELECTING, ELECTING, PROMOTED, REPAIRED)):
        metrics.observe("default", _snapshot(entry, now=float(now)))
    values = _values(metrics)
    assert values["cachecluster_failovers_total"] == 1
    assert values["cachecluster_failover_seconds_count"] == 1
    assert values["cachecluster_failover_seconds_sum"] == 2.0
    assert values["cachecluster_repairs_total"] == 1
    assert values["cachecluster_partitions_lost_total"] == 0


def test_loss_is_counted_and_is_no_failover() -> None:
    metrics = OperatorMetrics()
    began = replace(STABLE, epoch=6, term=6, isr=(A,))
    for entry in (STABLE, ELECTING, LOST, LOST, began):
        metrics.observe("default", _snapshot(entry))
    values = _values(metrics)
    assert values["cachecluster_partitions_lost_total"] == 1
    assert values["cachecluster_failovers_total"] == 0


def test_planned_moves_are_counted_and_are_no_failovers() -> None:
    metrics = OperatorMetrics()
    moving = replace(STABLE, epoch=3, state=State.MOVING, successor=B)
    given_up = replace(STABLE, epoch=4)
    again = replace(moving, epoch=5)
    moved = replace(STABLE, epoch=6, primary=B, term=6)
    for entry in (STABLE, moving, given_up, again):
        metrics.observe("default", _snapshot(entry))
    assert _values(metrics)["cachecluster_moves_total"] == 0
    assert _values(metrics)["cachecluster_partition_served{0}"] == 1
    assert _values(metrics)["cachecluster_partitions{Moving}"] == 1
    metrics.observe("default", _snapshot(moved))
    values = _values(metrics)
    assert (values["cachecluster_moves_total"], values["cachecluster_failovers_total"]) == (1, 0)


def _rolling(now: float, *entries: Entry, paused: bool = False) -> ClusterSnapshot:
    plain = _snapshot(*entries, now=now)
    assert plain.map is not None
    ring = replace(plain.map, members=(("pod-a", Member("demo-0", "h", leaving=True)),))
    pods = tuple(replace(pod, outdated=True) for pod in plain.pods)
    return replace(plain, map=ring, pods=pods, desired=replace(plain.desired, paused=paused))


def test_a_roll_that_stands_still_is_timed_until_it_gets_on() -> None:
    metrics = OperatorMetrics()

    def idle(snapshot: ClusterSnapshot) -> float:
        metrics.observe("default", snapshot)
        return _values(metrics)["cachecluster_change_idle_seconds"]

    assert idle(_snapshot(STABLE, now=1000.0)) == 0
    assert idle(_rolling(1001.0, STABLE)) == 0
    assert idle(_rolling(1101.0, STABLE)) == 100
    values = _values(metrics)
    assert (values["cachecluster_nodes_leaving"], values["cachecluster_nodes_outdated"]) == (1, 2)
    assert idle(_rolling(1200.0, replace(STABLE, learners=("pod-c",)))) == 0, "it got on"
    assert idle(_rolling(1300.0, STABLE, paused=True)) == 0
    assert idle(_snapshot(STABLE, now=2000.0)) == 0


def test_first_sight_of_a_cluster_counts_nothing() -> None:
    metrics = OperatorMetrics()
    metrics.observe("default", _snapshot(LOST))
    assert _values(metrics)["cachecluster_partitions_lost_total"] == 0


def test_forgotten_cluster_is_not_on_the_page() -> None:
    metrics = OperatorMetrics()
    for entry in (STABLE, ELECTING, PROMOTED):
        metrics.observe("default", _snapshot(entry))
    metrics.forget("default", "demo")
    metrics.forget("default", "never-seen")
    assert b'cluster="demo"' not in metrics.render()


def test_failover_between_two_looks_shows_in_the_term() -> None:
    before, after = (HashRing(name="demo", entries=(entry,)) for entry in (STABLE, PROMOTED))
    assert map_changes(before, after).failed_over == (0,)


@pytest.mark.parametrize("before", [None, HashRing(name="demo", entries=(STABLE, STABLE))])
def test_maps_that_cannot_be_compared_tell_nothing(before: HashRing | None) -> None:
    assert map_changes(before, HashRing(name="demo", entries=(LOST,))) == NOTHING


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_has_nothing_against_the_page() -> None:
    metrics = OperatorMetrics()
    metrics.observe("default", _snapshot(STABLE, ELECTING))
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert checked.stderr.decode().splitlines() == []
