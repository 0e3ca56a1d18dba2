"""The measuring tool of the router: what it counts, and that it says what went wrong."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import router, router_hostile, router_parts, router_table, uncounted
from bench.router_load import Load, NothingAnswered, Turn
from bench.router_peers import Missing
from bench.router_subjects import Subject


def turn(cpu: float = 1.0, rate: float = 1000.0, p99: float = 100.0) -> Turn:
    return Turn(1000, rate, 0, "", cpu, 1.0, 50.0, p99, 2 * p99)


def measured(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Turns are made up: answer(subject's first target, load)."""
    monkeypatch.setattr(router_parts, "measure", lambda targets, load, *_: answer(targets[0], load))


@pytest.mark.t0
@pytest.mark.parametrize(
    "flags",
    [
        ["--engine", "other"],
        ["--clients", "2"],
        ["--size", "0"],
        ["--seconds", "0"],
        ["--quick", "--metrics"],
        ["--metrics", "--workers"],
        ["--nonsense"],
        ["word"],
    ],
)
def test_bad_flags_end_with_64(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        router.parse(flags)
    assert ended.value.code == 64


@pytest.mark.t0
def test_a_quick_run_is_one_part_of_one_engine_and_takes_more_flags() -> None:
    flags = router.parse(["--quick", "--command", "get", "--rounds", "7"])
    assert (flags.engine, flags.part, flags.command, flags.rounds) == (("valkey",), ("closed",), ("get",), 7)


@pytest.mark.t0
def test_the_router_without_metrics_is_measured_only_when_asked_for() -> None:
    assert not [name for name in router.parse([]).subject if "uncounted" in name]
    assert router.parse(["--subject", "any-uncounted"]).subject == ("any-uncounted",)
    flags = router.parse(["--metrics", "--pipeline", "1"])
    assert set(flags.subject) == {"any", "any-uncounted", "cluster", "cluster-uncounted"}
    assert (flags.part, flags.command, flags.size, flags.clients) == (("closed",), ("set", "get"), (64,), (50,))


@pytest.mark.t0
def test_everything_that_counts_is_found_in_the_router_and_taken_out() -> None:
    before = uncounted.sources()
    after = uncounted.without_metrics(before)
    lines = [line for text in after.values() for line in text.splitlines()]
    assert len(lines) == sum(len(text.splitlines()) for text in before.values())
    assert not [line for line in lines if "counters." in line and "+=" in line]
    assert [line for line in lines if "self.requests += 1" in line]


@pytest.mark.t0
@pytest.mark.parametrize("pattern", uncounted.REMOVED)
def test_a_router_that_counts_in_other_words_is_not_measured(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncounted, "REMOVED", {f"{pattern} in other words": "pass"})
    with pytest.raises(uncounted.NothingToRemove, match="other words"):
        uncounted.without_metrics(uncounted.sources())


@pytest.mark.t0
def test_a_router_that_does_not_run_the_copy_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="does not run the copy"):
        uncounted.require_copy([os.getpid()])


@pytest.mark.t0
def test_a_run_of_one_part_keeps_the_figures_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "router.json"
    router.Result(path).put({"any": {"cpu us": 1.0}}, "closed", "valkey", "get")
    router.Result(path).put({"any": {"cpu us": 2.0}}, "closed", "redis", "get")
    figures = json.loads(path.read_text())["closed"]
    assert {engine: seen["get"]["any"]["cpu us"] for engine, seen in figures.items()} == {"valkey": 1.0, "redis": 2.0}


@pytest.mark.t0
def test_ratios_compare_turns_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"any": iter([2.0, 20.0, 3.0]), "twemproxy": iter([1.0, 10.0, 3.0])}
    measured(monkeypatch, lambda target, _: turn(cpu=next(costs[target])))
    figures = router_parts.closed([Subject(name, [name], []) for name in costs], Load("get", 64, 1, 50), 3, 1.0)
    assert figures["any"]["cpu / twemproxy"] == 2.0
    assert figures["any"]["cpu us"] == 3.0


@pytest.mark.t0
def test_a_router_is_compared_with_itself_without_metrics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {"any-uncounted": iter([1.0, 10.0, 2.0]), "any": iter([1.02, 10.3, 2.01]), "cluster": iter([1.0, 1.0, 1.0])}
    measured(monkeypatch, lambda target, _: turn(cpu=next(costs[target])))
    figures = router_parts.closed([Subject(name, [name], []) for name in costs], Load("get", 64, 1, 50), 3, 1.0)
    assert {name: seen.get("cpu / uncounted") for name, seen in figures.items()} == {
        "any-uncounted": None,
        "any": 1.02,
        "cluster": None,
    }
    router_table.write_closed("a load", figures)
    table = capsys.readouterr().out
    assert "cpu / uncounted" in table and "1.005 to 1.030" in table and "cpu / twemproxy" not in table


@pytest.mark.t0
def test_what_a_second_worker_brings_is_measured_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert router.parse(["--workers"]).subject == ("any-1-worker", "any-2-workers")
    rates = {"any-1-worker": iter([100.0, 10.0, 50.0]), "any-2-workers": iter([150.0, 15.0, 50.0])}
    measured(monkeypatch, lambda target, _: turn(rate=next(rates[target])))
    figures = router_parts.closed([Subject(name, [name], []) for name in rates], Load("get", 64, 1, 50), 3, 1.0)
    assert figures["any-2-workers"]["requests/s / 1 worker"] == 1.5


@pytest.mark.t0
def test_the_median_of_more_rounds_is_surer() -> None:
    assert router_parts.sure_of_median([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert router_parts.sure_of_median([float(number) for number in range(100)]) == (39.0, 60.0)


@pytest.mark.t0
def test_the_highest_rate_is_the_last_that_keeps_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = router_parts.RATES[17]
    measured(monkeypatch, lambda _, load: turn(rate=load.rate, p99=1999.0 if load.rate <= limit else 2001.0))
    subject, load = Subject("any", ["any"], []), Load("get", 64, 1, 50)
    assert router_parts.highest_rate(subject, load) == limit
    measured(monkeypatch, lambda _, load: turn(rate=0.9 * load.rate))
    assert router_parts.highest_rate(subject, load) == 0.0


@pytest.mark.t0
def test_the_quietest_turns_show_what_a_proxy_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    tails = {"any": itertools.cycle([900.0, 5000.0, 700.0, 800.0]), "direct": itertools.cycle([9000.0, 500.0, 600.0])}
    measured(monkeypatch, lambda target, load: turn(rate=load.rate, p99=next(tails[target])))
    figures = router_parts.open_load([Subject(name, [name], []) for name in tails], [16], 3)
    seen = figures["get 64 B, pipeline 16, 50 clients at 20000/s"]
    assert (seen["any"]["p99 us"], seen["any"]["p99 us added"]) == (700.0, 200.0)


@pytest.mark.t0
def test_what_a_hostile_client_adds_is_seen_beside_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[str] = []
    monkeypatch.setattr(router_hostile, "hostile_client", lambda kind, _: here.append(kind) or contextlib.nullcontext())
    measured(monkeypatch, lambda *_: turn(p99=300.0 if here[-1] == "flood" else 100.0))
    figures = router_hostile.beside_hostile([Subject("any", ["any"], [])], 2, 1.0)
    added = {kind: seen["any"]["p99 us added"] for kind, seen in figures.items()}
    assert added == {kind: 200.0 if kind == "flood" else 0.0 for kind in ("nobody", *router_hostile.KINDS)}


@pytest.mark.t0
def test_a_turn_without_any_answer_is_a_rate_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> Turn:
        raise NothingAnswered("nothing was answered")

    monkeypatch.setattr(router_parts, "measure", nothing)
    assert router_parts.highest_rate(Subject("any", ["any"], []), Load("get", 64, 1, 50)) == 0.0


@pytest.mark.t0
def test_a_peer_that_is_not_installed_is_left_out_and_the_result_says_so(tmp_path: Path) -> None:
    class Found:
        def get(self, name: str) -> Subject:
            if name == "envoy":
                raise Missing("envoy is not on PATH: install it")
            return Subject(name, [name], [])

    found: Any = Found()
    result = router.Result(tmp_path / "router.json")
    running = router.subjects_of(found, ["any", "envoy"], result, "valkey")
    result.write()
    assert [subject.name for subject in running] == ["any"]
    missing = json.loads((tmp_path / "router.json").read_text())["missing"]
    assert missing == {"valkey": {"envoy": "envoy is not on PATH: install it"}}


@pytest.mark.t0
def test_what_is_missing_is_said_and_ends_with_1(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "bench.router", "--quick", "--engine", "redis", "--output", str(tmp_path / "json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "install s6" in done.stderr and "Traceback" not in done.stderr
