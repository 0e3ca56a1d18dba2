"""The status: conditions, what is served, members, times of transition, and what is worth a write."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from cachecluster_core.cluster_status import CacheClusterStatus
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_core.operator_view import Pod, PodView, Suspicion
from cachecluster_core.report import USERS_KNOWN, CopyReport, Process, Report, essence
from cachecluster_core.spec import Problem, parse_spec
from cachecluster_operator.capacity import Holdings
from cachecluster_operator.change_track import ChangeTrack
from cachecluster_operator.in_effect import Pending, in_effect
from cachecluster_operator.pause import Pause, pause_of
from cachecluster_operator.snapshot import ClusterSnapshot
from cachecluster_operator.status import NO_EVICTION, compose_status, min_available
from cachecluster_operator.status_figures import Difference, Known, what_differs

pytestmark = pytest.mark.t0

MINIMAL = {"nodes": 2, "replicationFactor": 2, "memory": "64Mi", "partitions": 2}
EFFECT = in_effect(parse_spec(MINIMAL), [], Holdings())
A, B = CopyId("uid-a", "ra"), CopyId("uid-b", "rb")
STABLE = Entry(epoch=3, state=State.STABLE, primary=A, isr=(A, B), term=2)
PODS = (
    Pod("uid-a", "demo-0", "10.0.0.1", "z1", "n1", ready=True),
    Pod("uid-b", "demo-1", "10.0.0.2", "z2", "n2", ready=True),
)
NOW, LATER = "2026-11-24T07:00:00Z", "2026-11-24T08:00:00Z"


def report(pod: str, run_id: str, gate_epoch: int = 3, used: int = 1 << 20) -> PodView:
    copy = CopyReport(process=Process.UP, run_id=run_id, gate_epoch=gate_epoch, used_memory=used)
    return PodView(Report(pod, "i", copies={0: copy, 1: copy}, clients=7), 1.0, Suspicion.NONE)


AGENTS = {"uid-a": report("uid-a", "ra"), "uid-b": report("uid-b", "rb", 0)}


def known(entries: tuple[Entry, ...] = (STABLE, STABLE), leaving: tuple[str, ...] = (), **changes: Any) -> Known:
    effect = changes.get("effect") or EFFECT
    members = tuple((pod.uid, Member(pod.name, pod.host, leaving=pod.uid in leaving)) for pod in PODS)
    snapshot = ClusterSnapshot(
        name="demo",
        now=1.0,
        desired=effect.desired,
        map=HashRing("demo", members, entries, effect.desired.settings),
        pods=changes.get("pods", PODS),
        agents=changes.pop("agents", AGENTS),
        waiting_for=changes.pop("waiting_for", ()),
    )
    track = ChangeTrack()
    track.observe(snapshot)
    changes.setdefault("progress", track.progress)
    values: dict[str, Any] = {"generation": 4, "selector": "s", "effect": EFFECT, "pods": PODS, "snapshot": snapshot}
    return Known(**(values | changes))


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


def test_a_whole_cluster_is_ready() -> None:
    status = compose_status(known(), {}, NOW)
    assert conditions(status) == {
        "Ready": ("True", "Serving"),
        "Progressing": ("False", "Complete"),
        "Degraded": ("False", "CopiesInSync"),
        "UpToDate": ("True", "SpecInEffect"),
        "Paused": ("False", "NotPaused"),
    }
    assert (status["nodesReady"], status["partitionsServed"], status["message"]) == ("2/2", "2/2", "")
    assert status["observedGeneration"] == 4
    assert [(m["pod"], m["zone"], m["primaries"], m["replicas"]) for m in status["members"]] == [
        ("demo-0", "z1", 2, 0),
        ("demo-1", "z2", 0, 2),
    ]
    assert status["memory"]["used"] == "2.0Mi" and status["members"][0]["clients"] == 7


def test_a_status_is_what_the_schema_says() -> None:
    status = compose_status(known(), {}, NOW)
    parsed = CacheClusterStatus.model_validate(status).model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert parsed == status


def test_a_partition_is_served_only_when_its_primary_reports_an_open_gate() -> None:
    for agents in (
        {},
        {"uid-a": report("uid-a", "ra", gate_epoch=0)},
        {"uid-a": report("uid-a", "another")},
        {"uid-a": replace(report("uid-a", "ra"), suspicion=Suspicion.CONFIRMED)},
    ):
        status = compose_status(known(agents=agents), {}, NOW)
        assert status["partitionsServed"] == "0/2"
        assert conditions(status)["Ready"] == ("False", "PartitionsNotServed")


def test_an_election_is_progress_and_a_missing_copy_degrades() -> None:
    electing = Entry(epoch=4, state=State.ELECTING, isr=(B,), term=2)
    status = compose_status(known((STABLE, electing)), {}, NOW)
    assert conditions(status)["Progressing"] == ("True", "Electing")
    assert conditions(status)["Degraded"] == ("True", "CopiesMissing")
    assert "partition 1" in status["conditions"][0]["message"]


def test_a_copy_that_is_being_filled_is_progress() -> None:
    alone = Entry(epoch=3, state=State.STABLE, primary=A, isr=(A,), learners=("uid-b",), term=2)
    status = compose_status(known((alone, alone)), {}, NOW)
    assert conditions(status)["Progressing"] == ("True", "Repairing")
    assert [m["learners"] for m in status["members"]] == [0, 2]


def test_a_pod_that_is_missing_makes_it_not_ready_although_all_is_served() -> None:
    status = compose_status(known(pods=PODS[:1]), {}, NOW)
    assert conditions(status)["Ready"] == ("False", "NodesNotReady")
    assert conditions(status)["Progressing"] == ("True", "Repairing")
    assert status["nodesReady"] == "1/2"


def test_an_invalid_spec_is_named_by_field() -> None:
    problems = (Problem("spec.nodes", "must be at least replicationFactor"),)
    fresh = compose_status(known(effect=None, snapshot=None, pods=(), problems=problems), {}, NOW)
    assert conditions(fresh)["Ready"] == ("False", "InvalidSpec")
    assert fresh["message"].startswith("spec.nodes: ")
    running = compose_status(known(problems=problems), {}, NOW)
    assert conditions(running)["Ready"] == ("True", "Serving"), "what runs goes on by the last valid spec"
    assert conditions(running)["UpToDate"] == ("False", "InvalidSpec")


def test_what_is_pending_or_in_the_way_is_told() -> None:
    pending = Pending("ScaleInRefused", "spec.nodes is 1, and 2 nodes stay", refused=True)
    refused = compose_status(known(effect=replace(EFFECT, pending=(pending,))), {}, NOW)
    assert conditions(refused)["UpToDate"] == conditions(refused)["Progressing"] == ("False", "ScaleInRefused")
    assert refused["message"] == pending.message
    trouble = compose_status(known(trouble="Service demo belongs to nobody"), {}, NOW)
    assert conditions(trouble)["UpToDate"] == ("False", "ChildrenNotApplied")
    assert conditions(trouble)["Ready"][0] == "True"


def test_the_time_of_a_transition_is_kept_while_nothing_changes() -> None:
    first = compose_status(known(), {}, NOW)
    same = compose_status(known(), first, LATER)
    assert same == first
    other = compose_status(known(pods=PODS[:1]), first, LATER)
    times = {c["type"]: c["lastTransitionTime"] for c in other["conditions"]}
    assert times == {"Ready": LATER, "Progressing": LATER, "Degraded": NOW, "UpToDate": NOW, "Paused": NOW}


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_a_loss_of_data_stays_told() -> None:
    assert "DataLoss" not in conditions(compose_status(known(), {}, NOW))
    lost = compose_status(known(lost={1: at(NOW)}), {}, NOW)
    assert conditions(lost)["DataLoss"] == ("True", "NoCopyLeft")
    assert lost["dataLoss"] == {"at": NOW, "partitions": [1]}
    assert CacheClusterStatus.model_validate(lost).data_loss is not None
    after_restart = compose_status(known(), lost, LATER)
    assert conditions(after_restart)["DataLoss"] == ("True", "NoCopyLeft")
    assert after_restart["dataLoss"] == lost["dataLoss"]


def test_a_loss_of_data_is_cleared_when_its_time_is_taken_note_of_and_a_later_one_is_not() -> None:
    lost = compose_status(known(lost={1: at(NOW)}), {}, NOW)
    cleared = compose_status(known(lost={1: at(NOW)}, loss_seen=NOW), lost, LATER)
    assert conditions(cleared)["DataLoss"] == ("False", "Acknowledged") and "dataLoss" not in cleared
    assert conditions(compose_status(known(loss_seen=NOW), cleared, LATER))["DataLoss"] == ("False", "Acknowledged")
    again = compose_status(known(lost={0: at(LATER), 1: at(NOW)}, loss_seen=NOW), cleared, LATER)
    assert again["dataLoss"] == {"at": LATER, "partitions": [0]}
    assert conditions(again)["DataLoss"] == ("True", "NoCopyLeft")
    both = compose_status(known(lost={0: at(LATER)}), lost, LATER)
    assert both["dataLoss"] == {"at": LATER, "partitions": [0, 1]}
    assert compose_status(known(loss_seen=NOW), both, LATER)["dataLoss"] == both["dataLoss"], "seen too early"


@pytest.mark.parametrize("seen", ["true", "yesterday", "2026-11-24"])
def test_what_is_no_time_clears_no_loss_of_data(seen: str) -> None:
    status = compose_status(known(lost={1: at(NOW)}, loss_seen=seen), {}, NOW)
    told = next(c for c in status["conditions"] if c["type"] == "DataLoss")
    assert told["status"] == "True" and f'"{seen}", which is no such time' in told["message"]
    assert f"cachecluster.io/data-loss-seen={NOW}" in told["message"]


def test_a_loss_of_data_told_by_a_status_without_its_time_is_cleared_too() -> None:
    lost = compose_status(known(lost={1: at(NOW)}), {}, NOW)
    del lost["dataLoss"]
    assert compose_status(known(), lost, LATER)["dataLoss"] == {"at": NOW, "partitions": []}
    assert conditions(compose_status(known(loss_seen=NOW), lost, LATER))["DataLoss"] == ("False", "Acknowledged")


def test_users_that_are_not_as_configured_are_told_with_their_pods() -> None:
    def told(users: str, **changes: Any) -> tuple[str, str, str]:
        found = AGENTS["uid-a"].report
        assert found is not None
        reports = {uid: replace(found, pod=uid, users=users, routers=1) for uid in AGENTS}
        agents = {uid: replace(AGENTS[uid], report=report) for uid, report in reports.items()}
        status = compose_status(known(agents=agents, **changes), {}, NOW)
        condition = next(c for c in status["conditions"] if c["type"] == "UpToDate")
        return condition["reason"], condition["message"], status["message"]

    text = "spec.auth.secretRef: line 2: no rule (demo-0, demo-1)"
    assert told("line 2: no rule") == ("UsersNotInEffect", text, text)
    guarded = parse_spec(MINIMAL | {"auth": {"secretRef": {"name": "people"}}})
    effect = in_effect(guarded, [], Holdings())
    assert told(USERS_KNOWN, effect=effect)[0] == "SpecInEffect"
    assert "everybody is served" in told("", effect=effect)[1], "the image is too old to know users"
    assert told("")[0] == "SpecInEffect", "nobody has configured any"
    assert essence(Report("a", "i")) != essence(Report("a", "i", users="line 2")), "the operator looks again"


def test_uneven_zones_are_told() -> None:
    told = next(c for c in compose_status(known(), {}, NOW)["conditions"] if c["type"] == "UpToDate")
    assert told["message"] == "all of the spec is in effect"
    seen = known()
    assert seen.snapshot is not None and seen.snapshot.map is not None
    places = [("a", "z1"), ("b", "z1"), ("c", "z2"), ("d", "z3")]
    members = tuple((f"uid-{x}", Member(f"demo-{x}", "h", zone, x)) for x, zone in places)
    settings = replace(seen.snapshot.map.settings, replication_factor=3)
    ring = replace(seen.snapshot.map, members=members, settings=settings)
    uneven = replace(seen, snapshot=replace(seen.snapshot, map=ring))
    told = next(c for c in compose_status(uneven, {}, NOW)["conditions"] if c["type"] == "UpToDate")
    assert told["message"].endswith("a node holds 1 to 2 copies")


def test_figures_alone_can_wait() -> None:
    first = compose_status(known(), {}, NOW)
    busier = compose_status(known(agents=AGENTS | {"uid-a": report("uid-a", "ra", used=50 << 20)}), first, LATER)
    assert busier != first and what_differs(first, busier) is Difference.FIGURES
    fewer = compose_status(known(pods=PODS[:1]), first, LATER)
    assert what_differs(first, fewer) is Difference.STATE


def test_no_pod_may_be_evicted_while_a_copy_more_could_be_the_last() -> None:
    alone = replace(STABLE, isr=(A,))
    single = EFFECT.spec.model_copy(update={"replication_factor": 1})
    assert min_available(EFFECT.spec, None) == NO_EVICTION
    assert min_available(EFFECT.spec, known().snapshot) == 1
    assert min_available(EFFECT.spec, known((STABLE, alone)).snapshot) == NO_EVICTION
    assert min_available(single, known((alone, alone)).snapshot) == 1


def test_one_pod_at_a_time_may_be_evicted_however_many_more_there_are_than_wanted() -> None:
    more = tuple(Pod(f"uid-{n}", f"demo-{n}", f"10.0.0.{n}", ready=True) for n in range(3))
    assert min_available(EFFECT.spec, known(pods=(*PODS, *more)).snapshot) == 4
    five = EFFECT.spec.model_copy(update={"nodes": 5})
    assert min_available(five, known().snapshot) == 4, "pods that were evicted and not replaced allow no others"
    failed = replace(more[2], failed=True, ready=False)
    assert min_available(EFFECT.spec, known(pods=(*PODS, *more[:2], failed)).snapshot) == 3


def test_copies_that_cannot_take_over_keep_no_pod_from_being_needed() -> None:
    electing = Entry(epoch=4, state=State.ELECTING, isr=(A, B), former=(A,), term=3)
    assert min_available(EFFECT.spec, known((STABLE, electing)).snapshot) == NO_EVICTION
    silent = AGENTS | {B.pod: replace(AGENTS[B.pod], suspicion=Suspicion.SUSPECTED)}
    assert min_available(EFFECT.spec, known(agents=silent).snapshot) == NO_EVICTION


def test_no_pod_may_be_evicted_while_one_is_emptied_or_ends() -> None:
    ending = (replace(PODS[0], terminating=True), PODS[1])
    assert min_available(EFFECT.spec, known(leaving=("uid-a",)).snapshot) == NO_EVICTION
    assert min_available(EFFECT.spec, known(pods=ending).snapshot) == NO_EVICTION


def test_the_object_of_a_pod_that_is_gone_with_its_node_keeps_no_other_from_being_evicted() -> None:
    lost = Pod("uid-c", "demo-2", "10.0.0.3", terminating=True)
    silent = PodView(None, None, Suspicion.CONFIRMED, None, 0.0)
    seen = known(pods=(*PODS, lost), agents=AGENTS | {"uid-c": silent}).snapshot
    assert seen is not None and seen.map is not None
    members = (*seen.map.members, ("uid-c", Member("demo-2", "10.0.0.3", leaving=True)))
    seen = replace(seen, map=replace(seen.map, members=members))
    assert min_available(EFFECT.spec, seen) == 1
    ends = replace(seen, agents=AGENTS | {"uid-c": report("uid-c", "rc", 0)})
    assert min_available(EFFECT.spec, ends) == NO_EVICTION, "it reports"
    moves = replace(STABLE, learners=("uid-c",))
    assert seen.map is not None
    named = replace(seen, map=replace(seen.map, entries=(STABLE, moves)))
    assert min_available(EFFECT.spec, named) == NO_EVICTION, "an entry names it"


def test_a_partition_that_is_handed_over_is_served() -> None:
    moving = replace(STABLE, epoch=4, state=State.MOVING, successor=B)
    shut = {"uid-a": report("uid-a", "ra", 0), "uid-b": report("uid-b", "rb", 0)}
    status = compose_status(known((STABLE, moving), agents=AGENTS | {"uid-b": shut["uid-b"]}), {}, NOW)
    assert status["partitionsServed"] == "2/2" and conditions(status)["Ready"][0] == "True"
    assert conditions(status)["Progressing"] == ("True", "Rebalancing")
    assert "handing over partition 1" in status["message"]
    assert compose_status(known((moving, moving), agents=shut), {}, NOW)["partitionsServed"] == "2/2"
    del shut["uid-b"]
    assert compose_status(known((moving, moving), agents=shut), {}, NOW)["partitionsServed"] == "0/2"


def test_members_tell_who_is_emptied_and_who_is_outdated() -> None:
    pods = (PODS[0], replace(PODS[1], outdated=True))
    members = compose_status(known(pods=pods, leaving=("uid-b",)), {}, NOW)["members"]
    assert [(m["leaving"], m["outdated"]) for m in members] == [(False, False), (True, True)]


def test_a_paused_cluster_tells_what_is_held_back() -> None:
    outdated = (PODS[0], replace(PODS[1], outdated=True))
    status = compose_status(known(pods=outdated, pause=Pause(paused=True)), {}, NOW)
    assert conditions(status)["Paused"] == ("True", "Paused")
    assert conditions(status)["Progressing"] == ("False", "Paused")
    assert conditions(status)["Ready"][0] == "True"
    assert status["message"] == "paused; held back: replacing demo-1"
    idle = compose_status(known(pause=Pause(paused=True)), {}, NOW)
    assert conditions(idle)["Progressing"] == ("False", "Complete")
    electing = Entry(epoch=4, state=State.ELECTING, isr=(B,), term=2)
    failing = compose_status(known((STABLE, electing), pods=outdated, pause=Pause(paused=True)), {}, NOW)
    assert conditions(failing)["Progressing"] == ("True", "Electing"), "fail-over goes on"


@pytest.mark.parametrize("value", ["yes", "True", ""])
def test_a_pause_that_means_nothing_pauses_and_is_told_with_the_remedy(value: str) -> None:
    pause = pause_of({"metadata": {"annotations": {"cachecluster.io/paused": value}}})
    status = compose_status(known(pause=pause), {}, NOW)
    assert pause.paused and conditions(status)["Paused"] == ("True", "InvalidValue")
    assert f'"{value}"' in status["message"] and "kubectl annotate" in status["message"]


@pytest.mark.parametrize(("value", "paused"), [("true", True), ("false", False), (None, False)])
def test_pauses_that_mean_something(value: str | None, paused: bool) -> None:
    annotations = {"other": "x"} if value is None else {"cachecluster.io/paused": value}
    assert pause_of({"metadata": {"annotations": annotations}}) == Pause(paused)
