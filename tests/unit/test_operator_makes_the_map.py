"""Which pods the first map, or a new one, waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.operator_views import NOW, PODS, STABLE, UNHEARD, decide, heard, view

from cachecluster_core.hashring import Entry, State
from cachecluster_core.operator_step import OperatorDecision, OperatorView, Pod, PodView, Suspicion, remember

pytestmark = pytest.mark.t0


def unmapped(pod: Pod, agent: PodView) -> OperatorView:
    """There is no map, two pods report that they have seen none, and this is the third."""
    unversioned = {uid: heard(uid) for uid in ("uid-a", "uid-b")}
    known = {uid: replace(it, report=replace(it.report, version="")) for uid, it in unversioned.items() if it.report}
    pods = (*PODS[:2], pod)
    return replace(view((Entry(),), known | {pod.uid: agent}, pods), map=None)


def without_map(pod: Pod, agent: PodView) -> OperatorDecision:
    """What is decided then."""
    return decide(unmapped(pod, agent))


@pytest.mark.parametrize(
    "pod",
    [replace(PODS[2], unstarted=True, ready=False), replace(PODS[2], host="", ready=False)],
    ids=["its sidecar waits", "it has no address"],
)
def test_a_new_cluster_does_not_wait_for_a_pod_that_has_never_run(pod: Pod) -> None:
    made = without_map(pod, UNHEARD).map
    assert made is not None and [entry.state for entry in made.entries] == [State.VACANT]


def test_a_new_cluster_waits_for_a_pod_that_has_run() -> None:
    decision = without_map(PODS[2], UNHEARD)
    assert decision.map is None and decision.waiting_for == ("demo-2 to tell which map it has seen",)


@pytest.mark.parametrize(("seconds", "is_made"), [(890.0, False), (1000.0, True)])
def test_a_silent_pod_may_have_read_the_map_until_it_went_whoever_has_heard_of_it(
    seconds: float, is_made: bool
) -> None:
    silent = replace(heard("uid-c", None, {0: STABLE}), suspicion=Suspicion.SUSPECTED, unreachable_since=NOW - 1e6)
    gone = unmapped(PODS[2], silent)
    later = decide(replace(gone, memory=remember(gone), now=NOW + seconds))
    assert (later.map is not None) == is_made
    assert later.waiting_for == (() if is_made else ("demo-2 to tell which map it has seen",))


def test_a_map_that_cannot_be_read_is_not_a_map_that_went() -> None:
    silent = replace(heard("uid-c", None, {0: STABLE}), suspicion=Suspicion.SUSPECTED, unreachable_since=NOW - 1e6)
    unknown = replace(unmapped(PODS[2], silent), map_known=False)
    memory = remember(replace(unknown, memory=remember(unknown), now=NOW + 1000.0))
    first_read = replace(unknown, map_known=True, memory=memory, now=NOW + 1000.0)
    assert decide(replace(first_read, memory=remember(first_read))).map is None


def test_a_report_is_believed_before_a_kubelet_that_has_not_heard_of_the_start() -> None:
    fell_silent = replace(heard("uid-c", None, {0: STABLE}), suspicion=Suspicion.SUSPECTED, unreachable_since=NOW)
    assert without_map(replace(PODS[2], unstarted=True), fell_silent).map is None
