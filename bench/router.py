"""`make bench-router`: our router beside twemproxy, Envoy and the engine itself: CPU per request, latency, memory.

Everything runs at once on this machine and takes turns under the same load: three nodes of cachecluster-local with one
copy of each partition (once with 4 partitions, to be like for like with the three engines of the others, once with 16,
as shipped), twemproxy and Envoy over three bare engines, and those engines without a proxy. The CPU time is that of all
proxy processes, so of the routers of all three nodes and of both hops of a key that is another node's. A peer that is
not installed is left out, and the result says so. Without flags everything is measured, which takes an hour or
more; --quick takes about four minutes. Flags that pick may be repeated. What was not measured anew keeps its figures of
an earlier run in the result, so that the whole can be measured in pieces.

--metrics measures something else: our router beside the same one built without its metrics. The difference is less than
what rounds differ by, so it takes many of them (--rounds). --workers measures one node with one and with two router
processes. The figures of both have places of their own in the result.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import router_peers, router_table
from bench.router_hostile import beside_hostile
from bench.router_load import Load, LoadFailed, fill
from bench.router_parts import MEMORY_CLIENTS, closed, memory, open_load, say
from bench.router_subjects import (
    ABOUT,
    ANY,
    CLUSTER,
    DIRECT,
    ENVOY,
    METRICS,
    NAMES,
    TWEMPROXY,
    WORKERS,
    Subject,
    Subjects,
    end_on_signal,
)

from cachecluster_core.usage import UsageParser

RESULT = Path("build/bench/router.json")
EXIT_FAILED = 1
PARTS = ("closed", "open", "memory", "hostile")
COMMANDS, SIZES, PIPELINES, CLIENTS = ("set", "get", "mget"), (64, 1024), (1, 16), (50, 500)
ENGINES = ("valkey", "redis")
LEAST_ROUNDS = 5
OPEN_ROUNDS = 3
QUICK: dict[str, tuple[Any, ...]] = {
    "engine": ("valkey",),
    "part": ("closed",),
    "size": (64,),
    "clients": (50,),
    "subject": (ANY, CLUSTER, TWEMPROXY, ENVOY, DIRECT),
}
COST = QUICK | {"subject": METRICS, "command": ("set", "get")}
"""What --metrics picks."""
GROWTH = QUICK | {"subject": WORKERS}
"""What --workers picks."""


def _parser() -> argparse.ArgumentParser:
    parser = UsageParser(
        prog="bench.router",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument(
        "--quick",
        action="store_true",
        help="64 B, 50 clients, valkey, 4 partitions, closed load, unless other flags say so",
    )
    preset.add_argument("--metrics", action="store_true", help="the same, SET and GET, with metrics and without")
    preset.add_argument("--workers", action="store_true", help="the same, one node with one worker and with two")
    add("--engine", choices=ENGINES, action="append", help="default: both")
    add("--part", choices=PARTS, action="append", help="default: all")
    add("--subject", choices=tuple(ABOUT), action="append", help=f"default: {', '.join(NAMES)}")
    add("--command", choices=COMMANDS, action="append", help="of the closed part (default: all)")
    add("--size", type=_positive, action="append", help="bytes of a value, of the closed part (default: 64 and 1024)")
    add("--pipeline", type=_positive, action="append", help="requests in one write (default: 1 and 16)")
    add("--clients", type=_positive, action="append", help="of the closed part (default: 50 and 500)")
    add("--rounds", type=_positive, default=LEAST_ROUNDS, help=f"turns of each subject (default {LEAST_ROUNDS})")
    add("--open-rounds", type=_positive, default=OPEN_ROUNDS, help=f"of the open part (default {OPEN_ROUNDS})")
    add("--seconds", type=float, default=0.8, help="of a turn, but of the open part's (default 0.8)")
    add("--output", type=Path, default=RESULT, help=f"where the JSON goes (default {RESULT})")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, with defaults for what was not picked. SystemExit 64 when they make no sense."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if not 0.1 <= flags.seconds <= 60:
        parser.error(f"argument --seconds: {flags.seconds} is not between 0.1 and 60")
    if max(flags.pipeline or (1,)) > 1024:
        parser.error("argument --pipeline: at most 1024")
    if min(flags.clients or CLIENTS) < 3:
        parser.error("argument --clients: at least 3, one for each node")
    picks: dict[str, tuple[Any, ...]] = {"engine": ENGINES, "part": PARTS, "subject": NAMES, "command": COMMANDS}
    picks |= {"size": SIZES, "pipeline": PIPELINES, "clients": CLIENTS}
    picks |= QUICK if flags.quick else COST if flags.metrics else GROWTH if flags.workers else {}
    for name, default in picks.items():
        setattr(flags, name, tuple(dict.fromkeys(getattr(flags, name) or default)))
    return flags


class Result:
    """The JSON file: what was measured, and what an earlier run measured that this one does not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.data: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            self.data = json.loads(path.read_text())

    def put(self, figures: dict[str, Any], *keys: str) -> None:
        """Under these keys, in place of what stood there; written at once."""
        place = self.data
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = figures | {"measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self.write()

    def write(self) -> None:
        """The file, in one step."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(self.data, indent=1) + "\n")
        temporary.replace(self._path)


def machine() -> dict[str, Any]:
    """What the figures depend on, beside the code."""
    return {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}


def subjects_of(found: Subjects, names: Iterable[str], result: Result, engine: str) -> list[Subject]:
    """Those that can be had here; what is missing is said in the result."""
    running = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            running.append(found.get(name))
        except router_peers.Missing as error:
            missing[name] = str(error)
            say(f"without {name}: {error}")
    result.data.setdefault("missing", {})[engine] = missing
    return running


def run_closed(flags: argparse.Namespace, subjects: list[Subject], result: Result, engine: str) -> None:
    """All loads that were picked, ordered so that the keys are written anew for each size only."""
    for size in flags.size:
        for subject in subjects:
            fill(subject.fill_targets, size)
        for clients, pipeline, command in itertools.product(flags.clients, flags.pipeline, flags.command):
            load = Load(command, size, pipeline, clients)
            say(f"{engine}: {load.name}")
            figures = closed(subjects, load, flags.rounds, flags.seconds)
            place = "metrics" if flags.metrics else "workers" if flags.workers else "closed"
            result.put(figures, place, engine, load.name)
            router_table.write_closed(f"{engine}, {load.name}", figures)


def run_engine(flags: argparse.Namespace, engine: str, result: Result) -> None:
    """Every part that was picked, on one engine."""
    with tempfile.TemporaryDirectory(prefix="bench-router-") as directory, contextlib.ExitStack() as stack:
        subjects = subjects_of(Subjects(engine, Path(directory), stack), flags.subject, result, engine)
        if "closed" in flags.part:
            run_closed(flags, subjects, result, engine)
        if "open" in flags.part:
            for subject in subjects:
                fill(subject.fill_targets, SIZES[0])
            figures = open_load(subjects, flags.pipeline, flags.open_rounds)
            for name, seen in figures.items():
                result.put(seen, "open", engine, name)
            router_table.write_open(engine, figures)
        if "memory" in flags.part:
            for subject in subjects:
                fill(subject.fill_targets, SIZES[0])
            figures = memory([subject for subject in subjects if subject.name != DIRECT])
            result.put(figures, "memory KiB", engine)
            router_table.write_memory(engine, figures, MEMORY_CLIENTS)
        if "hostile" in flags.part:
            plain = [subject for subject in subjects if subject.takes_every_key]
            for subject in plain:
                fill(subject.fill_targets, SIZES[0])
            for kind, figures in beside_hostile(plain, flags.rounds, flags.seconds).items():
                result.put(figures, "hostile", engine, kind)
                router_table.write_hostile(engine, kind, figures)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write the JSON. Exits 64 on bad flags, 1 when something could not be measured."""
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    end_on_signal()
    result = Result(flags.output)
    result.data |= {"machine": machine(), "subjects": ABOUT}
    try:
        for engine in flags.engine:
            run_engine(flags, engine, result)
    except (LoadFailed, RuntimeError, OSError) as error:
        sys.stderr.write(f"bench.router: {error}\n")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("bench.router: stopped; what was measured by then is in the result\n")
        sys.exit(EXIT_FAILED)
    result.write()


if __name__ == "__main__":
    main()
