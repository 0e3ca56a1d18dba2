"""What is done to pods while decisions go on: each action once, and pods never created by two decisions at a time."""

from __future__ import annotations

import asyncio

import pytest
from tests.waiting import until

from cachecluster_core.operator_view import CreatePod, DeletePod, Pod
from cachecluster_operator.pod_actions import REPEAT_S, PodActions

pytestmark = pytest.mark.t0


class SlowPods:
    """PodControl that notes what it is asked for and ends each when told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = asyncio.Event()

    def pods(self) -> tuple[Pod, ...]:
        return ()

    async def create(self, number: int) -> None:
        self.asked.append(f"create {number}")
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
