"""Runs the load generator of `make bench-router` (router_load.c), which is compiled when it is first needed."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = Path("build/bench/router-load")
FILL_PIPELINE = 128
END_S = 60.0
"""How much longer than asked for a turn may take, connecting included."""


class LoadFailed(RuntimeError):
    """A turn could not be measured: a connection ended, or an answer was not what it must be."""


class NothingAnswered(LoadFailed):
    """Not one request was answered in the turn: whoever was to answer is overloaded, or the machine is."""


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do: `command` is set, get or mget (of ten keys), `size` the bytes of a value."""

    command: str
    size: int
    pipeline: int
    clients: int
    rate: float = 0.0
    """Requests a second, at fixed times; 0: each client sends again when it has its answers."""

    @property
    def name(self) -> str:
        """As it stands in tables and in JSON."""
        rate = f" at {self.rate:.0f}/s" if self.rate else ""
        return f"{self.command} {self.size} B, pipeline {self.pipeline}, {self.clients} clients{rate}"


@dataclass(frozen=True, slots=True)
class Turn:
    """What was seen in one stretch of load. Times are microseconds; `cpu` is per request, of all processes named."""

    requests: int
    rate: float
    errors: int
    first_error: str
    cpu: float
    load_cpu: float
    p50: float
    p99: float
    p99_9: float


def program() -> Path:
    """The compiled generator. LoadFailed when there is no C compiler."""
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > SOURCE.stat().st_mtime:
        return PROGRAM
    compiler = shutil.which("cc")
    if compiler is None:
        raise LoadFailed("no C compiler (cc) to build the load generator: install gcc")
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", PROGRAM, SOURCE], check=True)
    return PROGRAM


def _command(targets: Iterable[str], *flags: str) -> list[str]:
    return [str(program()), *(flag for target in targets for flag in ("--target", target)), *flags]


def fill(targets: list[str], size: int) -> None:
    """Write every key that a load may ask for."""
    flags = ["--fill", "--clients", str(len(targets)), "--pipeline", str(FILL_PIPELINE), "--bytes", str(size)]
    done = subprocess.run(_command(targets, *flags), stderr=subprocess.PIPE, text=True, timeout=END_S, check=False)
    if done.returncode:
        raise LoadFailed(done.stderr.strip())


def measure(
    targets: list[str],
    load: Load,
    pids: Iterable[int],
    seconds: float,
    warm_up: float,
    meanwhile: Callable[[], None] | None = None,
) -> Turn:
    """One turn. `meanwhile` is called after it while its connections are still open.

    LoadFailed when it could not be done.
    """
    flags = ["--command", load.command, "--bytes", str(load.size), "--pipeline", str(load.pipeline)]
    flags += ["--clients", str(load.clients), "--seconds", str(seconds), "--warm-up", str(warm_up), "--hold"]
    flags += ["--rate", str(load.rate)] if load.rate else []
    flags += [flag for pid in pids for flag in ("--pid", str(pid))]
    child = subprocess.Popen(
        _command(targets, *flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdin is not None
    try:
        line = child.stdout.readline()
        if line and meanwhile is not None:
            meanwhile()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        child.stdin = None
        _, said = child.communicate(timeout=END_S)
    finally:
        child.kill()
        child.wait()
    if child.returncode or not line:
        raise LoadFailed(said.strip())
    return _turn(json.loads(line))


def _turn(seen: dict[str, float | str | list[float]]) -> Turn:
    requests, seconds = int(seen["requests"]), float(seen["seconds"])  # type: ignore[arg-type]
    if not requests:
        raise NothingAnswered("nothing was answered")
    cpu = seen["cpu_us"]
    assert isinstance(cpu, list)
    return Turn(
        requests=requests,
        rate=requests / seconds,
        errors=int(seen["errors"]),  # type: ignore[arg-type]
        first_error=str(seen["first_error"]),
        cpu=sum(cpu) / requests,
        load_cpu=float(seen["load_cpu_us"]) / requests,  # type: ignore[arg-type]
        p50=float(seen["p50_us"]),  # type: ignore[arg-type]
        p99=float(seen["p99_us"]),  # type: ignore[arg-type]
        p99_9=float(seen["p99_9_us"]),  # type: ignore[arg-type]
    )
