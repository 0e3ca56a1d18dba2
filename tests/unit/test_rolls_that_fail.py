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


NEW = Pod("uid-2", "demo-2", "10.0.0.2", node="n2", ready=True)
BARE = PodView(Report(NEW.uid, "i", "7", 3.0, routers=1), 99.0, Suspicion.NONE)


@pytest.mark.parametrize(
    ("pod", "routers", "text"),
    [
        (NEW, 1, None),
        (NEW, 0, "demo-2 to have a router"),
        (replace(NEW, ready=False), 1, "demo-2 to become ready"),
    ],
)
def test_it_stops_while_a_new_pod_serves_nobody_and_says_so(pod: Pod, routers: int, text: str | None) -> None:
    seen = view([*(replace(pod, outdated=True) for pod in PODS), pod])
    assert BARE.report is not None
    agents = {**seen.agents, NEW.uid: replace(BARE, report=replace(BARE.report, routers=routers))}
    seen = replace(seen, agents=agents)
    assert leaving(seen) == (set() if text else {PODS[1].uid})
    assert operator_step(seen).waiting_for == ((text,) if text else ())


def idle_since(seen: OperatorView, since: float) -> OperatorView:
    """The same view, with what the operator has learned at that time."""
    return replace(seen, memory=remember(replace(seen, now=since)))


@pytest.mark.parametrize(
    ("agent", "entry"),
    [
        (replace(BARE, suspicion=Suspicion.CONFIRMED, unreachable_since=60.0), ENTRY),
        (BARE, replace(ENTRY, isr=COPIES[:1], learners=(NEW.uid,))),
    ],
    ids=["was-there-once", "copies-are-never-filled"],
)
def test_a_pod_that_is_of_no_use_for_long_is_replaced_as_soon_as_its_template_is_mended(
    agent: PodView, entry: Entry
) -> None:
    new = replace(NEW, ready=False)
    seen = view([*(replace(pod, outdated=True) for pod in PODS), new])
    assert seen.map is not None
    seen = replace(seen, map=replace(seen.map, entries=(entry,)), agents={**seen.agents, NEW.uid: agent})
    assert leaving(idle_since(seen, 60.0)) == set(), "its template is the spec's"
    mended = replace(seen, pods=(*seen.pods[:2], replace(new, outdated=True)))
    assert NEW.uid not in leaving(idle_since(mended, 75.0)), "it may still come up"
    assert leaving(idle_since(mended, 60.0)) == {NEW.uid}
    assert leaving(idle_since(replace(mended, paused=True), 60.0)) == set()


def test_a_pod_that_is_not_ready_goes_by_its_turn_while_it_holds_data() -> None:
    pods = [PODS[0], replace(PODS[1], ready=False, outdated=True), replace(NEW, outdated=True, ready=False)]
    seen = view(pods)
    assert remember(seen).idle == {NEW.uid: 100.0}
    assert leaving(idle_since(replace(seen, agents={**seen.agents, NEW.uid: BARE}), 60.0)) == {NEW.uid}


def test_an_operator_looks_again_while_a_pod_is_of_no_use() -> None:
    seen = view([*PODS, replace(NEW, ready=False)])
    seen = replace(seen, agents={**seen.agents, NEW.uid: BARE})
    assert operator_step(idle_since(seen, 60.0)).wake_after == 1.0


@pytest.mark.parametrize("host", ["", PENDING.host])
def test_the_object_of_a_pod_that_is_gone_with_its_node_does_not_hold_up_a_roll(host: str) -> None:
    lost = replace(PENDING, host=host, terminating=True)
    seen = view([*(replace(pod, outdated=True) for pod in PODS), NEW, lost])
    silent = {lost.uid: PodView(None, None, Suspicion.CONFIRMED, None, 90.0)} if host else {}
    seen = replace(seen, agents={**seen.agents, NEW.uid: BARE, **silent})
    assert PODS[1].uid in leaving(seen)
    assert seen.map is not None
    named = replace(ENTRY, isr=(*COPIES, CopyId(lost.uid, "run")))
    assert PODS[1].uid not in leaving(replace(seen, map=replace(seen.map, entries=(named,)))), "an entry names it"


@pytest.mark.parametrize("suspicion", [Suspicion.NONE, Suspicion.UNKNOWN])
def test_a_pod_that_ends_holds_up_a_roll_until_it_is_silent(suspicion: Suspicion) -> None:
    ends = replace(PENDING, terminating=True)
    seen = view([*(replace(pod, outdated=True) for pod in PODS), NEW, ends])
    there = replace(_agent(ends.uid), suspicion=suspicion)
    assert leaving(replace(seen, agents={**seen.agents, NEW.uid: BARE, ends.uid: there})) == {ends.uid}


def test_a_pod_that_reports_or_has_copies_waits_for_its_turn() -> None:
    outdated = replace(PENDING, outdated=True)
    reporting = view([*PODS, outdated])
    agents = {**reporting.agents, PENDING.uid: replace(_agent(PENDING.uid), suspicion=Suspicion.CONFIRMED)}
    assert leaving(replace(reporting, agents=agents)) == set()
    learning = replace(ENTRY, isr=COPIES[:1], learners=(PENDING.uid,))
    assert reporting.map is not None
    assert leaving(replace(reporting, map=replace(reporting.map, entries=(learning,)))) == set()
