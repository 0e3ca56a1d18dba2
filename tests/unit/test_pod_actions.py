"""What is done to pods while decisions go on: each action once, pods never created by two decisions at a time, and
refusals told once."""

from __future__ import annotations

import asyncio

import pytest
from tests.waiting import until

from cachecluster_core.operator_view import CreatePod, DeletePod, Pod
from cachecluster_operator.pod_actions import REFUSALS_TOLD, REPEAT_S, PodActions
from cachecluster_operator.ports import PodRefused

pytestmark = pytest.mark.t0


class SlowPods:
    """PodControl that notes what it is asked for and ends each when told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.refusal = ""

    def pods(self) -> tuple[Pod, ...]:
        return ()

    async def create(self, number: int) -> None:
        self.asked.append(f"create {number}")
        if self.refusal:
            raise PodRefused(self.refusal.format(number))
        await self.go_on.wait()

    async def delete(self, uid: str, name: str, reason: str) -> None:
        self.asked.append(f"delete {name}")

    async def mark_not_ready(self, uid: str, name: str) -> None:
        self.asked.append(f"hide {name}")


async def test_a_pod_being_made_is_not_made_again_under_a_number_that_has_become_free() -> None:
    pods, now, done = SlowPods(), 0.0, 0

    def on_done() -> None:
        nonlocal done
        done += 1

    actions = PodActions(pods, lambda: now, on_done)
    actions.carry_out([CreatePod(2), CreatePod(3)])
    await until(lambda: len(pods.asked) == 2)
    actions.carry_out([CreatePod(0), DeletePod("uid", "demo-1", "it failed")])
    await until(lambda: len(pods.asked) == 3)
    pods.go_on.set()
    await until(lambda: done == 3)
    actions.carry_out([CreatePod(0)])
    assert pods.asked == ["create 2", "create 3", "delete demo-1"]
    now = REPEAT_S
    actions.carry_out([CreatePod(0)])
    await until(lambda: "create 0" in pods.asked)
    await actions.stop()


class Trying:
    """`PodActions` on pods that are refused, and the clock that they go by."""

    def __init__(self) -> None:
        self.pods = SlowPods()
        self.pods.go_on.set()
        self.now = 0.0
        self.ended = 0
        self.actions = PodActions(self.pods, lambda: self.now, self._on_done)

    def _on_done(self) -> None:
        self.ended += 1

    async def create(self, number: int, refusal: str = "") -> list[str]:
        """The refusals that are told after another try."""
        self.pods.refusal = refusal
        self.now += REPEAT_S
        before = self.ended
        self.actions.carry_out([CreatePod(number)])
        await until(lambda: self.ended > before)
        events = self.actions.take_events()
        assert all(event.warning and event.reason == "FailedCreate" for event in events)
        return [event.note for event in events]


async def test_a_refusal_is_kept_until_a_pod_is_made_and_told_once_whatever_the_numbers_in_it() -> None:
    trying = Trying()
    assert await trying.create(3, "demo-{} over quota, used 3") == ["demo-3 over quota, used 3"]
    assert await trying.create(4, "demo-{} over quota, used 4") == []
    assert trying.actions.refusal == "demo-4 over quota, used 4"
    assert await trying.create(4, "no PriorityClass") == ["no PriorityClass"]
    assert await trying.create(4) == [] and trying.actions.refusal == ""
    assert await trying.create(5, "demo-{} over quota, used 5") == []


async def test_a_refusal_is_forgotten_when_no_pod_is_wanted_any_more() -> None:
    trying = Trying()
    await trying.create(3, "over quota")
    trying.actions.carry_out([])
    assert trying.actions.refusal == ""
    assert await trying.create(3, "over quota") == ["over quota"]


async def test_refusals_that_are_always_worded_otherwise_are_not_told_for_ever() -> None:
    trying = Trying()
    told = [note for tries in range(1, 2 * REFUSALS_TOLD) for note in await trying.create(0, "x" * tries)]
    assert len(told) == REFUSALS_TOLD
