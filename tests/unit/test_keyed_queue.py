"""The keyed queue: coalescing, one worker a key, retries with back-off, dates. Time is looptime's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cachecluster_operator.keyed_queue import KeyedQueue

pytestmark = [pytest.mark.t0, pytest.mark.looptime]


class Work:
    """Notes when which key was worked on; fails or asks for another date when told to."""

    def __init__(self) -> None:
        self.runs: list[tuple[float, str]] = []
        self.running: set[str] = set()
        self.takes_s = 0.0
        self.failures = 0
        self.again_s: float | None = None

    async def __call__(self, key: str) -> float | None:
        assert key not in self.running, "one key is never worked on twice at once"
        self.running.add(key)
        self.runs.append((round(asyncio.get_running_loop().time(), 3), key))
        await asyncio.sleep(self.takes_s)
        self.running.discard(key)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not now")
        again, self.again_s = self.again_s, None
        return again


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def queue(work: Work) -> AsyncIterator[KeyedQueue[str]]:
    queue = KeyedQueue(work, "test", first_retry_s=0.2, max_retry_s=1.0, expected=(RuntimeError,))
    task = asyncio.create_task(queue.run(workers=2))
    await asyncio.sleep(0)
    yield queue
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_added_often_is_worked_on_once(queue: KeyedQueue[str], work: Work) -> None:
    for _ in range(100):
        queue.add("a")
    await asyncio.sleep(1)
    assert work.runs == [(0, "a")]


async def test_a_key_added_while_it_is_worked_on_is_worked_on_again(queue: KeyedQueue[str], work: Work) -> None:
    work.takes_s = 1.0
    queue.add("a")
    await asyncio.sleep(0.5)
    for _ in range(10):
        queue.add("a")
    await asyncio.sleep(5)
    assert work.runs == [(0, "a"), (1, "a")]


async def test_keys_are_worked_on_side_by_side(queue: KeyedQueue[str], work: Work) -> None:
    work.takes_s = 1.0
    for key in "abc":
        queue.add(key)
    await asyncio.sleep(5)
    assert work.runs == [(0, "a"), (0, "b"), (1, "c")]


async def test_failures_are_retried_ever_more_slowly(queue: KeyedQueue[str], work: Work) -> None:
    work.failures = 5
    queue.add("a")
    await asyncio.sleep(30)
    assert [at for at, _ in work.runs] == [0, 0.2, 0.6, 1.4, 2.4, 3.4]
    work.failures = 1
    queue.add("a")
    await asyncio.sleep(1)
    assert [at for at, _ in work.runs][-2:] == [30, 30.2], "after a success it starts from the beginning"


async def test_news_is_worked_on_at_once_although_a_retry_is_due_later(queue: KeyedQueue[str], work: Work) -> None:
    work.failures = 4
    queue.add("a")
    await asyncio.sleep(1.5)
    queue.add("a")
    await asyncio.sleep(0)
    assert work.runs[-1] == (1.5, "a")


async def test_work_may_ask_for_a_date(queue: KeyedQueue[str], work: Work) -> None:
    work.again_s = 7.0
    queue.add("a")
    await asyncio.sleep(20)
    assert work.runs == [(0, "a"), (7, "a")]


async def test_the_earliest_date_stands(queue: KeyedQueue[str], work: Work) -> None:
    queue.add_after("a", 5)
    queue.add_after("a", 2)
    queue.add_after("a", 9)
    await asyncio.sleep(20)
    assert work.runs == [(2, "a")]


async def test_a_forgotten_key_loses_its_date(queue: KeyedQueue[str], work: Work) -> None:
    queue.add_after("a", 5)
    queue.forget("a")
    await asyncio.sleep(20)
    assert work.runs == []
