"""Waiting for a condition of the outside world that tells nobody when it changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PERIOD_S = 0.005


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Until it holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(PERIOD_S)


def wait_until(condition: Callable[[], object], seconds: float, what: str, period_s: float = 0.02) -> float:
    """The same for tests without a loop; returns the seconds it took. TimeoutError names `what`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(period_s)
    return time.monotonic() - began
