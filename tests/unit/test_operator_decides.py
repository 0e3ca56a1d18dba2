"""`operator_step` on single views: what an operator that starts, a hanging redis and a silent peer may lead to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.operator_views import (
    ELECTING,
    NOW,
    PODS,
    STABLE,
    UNHEARD,
    A,
    B,
    C,
    agents,
    copy_report,
    decide,
    entry_after,
    heard,
    view,
    with_copy,
)

from cachecluster_core import repair
from cachecluster_core.hashring import CopyId, Entry, Settings, State
from cachecluster_core.operator_step import MarkNotReady, Memory, OperatorView, Pod, PodView, Suspicion, remember
from cachecluster_core.report import CopyReport, Process, Report

pytestmark = pytest.mark.t0


def seen(
    entry: Entry, agents: dict[str, PodView], known_for: float = 0.0, pods: tuple[Pod, ...] = PODS[:3]
) -> OperatorView:
    """A cluster of one partition and these agents; the operator has known the entry for so many seconds."""
    return view((entry,), agents, pods, known_for=known_for)


def serving(entry: Entry = STABLE) -> CopyReport:
    """What the primary's agent reports while it serves."""
    return copy_report(replace(entry, isr=(A,)), A.pod)


def following(run_id: str, entry: Entry = STABLE) -> CopyReport:
    """What a replica's agent reports."""
    return replace(serving(entry), run_id=run_id, gate_epoch=0, shut_epoch=entry.epoch, link_up=True)


def sealed(run_id: str, offset: int, entry: Entry = ELECTING) -> CopyReport:
    """What the agent of a sealed copy reports."""
    return copy_report(entry, f"uid-{run_id[1:]}", offset=offset)


@pytest.mark.parametrize("heard_first", ["uid-a", "uid-b", "uid-c"])
@pytest.mark.parametrize("entry", [STABLE, replace(STABLE, isr=(A,), learners=("uid-b",))])
def test_an_operator_that_starts_keeps_copies_of_pods_that_have_not_reported_yet(
    entry: Entry, heard_first: str
) -> None:
    reports = {
        "uid-a": heard("uid-a", serving()),
        "uid-b": heard("uid-b", following("rb")),
        "uid-c": heard("uid-c"),
    }
    agents = dict.fromkeys(reports, UNHEARD) | {heard_first: reports[heard_first]}
    assert entry_after(seen(entry, agents)) == entry


def test_the_last_wanted_number_of_copies_is_kept_while_pods_are_missing() -> None:
    agents = {"uid-a": heard("uid-a", serving()), "uid-b": heard("uid-b", following("rb"))}
    pods = (PODS[0], replace(PODS[1], terminating=True))
    assert entry_after(seen(STABLE, agents, pods=pods)).isr == (A, B)


def test_an_operator_that_starts_in_an_election_waits_for_members_that_have_not_reported_yet() -> None:
    entry = replace(ELECTING, isr=(A, B, C))
    agents = {
        "uid-a": heard("uid-a", CopyReport(Process.DEAD, "ra", 6, shut_epoch=6)),
        "uid-b": heard("uid-b", sealed("rb", 90, entry)),
        "uid-c": UNHEARD,
    }
    assert entry_after(seen(entry, agents, known_for=0.1)) == entry
    with_more = agents | {"uid-c": heard("uid-c", sealed("rc", 100, entry))}
    assert entry_after(seen(entry, with_more, known_for=0.2)).primary == C
    assert entry_after(seen(entry, agents, known_for=0.6)).primary == B


def test_a_short_silence_late_in_an_election_does_not_lose_the_partition() -> None:
    hanging = CopyReport(Process.SILENT, "ra", 6, shut_epoch=6, silent_s=20.0)
    entry = replace(ELECTING, isr=(A,))
    others = {"uid-b": heard("uid-b"), "uid-c": heard("uid-c")}
    silent = PodView(Report("uid-a", "i", "7", 2.0, {0: hanging}), NOW - 1, Suspicion.SUSPECTED, None, NOW - 1)
    assert entry_after(seen(entry, others | {"uid-a": silent}, known_for=300.0)) == entry
    gone = replace(silent, unreachable_since=NOW - 70, suspicion=Suspicion.CONFIRMED)
    assert entry_after(seen(entry, others | {"uid-a": gone}, known_for=300.0)).state is State.LOST


LOST = Entry(epoch=7, state=State.LOST, learners=("uid-b", "uid-c"), term=5)
LEFT_OVER = CopyReport(Process.UP, "rb", 7, intact=True, shut_epoch=7, sealed_epoch=7, term=5, offset=90)
EMPTY = CopyReport(Process.UP, "new", 7, born_epoch=7)


def given_up(known_for: float = 0.0, **copies: CopyReport | None) -> Entry:
    """What becomes of the Lost entry when these are what b and c report (None: nothing yet)."""
    known = {f"uid-{x}": UNHEARD if copy is None else heard(f"uid-{x}", copy) for x, copy in copies.items()}
    memory = Memory(placed={(0, LOST.learners): NOW - known_for})
    return entry_after(replace(seen(LOST, known, known_for), memory=memory))


def test_of_the_learners_of_a_partition_that_is_given_up_the_one_that_had_received_most_serves() -> None:
    for b, c, leads in ((90, 80, B), (80, 90, C)):
        after = given_up(b=replace(LEFT_OVER, offset=b), c=replace(LEFT_OVER, run_id="rc", offset=c))
        assert (after.primary, after.isr, after.term) == (leads, (leads,), 8)
        assert after.learners == tuple(pod for pod in LOST.learners if pod != leads.pod)
    assert given_up(b=LEFT_OVER, c=EMPTY).primary == B


def test_what_a_learner_of_a_partition_that_is_given_up_holds_is_waited_for() -> None:
    for unclear in (None, replace(LEFT_OVER, sealed_epoch=0), replace(LEFT_OVER, epoch=6, sealed_epoch=6)):
        assert given_up(1.0, b=unclear, c=EMPTY) == LOST
        assert given_up(60.0, b=unclear, c=EMPTY).primary == CopyId("uid-c", "new")
    for nothing in (replace(LEFT_OVER, term=4, sealed_epoch=0), replace(LEFT_OVER, process=Process.DEAD)):
        assert given_up(1.0, b=nothing, c=EMPTY) != LOST
    nobody = replace(LOST, term=0)
    assert entry_after(replace(seen(nobody, {"uid-b": heard("uid-b", EMPTY), "uid-c": heard("uid-c", EMPTY)}))).primary


def test_a_learner_that_could_not_serve_is_waited_for_and_then_passed_over() -> None:
    other = replace(LEFT_OVER, run_id="rc", offset=80)
    routerless = PodView(Report("uid-b", "i", "7", 2.0, {0: LEFT_OVER}, routers=0), NOW, Suspicion.NONE)
    for unable in (routerless, heard("uid-b", LEFT_OVER, blind=True)):
        known = {"uid-b": unable, "uid-c": heard("uid-c", other)}
        for known_for, leads in ((1.0, None), (60.0, C)):
            memory = Memory(placed={(0, LOST.learners): NOW - known_for})
            assert entry_after(replace(seen(LOST, known, known_for), memory=memory)).primary == leads


@pytest.mark.parametrize("learners", [("uid-b",), ("uid-c",), ("uid-d",), ("uid-b", "uid-c", "uid-d")])
def test_repair_keeps_every_learner_that_may_hold_what_is_left(learners: tuple[str, ...]) -> None:
    entry = replace(LOST, learners=learners)
    known = {pod.uid: UNHEARD if pod.uid in learners else heard(pod.uid) for pod in PODS}
    after = entry_after(seen(entry, known, pods=PODS))
    assert set(learners) <= set(after.learners) and len(after.learners) >= 2


def test_a_learner_whose_agent_is_silent_for_a_moment_is_kept_and_waited_for() -> None:
    entry = replace(ELECTING, isr=(A,), learners=("uid-b", "uid-c"))
    known = {
        "uid-a": heard("uid-a", CopyReport(Process.DEAD, "ra", 6, shut_epoch=6)),
        "uid-b": PodView(None, None, Suspicion.SUSPECTED, None, NOW - 1),
        "uid-c": heard("uid-c"),
    }
    after = entry_after(seen(entry, known))
    assert (after.state, after.learners) == (State.LOST, ("uid-a", "uid-b", "uid-c"))
    memory = Memory(placed={(0, after.learners): NOW - 1.0})
    fresh = known | {"uid-c": heard("uid-c", EMPTY)}
    assert entry_after(replace(seen(after, fresh, 1.0), memory=memory)) == after
    assert entry_after(replace(seen(after, fresh | {"uid-b": UNHEARD}, 1.0), memory=memory)) == after


def test_a_learner_that_was_never_linked_to_the_last_primary_does_not_serve_what_it_holds() -> None:
    assert given_up(60.0, b=replace(LEFT_OVER, term=4), c=EMPTY).primary == CopyId("uid-c", "new")
    assert given_up(60.0, b=replace(LEFT_OVER, intact=False), c=EMPTY).primary == CopyId("uid-c", "new")


def test_a_redis_that_hangs_for_as_long_as_an_unreachable_one_is_given_up() -> None:
    entry = replace(ELECTING, isr=(A,))
    others = {"uid-b": heard("uid-b"), "uid-c": heard("uid-c")}
    for silent_s, state in ((60.0, State.ELECTING), (70.0, State.LOST)):
        hanging = CopyReport(Process.SILENT, "ra", 6, shut_epoch=6, silent_s=silent_s)
        hung = others | {"uid-a": heard("uid-a", hanging)}
        assert entry_after(seen(entry, hung, known_for=80.0)).state is state


def test_a_replica_that_is_still_loading_does_not_join() -> None:
    entry = replace(STABLE, isr=(A,), learners=("uid-b",))
    primary = replace(serving(entry), required_epoch=5, required=(A, B))
    loading = replace(following("rb", entry), syncing=True, intact=False, link_up=False)
    agents = {"uid-a": heard("uid-a", primary), "uid-b": heard("uid-b", loading), "uid-c": heard("uid-c")}
    assert entry_after(seen(entry, agents)).isr == (A,)
    agents["uid-b"] = heard("uid-b", following("rb", entry))
    assert entry_after(seen(entry, agents)).isr == (A, B)


def test_nothing_is_decided_from_a_restored_map_until_every_pod_has_told_what_it_has_seen() -> None:
    restored = Entry(epoch=1, state=State.VACANT, learners=("uid-a", "uid-b"))
    left_over = replace(serving(STABLE), born_epoch=2, gate_epoch=0)
    agents = {"uid-a": heard("uid-a", left_over, {0: STABLE}), "uid-b": heard("uid-b"), "uid-c": UNHEARD}
    assert entry_after(seen(restored, agents, known_for=10.0)) == restored
    agents["uid-c"] = heard("uid-c")
    rebuilt = entry_after(seen(restored, agents, known_for=10.0))
    assert (rebuilt.state, rebuilt.epoch, rebuilt.isr) == (State.ELECTING, 6, (A, B))


def test_a_pod_that_cannot_read_the_map_is_told() -> None:
    agents = {
        "uid-a": heard("uid-a", serving()),
        "uid-b": heard("uid-b", following("rb"), blind=True),
        "uid-c": heard("uid-c"),
    }
    told = decide(seen(STABLE, agents)).waiting_for
    assert told == ("demo-1 to read the map: it cannot reach the API server",)


@pytest.mark.parametrize(("refused_at", "hidden"), [(None, True), (NOW - 60, True), (NOW - 2, False)])
def test_a_lost_pod_is_hidden_unless_its_node_answers_now(refused_at: float | None, hidden: bool) -> None:
    lost = PodView(None, None, Suspicion.CONFIRMED, refused_at, unreachable_since=NOW - 3)
    known = agents((STABLE,)) | {B.pod: lost}
    assert (MarkNotReady(B.pod, "demo-1") in decide(view((STABLE,), known)).pod_actions) == hidden


def test_a_failover_is_decided_without_placing_copies_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(*arguments: object) -> None:
        raise AssertionError("placing the copies of a large cluster takes a second")

    monkeypatch.setattr(repair, "place", too_slow)
    dead = CopyReport(Process.DEAD, "ra", 5, shut_epoch=5)
    agents = {"uid-a": heard("uid-a", dead), "uid-b": heard("uid-b", following("rb")), "uid-c": heard("uid-c")}
    electing = entry_after(seen(STABLE, agents))
    assert (electing.state, electing.former) == (State.ELECTING, (A,))
    agents |= {
        "uid-a": heard("uid-a", replace(dead, epoch=6, shut_epoch=6)),
        "uid-b": heard("uid-b", sealed("rb", 100)),
    }
    assert entry_after(seen(electing, agents)).primary == B


def test_a_primary_whose_router_does_not_come_back_is_replaced() -> None:
    without = heard("uid-a", serving())
    assert without.report is not None
    without = replace(without, report=replace(without.report, routers=0))
    agents = {"uid-a": without, "uid-b": heard("uid-b", following("rb")), "uid-c": heard("uid-c")}
    first = seen(STABLE, agents)
    assert remember(first).ungated == {(0, 5): NOW}
    for since, state in ((NOW - 3.0, State.STABLE), (NOW - 3.5, State.ELECTING)):
        assert entry_after(replace(first, memory=Memory(ungated={(0, 5): since}))).state is state


@pytest.mark.parametrize("learner", ["killed", "began anew", "lagging", "following"])
def test_a_learner_that_the_primary_waits_for_is_let_go_by_a_higher_epoch(learner: str) -> None:
    entry = Entry(epoch=5, state=State.STABLE, primary=A, isr=(A,), learners=(B.pod,), term=5)
    known = agents((entry,))
    lagging = () if learner == "following" else (B,)
    known = with_copy(known, A.pod, copy_report(entry, A.pod, required_epoch=5, required=(A,), lagging=lagging))
    process = Process.DEAD if learner == "killed" else Process.UP
    run_id = "another" if learner == "began anew" else B.run_id
    known = with_copy(known, B.pod, CopyReport(process, run_id, 5, intact=True, shut_epoch=5, link_up=True))
    memory = Memory(lagging={(0, B): NOW - 1.0}) if learner == "lagging" else Memory()
    after = entry_after(view((entry,), known, settings=Settings(sync=True), memory=memory, nodes=2))
    assert after.isr == (A,) and after.learners == (B.pod,)
    assert after.epoch == (5 if learner == "following" else 6)


@pytest.mark.parametrize("reads_from", ["primary", "replica"])
@pytest.mark.parametrize(("seconds", "stays"), [(4.9, True), (5.1, False)])
def test_a_replica_that_falls_behind_leaves_after_a_while_whoever_reads_it(
    seconds: float, stays: bool, reads_from: str
) -> None:
    known = with_copy(agents((STABLE,)), A.pod, copy_report(STABLE, A.pod, lagging=(B,)))
    behind = view((STABLE,), known, settings=Settings(reads_from=reads_from))
    assert (B in entry_after(replace(behind, memory=remember(behind), now=NOW + seconds)).isr) is stays


@pytest.mark.parametrize("blind", [True, False])
def test_the_set_of_a_primary_that_cannot_read_the_map_is_left_alone(blind: bool) -> None:
    known = agents((STABLE,))
    known = known | {A.pod: heard(A.pod, copy_report(STABLE, A.pod), blind=blind)}
    known = with_copy(known, B.pod, copy_report(STABLE, B.pod, process=Process.DEAD))
    assert (entry_after(view((STABLE,), known)) == STABLE) is blind


def test_a_primary_that_cannot_read_the_map_is_superseded_when_it_serves_no_more() -> None:
    known = agents((STABLE,)) | {A.pod: heard(A.pod, copy_report(STABLE, A.pod, process=Process.DEAD), blind=True)}
    assert entry_after(view((STABLE,), known)).state is State.ELECTING


@pytest.mark.parametrize("able", [True, False])
def test_with_sync_a_copy_is_elected_when_the_writes_of_a_primary_that_cannot_read_the_map_wait(able: bool) -> None:
    entry = replace(STABLE, isr=(A, B, C))
    known = agents((entry,))
    known = known | {A.pod: heard(A.pod, copy_report(entry, A.pod), blind=True)}
    known = with_copy(known, B.pod, copy_report(entry, B.pod, process=Process.DEAD))
    if not able:
        known = known | {C.pod: heard(C.pod, copy_report(entry, C.pod), blind=True)}
    after = entry_after(view((entry,), known, settings=Settings(sync=True, replication_factor=3)))
    assert after.state is (State.ELECTING if able else State.STABLE)
