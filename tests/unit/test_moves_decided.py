"""`operator_step` on planned changes: which primaries hand over, which pods leave, and what becomes of a hand-over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.operator_views import (
    MOVING,
    NOW,
    PODS,
    STABLE,
    A,
    B,
    C,
    D,
    agents,
    copy_report,
    decide,
    entries_after,
    entry_after,
    leaving_after,
    view,
    with_copy,
)

from cachecluster_core.hashring import CopyId, Settings, State
from cachecluster_core.operator_step import CreatePod, DeletePod, Pod, PodView, Suspicion
from cachecluster_core.report import CopyReport, Process

pytestmark = pytest.mark.t0


def ending(number: int) -> tuple[Pod, ...]:
    """Three pods, one of which is being deleted."""
    return tuple(replace(pod, terminating=i == number) for i, pod in enumerate(PODS[:3]))


def test_the_primary_on_a_pod_that_is_being_deleted_hands_over_instead_of_being_elected_anew() -> None:
    entry = entry_after(view((STABLE,), pods=ending(0)))
    assert leaving_after(view((STABLE,), pods=ending(0))) == {"demo-0"}
    assert (entry.state, entry.primary, entry.successor, entry.epoch) == (State.MOVING, A, B, 6)


def test_a_hand_over_waits_for_a_successor_that_can_lead() -> None:
    known = agents((STABLE,))
    for trouble in ({"link_up": False}, {"intact": False, "syncing": True}, {"process": Process.SILENT}):
        late = with_copy(known, B.pod, copy_report(STABLE, B.pod, **trouble))
        assert entries_after(view((STABLE,), late, pods=ending(0)))[0].state is State.STABLE
    behind = with_copy(known, A.pod, copy_report(STABLE, A.pod, lagging=(B,)))
    assert entries_after(view((STABLE,), behind, pods=ending(0)))[0].state is State.STABLE


def test_an_operator_that_starts_waits_for_the_word_of_a_primary_that_is_being_deleted() -> None:
    unheard = agents((STABLE,)) | {A.pod: PodView(None, None, Suspicion.UNKNOWN)}
    assert entries_after(view((STABLE,), unheard, pods=ending(0)))[0] == STABLE
    silent = unheard | {A.pod: PodView(None, None, Suspicion.SUSPECTED, None, NOW - 5)}
    assert entries_after(view((STABLE,), silent, pods=ending(0)))[0].state is State.ELECTING


def test_a_primary_that_is_being_deleted_and_serves_no_more_is_replaced_by_election() -> None:
    shut = with_copy(agents((STABLE,)), A.pod, copy_report(STABLE, A.pod, gate_epoch=0, shut_epoch=5))
    assert entries_after(view((STABLE,), shut, pods=ending(0)))[0].state is State.ELECTING


def test_the_successor_leads_once_it_reports_its_take_over_at_exactly_this_epoch() -> None:
    known = agents((MOVING,))
    assert entries_after(view((MOVING,), known, known_for=1.0)) == (MOVING,)
    old = with_copy(known, B.pod, copy_report(MOVING, B.pod, taken_over_epoch=4))
    assert entries_after(view((MOVING,), old, known_for=1.0)) == (MOVING,)
    took = with_copy(known, B.pod, copy_report(MOVING, B.pod, taken_over_epoch=6, gate_epoch=6))
    entry = entry_after(view((MOVING,), took, known_for=1.0))
    assert (entry.state, entry.primary, entry.isr, entry.term) == (State.STABLE, B, (A, B), 7)


def test_the_old_primary_stays_only_on_its_word_that_it_gave_up() -> None:
    gave_up = with_copy(agents((MOVING,)), A.pod, copy_report(MOVING, A.pod, gave_up_epoch=6))
    entry = entry_after(view((MOVING,), gave_up, known_for=1.0))
    assert (entry.state, entry.primary, entry.term, entry.epoch) == (State.STABLE, A, 5, 7)
    silent = {uid: known for uid, known in agents((MOVING,)).items() if uid != A.pod}
    silent[A.pod] = PodView(None, None, Suspicion.SUSPECTED, None, NOW - 1)
    assert entries_after(view((MOVING,), silent, known_for=1.0)) == (MOVING,)


@pytest.mark.parametrize("victim", [A, B])
def test_a_hand_over_whose_primary_or_successor_ended_becomes_an_election_with_both_gates_to_be_silent(
    victim: CopyId,
) -> None:
    dead = with_copy(agents((MOVING,)), victim.pod, CopyReport(Process.DEAD, victim.run_id, 6, shut_epoch=6))
    entry = entry_after(view((MOVING,), dead, known_for=1.0))
    assert (entry.state, entry.former, entry.epoch) == (State.ELECTING, (A, B), 7)


def test_a_hand_over_that_takes_too_long_becomes_an_election() -> None:
    assert entries_after(view((MOVING,), known_for=6.0))[0].state is State.ELECTING


def test_primaries_go_to_their_places_gently_and_only_while_all_is_well() -> None:
    pairs = [(A, B), (A, C), (B, C)] * 2 + [(A, B), (A, C)]
    entries = tuple(replace(STABLE, primary=pair[0], isr=pair) for pair in pairs)
    moved = [entry.state is State.MOVING for entry in entries_after(view(entries))]
    assert 0 < sum(moved) <= 4
    assert not any(entry.state is State.MOVING for entry in entries_after(view(entries, known_for=5.0)))
    assert not any(entry.state is State.MOVING for entry in entries_after(view(entries, paused=True)))
    silent = agents(entries) | {"uid-c": PodView(None, None, Suspicion.SUSPECTED, None, NOW - 1)}
    assert not any(entry.state is State.MOVING for entry in entries_after(view(entries, silent)))


def test_the_highest_numbers_leave_on_a_scale_in_unless_another_is_silent_or_outdated() -> None:
    assert leaving_after(view((STABLE,), pods=PODS, nodes=3)) == {"demo-3"}
    assert leaving_after(view((STABLE,), pods=PODS, nodes=2)) == {"demo-2", "demo-3"}
    outdated = (PODS[0], PODS[1], replace(PODS[2], outdated=True), PODS[3])
    assert leaving_after(view((STABLE,), pods=outdated, nodes=3)) == {"demo-2"}
    silent = agents((STABLE,), PODS) | {"uid-c": PodView(None, None, Suspicion.SUSPECTED, None, NOW - 1)}
    assert leaving_after(view((STABLE,), silent, pods=PODS, nodes=3)) == {"demo-2"}


def test_a_scale_in_leaves_pods_in_different_zones() -> None:
    crowded = (replace(PODS[0], zone="z1", node="n1"), *PODS[1:])
    assert leaving_after(view((STABLE,), pods=crowded, nodes=3)) == {"demo-1"}
    assert leaving_after(view((STABLE,), pods=crowded, nodes=2)) == {"demo-1", "demo-3"}
    one_zone = tuple(replace(pod, zone="z1", node="n1" if i < 2 else pod.node) for i, pod in enumerate(PODS))
    assert leaving_after(view((STABLE,), pods=one_zone, nodes=3)) == {"demo-1"}


def test_nothing_leaves_while_paused() -> None:
    assert decide(view((STABLE,), pods=PODS, nodes=3, paused=True)).map is None


def test_a_leaving_pod_is_emptied_and_then_deleted() -> None:
    entry = replace(STABLE, isr=(A, D), primary=D)
    seen = view((entry,), agents((entry,), PODS), pods=PODS, nodes=3, leaving=("uid-d",))
    after = entry_after(seen)
    assert after.learners or after.state is State.MOVING
    assert not decide(seen).pod_actions
    empty = view((STABLE,), agents((STABLE,), PODS), pods=PODS, nodes=3, leaving=("uid-d",))
    assert decide(empty).pod_actions == (DeletePod("uid-d", "demo-3", "the pod was emptied"),)


def test_a_leaving_pod_stays_leaving_and_is_replaced_under_a_free_number() -> None:
    seen = view((STABLE,), pods=PODS[:3], nodes=3, leaving=("uid-c",))
    decision = decide(seen)
    assert CreatePod(3) in decision.pod_actions
    ring = decision.map or seen.map
    assert ring is not None and dict(ring.members)["uid-c"].leaving


def test_one_outdated_pod_at_a_time_is_rolled_and_only_when_everything_is_whole() -> None:
    outdated = tuple(replace(pod, outdated=True) for pod in PODS[:3])
    assert leaving_after(view((STABLE,), pods=outdated)) == {"demo-2"}
    assert decide(view((STABLE,), pods=outdated, paused=True)).map is None
    short = replace(STABLE, isr=(A,), learners=("uid-b",))
    known = agents((short,))
    assert not leaving_after(view((short,), known, pods=outdated))
    new = (*outdated[:2], PODS[3])
    rolling = view((STABLE,), agents((STABLE,), new), pods=(*new, replace(outdated[2], terminating=True)))
    assert leaving_after(rolling) == {"demo-2"}, "the one that ends"


def test_a_primary_is_not_handed_to_a_copy_whose_agent_cannot_read_the_map() -> None:
    entry = replace(STABLE, isr=(A, B, C))
    known = agents((entry,))
    for pod, blind in ((B.pod, True), (C.pod, False)):
        report = known[pod].report
        assert report is not None
        known[pod] = replace(known[pod], report=replace(report, blind=blind))
    settings = Settings(replication_factor=3)
    after = entry_after(view((entry,), known, leaving=(A.pod,), settings=settings))
    assert (after.state, after.successor) == (State.MOVING, C)
