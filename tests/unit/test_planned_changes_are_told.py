"""Planned changes as status, events and estimates tell them, from the snapshots of a control loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_core.operator_view import Pod, PodView, Suspicion
from cachecluster_core.report import CopyReport, Process, Report
from cachecluster_core.spec import parse_spec
from cachecluster_operator.capacity import Holdings
from cachecluster_operator.change_track import Change, ChangeTrack
from cachecluster_operator.findings import Finding
from cachecluster_operator.in_effect import InEffect, in_effect
from cachecluster_operator.progressing import progressing
from cachecluster_operator.snapshot import ClusterSnapshot
from cachecluster_operator.status_figures import Known, entries_of

pytestmark = pytest.mark.t0

MB = 1_000_000
PARTITIONS = 4
USED = 100 * MB


@dataclass
class Story:
    """A cluster of nodes by their numbers, told snapshot by snapshot. `on[p]` are the pods with a copy of partition p,
    the primary's first; `filling[p]` the one that gets a copy, with how much of it."""

    nodes: int = 3
    pods: dict[int, Pod] = field(default_factory=dict)
    on: list[list[int]] = field(default_factory=lambda: [[0, 1], [1, 2], [2, 0], [0, 1]])
    filling: dict[int, tuple[int, int]] = field(default_factory=dict)
    leaving: set[int] = field(default_factory=set)
    moving: set[int] = field(default_factory=set)
    now: float = 100.0
    troubles: tuple[str, ...] = ()
    waiting_for: tuple[str, ...] = ()
    track: ChangeTrack = field(default_factory=ChangeTrack)
    events: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.add(*range(self.nodes))

    def add(self, *numbers: int, ready: bool = True) -> None:
        for number in numbers:
            self.pods[number] = Pod(f"uid-{number}", f"demo-{number}", f"10.0.0.{number}", ready=ready)

    def change(self, *numbers: int, **changes: bool) -> None:
        for number in numbers:
            self.pods[number] = replace(self.pods[number], **changes)

    def tell(self, seconds: float = 1.0) -> Finding:
        """The next snapshot; what Progressing says then."""
        self.now += seconds
        snapshot = self._snapshot()
        self.events += [(event.reason, event.note) for event in self.track.observe(snapshot)]
        known = Known(
            generation=1,
            selector="s",
            effect=self._effect(),
            pods=snapshot.pods,
            pod_troubles=self.troubles,
            snapshot=snapshot,
            progress=self.track.progress,
        )
        return progressing(known, entries_of(known))

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events]

    def _effect(self) -> InEffect:
        spec = parse_spec({"nodes": self.nodes, "memory": "1Gi", "partitions": PARTITIONS})
        return in_effect(spec, [], Holdings())

    def _snapshot(self) -> ClusterSnapshot:
        desired = self._effect().desired
        members = tuple(
            (p.uid, Member(p.name, p.host, leaving=n in self.leaving)) for n, p in sorted(self.pods.items())
        )
        entries = tuple(self._entry(partition, on) for partition, on in enumerate(self.on))
        agents = {pod.uid: PodView(self._report(number), self.now, Suspicion.NONE) for number, pod in self.pods.items()}
        return ClusterSnapshot(
            name="demo",
            now=self.now,
            desired=desired,
            map=HashRing("demo", members, entries, desired.settings),
            map_known=True,
            pods=tuple(self.pods.values()),
            agents=agents,
            waiting_for=self.waiting_for,
        )

    def _entry(self, partition: int, on: Sequence[int]) -> Entry:
        copies = [CopyId(f"uid-{number}", f"run-{number}") for number in on]
        learners = (f"uid-{self.filling[partition][0]}",) if partition in self.filling else ()
        moving = partition in self.moving
        return Entry(
            epoch=3,
            state=State.MOVING if moving else State.STABLE,
            primary=copies[0],
            isr=tuple(sorted(copies)),
            learners=learners,
            successor=copies[1] if moving else None,
            term=2,
        )

    def _report(self, number: int) -> Report:
        copies = {
            partition: CopyReport(process=Process.UP, run_id=f"run-{number}", used_memory=USED)
            for partition, on in enumerate(self.on)
            if number in on
        }
        for partition, (pod, size) in self.filling.items():
            if pod == number:
                copies[partition] = CopyReport(process=Process.UP, run_id="new", used_memory=size)
        return Report(f"uid-{number}", "i", copies=copies)


def test_nothing_is_going_on() -> None:
    story = Story()
    assert story.tell() == Finding("Progressing", False, "Complete", "nothing is being changed")
    story.tell()
    assert story.events == []


def test_a_roll_from_its_first_pod_to_its_last() -> None:
    story = Story()
    story.tell()
    story.change(0, 1, 2, outdated=True)
    told = story.tell()
    assert (told.holds, told.reason) == (True, "Rolling")
    assert "0 of 3 pods are made from the new template" in told.message
    assert "demo-0, demo-1, demo-2 wait" in told.message
    story.leaving.add(2)
    story.add(3, ready=False)
    story.tell()
    story.change(3, ready=True)
    assert "moved 0 of 2 partitions off demo-2; demo-0, demo-1 wait" in story.tell().message
    story.on[2] = [0, 3]
    assert "moved 1 of 2 partitions off demo-2" in story.tell().message
    story.on[1] = [1, 3]
    story.tell()
    del story.pods[2]
    story.leaving.clear()
    assert "1 of 3 pods are made from the new template" in story.tell().message
    story.change(0, 1, outdated=False)
    story.tell()
    assert story.tell().reason == "Complete"
    assert story.reasons() == ["RollStarted", "PodReplaced", "PodEmptied", "RollCompleted"]
    assert story.events[1][1].startswith("demo-3 is ready")


def test_a_scale_in_empties_pods() -> None:
    story = Story(nodes=4, on=[[0, 1], [1, 2], [2, 3], [3, 0]])
    story.tell()
    story.nodes = 3
    story.leaving.add(3)
    told = story.tell()
    assert told.reason == "ScalingIn"
    assert "3 nodes are wanted, 4 are there; moved 0 of 2 partitions off demo-3" in told.message
    story.on[2:] = [[2, 1], [0, 2]]
    story.tell()
    del story.pods[3]
    story.leaving.clear()
    story.tell()
    assert story.tell().reason == "Complete"
    assert story.reasons() == ["ScalingIn", "PodEmptied", "ScalingCompleted"]


def test_a_scale_out_goes_on_until_copies_are_spread() -> None:
    story = Story()
    story.tell()
    story.nodes = 4
    assert "4 nodes are wanted, 3 are there" in story.tell().message
    story.add(3)
    told = story.tell()
    assert told.reason == "ScalingOut" and "2 copies are to be filled" in told.message
    story.on[0], story.on[3] = [0, 3], [3, 1]
    story.tell()
    assert story.tell().reason == "Complete"
    assert story.reasons() == ["ScalingOut", "ScalingCompleted"]


def test_copies_that_stay_uneven_are_not_waited_for_for_ever() -> None:
    story = Story()
    story.tell()
    story.nodes = 4
    story.tell()
    story.add(3)
    story.tell()
    assert story.tell(seconds=20).reason == "ScalingOut"
    assert story.tell(seconds=20).reason == "Complete"


def test_bytes_are_counted_and_the_rest_is_guessed_from_the_rate() -> None:
    story = Story(on=[[0], [1, 2], [2, 0], [0, 1]])
    story.filling[0] = (1, 0)
    assert "0 of 100 MB copied" in story.tell().message
    for percent in (10, 20, 30, 40):
        story.filling[0] = (1, percent * MB)
        told = story.tell()
    assert told.reason == "Repairing"
    assert "1 copy is to be filled; 40 of 100 MB copied, about 6 s left" in told.message
    story.filling.clear()
    story.on[0] = [0, 1]
    assert story.tell().reason == "Complete"


def test_no_guess_is_made_before_there_is_a_rate() -> None:
    story = Story(on=[[0], [1, 2], [2, 0], [0, 1]])
    story.filling[0] = (1, 50 * MB)
    assert "left" not in story.tell().message
    for _ in range(10):
        assert "left" not in story.tell().message, "nothing was copied"


def test_a_roll_that_is_held_up_says_by_what() -> None:
    story = Story()
    story.tell()
    story.change(0, 1, 2, outdated=True)
    story.troubles = ("demo-3, container redis: ImagePullBackOff no such image",)
    assert "held up: demo-3, container redis: ImagePullBackOff no such image" in story.tell().message
    story.troubles = ()
    story.waiting_for = ("demo-1 to report",)
    assert "waiting for demo-1 to report" in story.tell().message


def test_a_hand_over_for_balance_is_rebalancing() -> None:
    story = Story()
    story.tell()
    story.moving = {1, 2}
    assert story.tell() == Finding("Progressing", True, "Rebalancing", "handing over partitions 1-2")


def test_a_missing_pod_is_repaired() -> None:
    story = Story()
    story.tell()
    del story.pods[2]
    told = story.tell()
    assert told.reason == "Repairing" and "1 of 3 pods are missing" in told.message
    assert story.track.progress.change is Change.NONE


def test_what_was_there_before_this_operator_is_no_event() -> None:
    story = Story()
    story.change(0, 1, 2, outdated=True)
    assert story.tell().reason == "Rolling"
    assert story.events == []
