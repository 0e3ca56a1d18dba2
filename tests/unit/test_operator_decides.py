"""`operator_step` on single views: what an operator that starts, a hanging redis and a silent peer may lead to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachecluster_core import repair
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.operator_step import (
    Memory,
    OperatorDecision,
    OperatorView,
    Pod,
    PodView,
    Suspicion,
    operator_step,
    remember,
)
from cachecluster_core.report import CopyReport, Process, Report

pytestmark = pytest.mark.t0

NOW = 1000.0
A, B, C = CopyId("uid-a", "ra"), CopyId("uid-b", "rb"), CopyId("uid-c", "rc")
PODS = tuple(Pod(f"uid-{x}", f"demo-{i}", f"h{i}", f"z{i}", f"n{i}", ready=True) for i, x in enumerate("abc"))
UNHEARD = PodView(suspicion=Suspicion.UNKNOWN, unreachable_since=NOW)
STABLE = Entry(epoch=5, state=State.STABLE, primary=A, isr=(A, B), term=5)
ELECTING = Entry(epoch=6, state=State.ELECTING, isr=(A, B), former=(A,), term=5)


def serving(entry: Entry = STABLE) -> CopyReport:
    """What the primary's agent reports while it serves."""
    return CopyReport(Process.UP, "ra", entry.epoch, intact=True, gate_epoch=entry.epoch, term=entry.term, offset=100)


def following(run_id: str, entry: Entry = STABLE) -> CopyReport:
    """What a replica's agent reports."""
    return CopyReport(
        Process.UP, run_id, entry.epoch, intact=True, shut_epoch=entry.epoch, term=entry.term, offset=100, link_up=True
    )


def sealed(run_id: str, offset: int, entry: Entry = ELECTING) -> CopyReport:
    """What the agent of a sealed copy reports."""
    epoch = entry.epoch
    return CopyReport(
        Process.UP, run_id, epoch, intact=True, shut_epoch=epoch, sealed_epoch=epoch, term=entry.term, offset=offset
    )


def heard(pod: str, copy: CopyReport | None = None, entries: dict[int, Entry] | None = None) -> PodView:
    """An agent that reports now."""
    copies = {} if copy is None else {0: copy}
    return PodView(Report(pod, "i", "7", 2.0, copies, entries or {}, routers=1), NOW, Suspicion.NONE)


def view(
    entry: Entry, agents: dict[str, PodView], known_for: float = 0.0, pods: tuple[Pod, ...] = PODS
) -> OperatorView:
    """A cluster of one partition and these agents; the operator has known the entry for so many seconds."""
    members = tuple((pod.uid, Member(pod.name, pod.host, pod.zone, pod.node)) for pod in PODS)
    settings = Settings()
    ring = HashRing("demo", members, (entry,), settings, version="7", uid="u")
    return OperatorView("demo", 3, 1, settings, NOW, 0.0, ring, True, pods, agents, {0: NOW - known_for})


def decided(seen: OperatorView) -> Entry:
    """The partition's entry after one pass."""
    decision: OperatorDecision = operator_step(replace(seen, memory=remember(seen)))
    return decision.map.entries[0] if decision.map is not None else seen.map.entries[0] if seen.map else Entry()


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
    assert decided(view(entry, agents)) == entry


def test_the_last_wanted_number_of_copies_is_kept_while_pods_are_missing() -> None:
    agents = {"uid-a": heard("uid-a", serving()), "uid-b": heard("uid-b", following("rb"))}
    pods = (PODS[0], replace(PODS[1], terminating=True))
    assert decided(view(STABLE, agents, pods=pods)).isr == (A, B)


def test_an_operator_that_starts_in_an_election_waits_for_members_that_have_not_reported_yet() -> None:
    entry = replace(ELECTING, isr=(A, B, C))
    agents = {
        "uid-a": heard("uid-a", CopyReport(Process.DEAD, "ra", 6, shut_epoch=6)),
        "uid-b": heard("uid-b", sealed("rb", 90, entry)),
        "uid-c": UNHEARD,
    }
    assert decided(view(entry, agents, known_for=0.1)) == entry
    with_more = agents | {"uid-c": heard("uid-c", sealed("rc", 100, entry))}
    assert decided(view(entry, with_more, known_for=0.2)).primary == C
    assert decided(view(entry, agents, known_for=0.6)).primary == B


def test_a_short_silence_late_in_an_election_does_not_lose_the_partition() -> None:
    hanging = CopyReport(Process.SILENT, "ra", 6, shut_epoch=6, silent_s=20.0)
    entry = replace(ELECTING, isr=(A,))
    others = {"uid-b": heard("uid-b"), "uid-c": heard("uid-c")}
    silent = PodView(Report("uid-a", "i", "7", 2.0, {0: hanging}), NOW - 1, Suspicion.SUSPECTED, None, NOW - 1)
    assert decided(view(entry, others | {"uid-a": silent}, known_for=300.0)) == entry
    gone = replace(silent, unreachable_since=NOW - 70, suspicion=Suspicion.CONFIRMED)
    assert decided(view(entry, others | {"uid-a": gone}, known_for=300.0)).state is State.LOST


def test_a_redis_that_hangs_for_as_long_as_an_unreachable_one_is_given_up() -> None:
    entry = replace(ELECTING, isr=(A,))
    others = {"uid-b": heard("uid-b"), "uid-c": heard("uid-c")}
    for silent_s, state in ((60.0, State.ELECTING), (70.0, State.LOST)):
        hanging = CopyReport(Process.SILENT, "ra", 6, shut_epoch=6, silent_s=silent_s)
        seen = view(entry, others | {"uid-a": heard("uid-a", hanging)}, known_for=80.0)
        assert decided(seen).state is state


def test_a_replica_that_is_still_loading_does_not_join() -> None:
    entry = replace(STABLE, isr=(A,), learners=("uid-b",))
    primary = replace(serving(entry), required_epoch=5, required=(A, B))
    loading = replace(following("rb", entry), syncing=True, intact=False, link_up=False)
    agents = {"uid-a": heard("uid-a", primary), "uid-b": heard("uid-b", loading), "uid-c": heard("uid-c")}
    assert decided(view(entry, agents)).isr == (A,)
    agents["uid-b"] = heard("uid-b", following("rb", entry))
    assert decided(view(entry, agents)).isr == (A, B)


def test_nothing_is_decided_from_a_restored_map_until_every_pod_has_told_what_it_has_seen() -> None:
    restored = Entry(epoch=1, state=State.VACANT, learners=("uid-a", "uid-b"))
    left_over = replace(serving(STABLE), born_epoch=2, gate_epoch=0)
    agents = {"uid-a": heard("uid-a", left_over, {0: STABLE}), "uid-b": heard("uid-b"), "uid-c": UNHEARD}
    assert decided(view(restored, agents, known_for=10.0)) == restored
    agents["uid-c"] = heard("uid-c")
    rebuilt = decided(view(restored, agents, known_for=10.0))
    assert (rebuilt.state, rebuilt.epoch, rebuilt.isr) == (State.ELECTING, 6, (A, B))


def test_a_failover_is_decided_without_placing_copies_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(*arguments: object) -> None:
        raise AssertionError("placing the copies of a large cluster takes a second")

    monkeypatch.setattr(repair, "place", too_slow)
    dead = CopyReport(Process.DEAD, "ra", 5, shut_epoch=5)
    agents = {"uid-a": heard("uid-a", dead), "uid-b": heard("uid-b", following("rb")), "uid-c": heard("uid-c")}
    electing = decided(view(STABLE, agents))
    assert (electing.state, electing.former) == (State.ELECTING, (A,))
    agents |= {
        "uid-a": heard("uid-a", replace(dead, epoch=6, shut_epoch=6)),
        "uid-b": heard("uid-b", sealed("rb", 100)),
    }
    assert decided(view(electing, agents)).primary == B


def test_a_primary_whose_router_does_not_come_back_is_replaced() -> None:
    without = heard("uid-a", serving())
    assert without.report is not None
    without = replace(without, report=replace(without.report, routers=0))
    agents = {"uid-a": without, "uid-b": heard("uid-b", following("rb")), "uid-c": heard("uid-c")}
    first = view(STABLE, agents)
    assert remember(first).ungated == {(0, 5): NOW}
    for since, state in ((NOW - 3.0, State.STABLE), (NOW - 3.5, State.ELECTING)):
        assert decided(replace(first, memory=Memory(ungated={(0, 5): since}))).state is state
