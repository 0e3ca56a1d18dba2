"""A roll whose new pods do not come up stops, and goes on by itself once the spec has been mended or taken back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.operator_step import operator_step, remember
from cachecluster_core.operator_view import CreatePod, DeletePod, Memory, OperatorView, Pod, PodView, Suspicion
from cachecluster_core.report import CopyReport, Process, Report

pytestmark = pytest.mark.t0

PODS = [Pod(f"uid-{n}", f"demo-{n}", f"10.0.0.{n}", node=f"n{n}", ready=True) for n in range(2)]
PENDING = Pod("uid-3", "demo-3", "10.0.0.3", node="n3")
COPIES = tuple(CopyId(pod.uid, "run") for pod in PODS)
ENTRY = Entry(epoch=5, state=State.STABLE, primary=COPIES[0], isr=COPIES, term=5)


def _agent(uid: str) -> PodView:
    gate = 5 if uid == COPIES[0].pod else 0
    copy = CopyReport(process=Process.UP, run_id="run", epoch=5, intact=True, gate_epoch=gate, link_up=True)
    return PodView(Report(uid, "i", "7", 3.0, copies={0: copy}, routers=1), 99.0, Suspicion.NONE)


def view(pods: list[Pod], **changes: Any) -> OperatorView:
    members = tuple((pod.uid, Member(pod.name, pod.host, pod.zone, pod.node)) for pod in pods)
    values: dict[str, Any] = {
        "name": "demo",
        "nodes": 3,
        "partitions": 1,
        "settings": Settings(),
        "now": 100.0,
        "wall": 0.0,
        "map": HashRing("demo", members, (ENTRY,), Settings(), "7"),
        "pods": tuple(pods),
        "agents": {pod.uid: _agent(pod.uid) for pod in PODS},
        "seen_at": {0: 0.0},
    }
    return OperatorView(**(values | changes))


def leaving(decided_on: OperatorView) -> set[str]:
    ring = operator_step(decided_on).map
    return {uid for uid, member in ring.members if member.leaving} if ring is not None else set()


def test_it_stops_while_a_new_pod_does_not_come_up() -> None:
    outdated = [replace(pod, outdated=True) for pod in PODS]
    assert leaving(view([*outdated, PENDING])) == set()


def test_a_pod_that_never_came_up_is_replaced_as_soon_as_its_template_is_mended() -> None:
    stuck = view([*PODS, replace(PENDING, outdated=True)])
    assert leaving(stuck) == {PENDING.uid}
    assert leaving(replace(stuck, paused=True)) == set()
    ring = operator_step(stuck).map
    assert ring is not None
    after = replace(stuck, map=replace(ring, version="8"))
    actions = operator_step(after).pod_actions
    assert any(isinstance(action, DeletePod) and action.uid == PENDING.uid for action in actions)
    assert CreatePod(2) in actions


def test_a_pod_too_many_that_never_came_up_goes_although_others_are_missing_too() -> None:
    pending = [Pod(f"uid-{n}", f"demo-{n}") for n in (3, 4)]
    assert leaving(view([PODS[0], *pending], nodes=2)) == {"uid-4"}


@pytest.mark.parametrize("lost", [False, True])
def test_a_pod_keeps_its_copies_until_its_replacement_is_there_unless_it_is_lost(lost: bool) -> None:
    third = Pod("uid-2", "demo-2", "10.0.0.2", node="n2", ready=True)
    seen = view([*PODS, third, PENDING])
    assert seen.map is not None
    silent = PodView(None, None, Suspicion.CONFIRMED, 0.0)
    agents = {**seen.agents, third.uid: replace(_agent(third.uid), report=Report(third.uid, "i", "7", 3.0))}
    agents |= {PODS[1].uid: silent} if lost else {}
    members = tuple((uid, replace(m, leaving=uid == PODS[1].uid)) for uid, m in seen.map.members)
    ring = replace(seen.map, members=members)
    seen = replace(seen, map=ring, agents=agents, memory=Memory(short={0: 0.0}))
    after = operator_step(seen).map
    learners = after.entries[0].learners if after is not None else ()
    assert learners == ((third.uid,) if lost else ())
    assert bool(remember(seen).short) == lost
    assert not any(isinstance(action, DeletePod) for action in operator_step(seen).pod_actions)


def test_a_pod_that_reports_or_has_copies_waits_for_its_turn() -> None:
    outdated = replace(PENDING, outdated=True)
    reporting = view([*PODS, outdated])
    agents = {**reporting.agents, PENDING.uid: replace(_agent(PENDING.uid), suspicion=Suspicion.CONFIRMED)}
    assert leaving(replace(reporting, agents=agents)) == set()
    learning = replace(ENTRY, isr=COPIES[:1], learners=(PENDING.uid,))
    assert reporting.map is not None
    assert leaving(replace(reporting, map=replace(reporting.map, entries=(learning,)))) == set()
