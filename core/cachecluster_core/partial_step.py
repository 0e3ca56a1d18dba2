"""A decision about some partitions, put together with the one before it. Pure.

Most of what happens concerns one partition; to step all of them each time would cost an agent with hundreds of copies
the milliseconds that a hand-over has. What is to be done (marks, gates, commands) is that of the newer decision alone;
what holds until something else is said (report, messages, news, answers, asks) goes on for the other partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from .agent_view import AgentDecision, PromiseAsk
from .report import Report

Value = TypeVar("Value")


def continued(before: AgentDecision, after: AgentDecision, only: frozenset[int]) -> AgentDecision:
    """`after`, which was made about the partitions `only`, as if it had been about all."""
    return replace(
        after,
        report=_report(before.report, after.report, only),
        messages=(*(message for message in before.messages if message.partition not in only), *after.messages),
        news=_merged(before.news, after.news, only),
        answers=_merged(before.answers, after.answers, only),
        asks=_asks(before.asks, after.asks, only),
    )


def _merged(before: Mapping[int, Value], after: Mapping[int, Value], only: frozenset[int]) -> dict[int, Value]:
    return {partition: value for partition, value in before.items() if partition not in only} | dict(after)


def _asks(
    before: Mapping[str, Mapping[int, PromiseAsk]], after: Mapping[str, Mapping[int, PromiseAsk]], only: frozenset[int]
) -> dict[str, dict[int, PromiseAsk]]:
    both = {pod: _merged(before.get(pod, {}), after.get(pod, {}), only) for pod in before.keys() | after.keys()}
    return {pod: asks for pod, asks in both.items() if asks}


def _report(before: Report | None, after: Report | None, only: frozenset[int]) -> Report | None:
    if before is None or after is None:
        return after
    return replace(after, copies=_merged(before.copies, after.copies, only), entries=after.entries or before.entries)
