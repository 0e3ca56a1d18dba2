"""The three measurements of `make bench-router`: closed load, open load at fixed rates, memory.

Subjects take turns of about a second, in an order that moves on from round to round, so that what else the machine does
falls on all of them. Figures are medians of the rounds; ratios are medians of the ratios within each round.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from bench.router_load import Load, LoadFailed, NothingAnswered, Turn, measure
from bench.router_subjects import DIRECT, ENVOY, ONE_WORKER, TWEMPROXY, TWO_WORKERS, UNCOUNTED, Subject, memory_kib

WARM_UP_S = 0.2
P99_LIMIT_US = 2000.0
RATES = tuple(round(5000 * 1.1**step, -2) for step in range(59))
"""Requests a second that the search for the highest one looks at: 5,000 to 1.3 million, each a tenth above the last."""
FIXED_RATES = {1: (5000, 20000), 16: (20000, 100000)}
"""Requests a second at which latencies are shown, by pipeline."""
LEAST_SHARE = 0.98
"""Of the requests that were due, those that must be answered for a rate to count as kept."""
OPEN_CLIENTS = 50
OPEN_TURN_S = 0.3
OPEN_TURNS = 5
"""A rate is kept when one of so many turns keeps it, and a latency is that of the quietest of so many in a round. Where
a machine takes a process off its core for milliseconds now and then, most turns of any subject have a p99 of that."""
MEMORY_CLIENTS = (500, 5000)
SETTLE_S = 1.0


def say(text: str) -> None:
    """Progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def in_turns(subjects: Sequence[Subject], rounds: int) -> Iterator[tuple[int, Subject]]:
    """Every subject in every round; the first of a round is the second of the one before."""
    for number in range(rounds):
        for place in range(len(subjects)):
            yield number, subjects[(place + number) % len(subjects)]


def median(values: Iterable[float], digits: int = 2) -> float:
    """The middle one, to so many digits behind the point."""
    return round(statistics.median(values), digits)


def turn_of(subject: Subject, load: Load, seconds: float) -> Turn:
    """One turn, and another one when the machine stood still in the first."""
    try:
        return measure(subject.targets, load, subject.pids, seconds, WARM_UP_S)
    except NothingAnswered as error:
        say(f"{subject.name}: {error}: once more")
        return measure(subject.targets, load, subject.pids, seconds, WARM_UP_S)


def closed(subjects: Sequence[Subject], load: Load, rounds: int, seconds: float) -> dict[str, Any]:
    """Every subject under a load: figures by its name."""
    turns: dict[str, list[Turn]] = {subject.name: [] for subject in subjects}
    for _, subject in in_turns(subjects, rounds):
        turns[subject.name].append(turn_of(subject, load, seconds))
    return {name: figures_of(seen) | _ratios(name, turns) for name, seen in turns.items()}


def figures_of(turns: list[Turn]) -> dict[str, Any]:
    """Medians of some turns under one load."""
    figures: dict[str, Any] = {
        "cpu us": median(turn.cpu for turn in turns),
        "cpu us by round": [round(turn.cpu, 2) for turn in turns],
        "requests/s": round(statistics.median(turn.rate for turn in turns)),
        "p50 us": median(turn.p50 for turn in turns),
        "p99 us": median(turn.p99 for turn in turns),
        "p99.9 us": median(turn.p99_9 for turn in turns),
        "load generator cpu us": median(turn.load_cpu for turn in turns),
    }
    if errors := sum(turn.errors for turn in turns):
        figures |= {"errors": errors, "first error": next(turn.first_error for turn in turns if turn.errors)}
    return figures


def _ratios(name: str, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """CPU per request over that of each peer in the same round, and over that of the same router without metrics;
    requests a second over those of one worker."""
    peers = {"twemproxy": TWEMPROXY, "envoy": ENVOY, "direct": DIRECT, "uncounted": name + UNCOUNTED}
    found: dict[str, Any] = {}
    for peer, of in peers.items():
        if of in turns:
            ratios = [own.cpu / other.cpu for own, other in zip(turns[name], turns[of], strict=True)]
            found[f"cpu / {peer}"] = median(ratios, 3)
            if peer == "uncounted":
                found["95 %"] = "{:.3f} to {:.3f}".format(*sure_of_median(ratios))
    if name.endswith(TWO_WORKERS) and (one := name.removesuffix(TWO_WORKERS) + ONE_WORKER) in turns:
        ratios = [own.rate / other.rate for own, other in zip(turns[name], turns[one], strict=True)]
        found["requests/s / 1 worker"] = median(ratios)
    return found


def sure_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Between which of these values the true median lies with a probability of about 95 %, however they scatter."""
    ranked = sorted(values)
    rank = max(0, round((len(ranked) - 1.96 * math.sqrt(len(ranked))) / 2) - 1)
    return ranked[rank], ranked[-1 - rank]


def open_load(subjects: Sequence[Subject], pipelines: Iterable[int], rounds: int) -> dict[str, Any]:
    """Latencies at fixed rates, and the highest rate at which p99 stays below the limit."""
    found: dict[str, Any] = {}
    for pipeline in pipelines:
        load = Load("get", 64, pipeline, OPEN_CLIENTS)
        for rate in FIXED_RATES.get(pipeline, ()):
            asked = replace(load, rate=float(rate))
            say(f"open: {asked.name}")
            found[asked.name] = _at_rate(subjects, asked, rounds)
        highest: dict[str, list[float]] = {subject.name: [] for subject in subjects}
        for number, subject in in_turns(subjects, rounds):
            highest[subject.name].append(highest_rate(subject, load))
            say(f"open: pipeline {pipeline}, round {number + 1}, {subject.name}: {highest[subject.name][-1]:.0f}/s")
        found[f"highest rate, pipeline {pipeline}"] = {
            name: {"requests/s": statistics.median(rates), "by round": rates} for name, rates in highest.items()
        }
    return found


def _at_rate(subjects: Sequence[Subject], load: Load, rounds: int) -> dict[str, Any]:
    quietest: dict[str, list[Turn]] = {subject.name: [] for subject in subjects}
    for _, subject in in_turns(subjects, rounds):
        turns = [turn_of(subject, load, OPEN_TURN_S) for _ in range(OPEN_TURNS)]
        quietest[subject.name].append(min(turns, key=lambda turn: turn.p99))
    figures = {name: figures_of(seen) for name, seen in quietest.items()}
    if DIRECT in figures:
        for name, seen in quietest.items():
            added = [own.p99 - other.p99 for own, other in zip(seen, quietest[DIRECT], strict=True)]
            figures[name]["p99 us added"] = median(added)
    return figures


def keeps(subject: Subject, load: Load) -> bool:
    """Does p99 stay below the limit at this rate?"""
    for _ in range(OPEN_TURNS):
        try:
            turn = measure(subject.targets, load, subject.pids, OPEN_TURN_S, WARM_UP_S)
        except NothingAnswered:
            continue
        if turn.p99 < P99_LIMIT_US and turn.rate > LEAST_SHARE * load.rate:
            return True
    return False


def highest_rate(subject: Subject, load: Load) -> float:
    """By bisection of RATES; 0 when it keeps none."""
    low, high = -1, len(RATES)
    while high - low > 1:
        middle = (low + high) // 2
        if keeps(subject, replace(load, rate=RATES[middle])):
            low = middle
        else:
            high = middle
    return RATES[low] if low >= 0 else 0.0


def memory(subjects: Sequence[Subject]) -> dict[str, Any]:
    """Resident memory (KiB) before, with so many clients of which each asks about once a second, and after."""
    found: dict[str, Any] = {}
    for subject in subjects:
        figures: dict[str, int] = {"before": memory_kib(subject.pids)}
        for clients in MEMORY_CLIENTS:
            say(f"memory: {subject.name}, {clients} clients")
            seen: list[int] = []
            load = Load("get", 64, 1, clients, rate=float(clients))
            try:
                measure(subject.targets, load, subject.pids, 2.0, 0.5, lambda: seen.append(memory_kib(subject.pids)))  # noqa: B023
            except LoadFailed as error:
                say(f"memory: {subject.name}: {error}")
                continue
            figures[f"{clients} clients"] = seen[0]
        time.sleep(SETTLE_S)
        figures["after"] = memory_kib(subject.pids)
        found[subject.name] = figures
    return found
