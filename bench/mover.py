"""A `cachecluster-local` that hands primaries over on its own, one after the other, and says when each began and ended.

Run by `bench/move.py`. One JSON line on standard output when it is ready and one for every hand-over; `begun` and
`ended` are seconds of CLOCK_MONOTONIC, the same in all processes of a machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cachecluster_core.hashring import Entry, State
from cachecluster_core.operator_step import OperatorDecision, OperatorView, operator_step
from cachecluster_local.cluster import LocalCluster
from cachecluster_local.main import parse_plan

PAUSE_S = 0.1
"""From one hand-over to the next, so that the old primary follows again."""


class Mover:
    """Decides as `operator_step` does, and beside it moves each partition in turn to its other copy."""

    def __init__(self, moves: int) -> None:
        self.left = moves
        self.turn = 0
        self.moving: dict[str, Any] | None = None
        self.next_at = float("inf")
        self.finished = asyncio.Event()

    def step(self, view: OperatorView) -> OperatorDecision:
        """In place of `operator_step`."""
        calm = replace(view, timing=replace(view.timing, balance_delay=1e9))
        decision = operator_step(calm)
        ring = decision.map or view.map
        if ring is not None:
            self._look(ring.entries)
        if decision.map is not None or view.map is None:
            return decision
        entries = view.map.entries
        whole = all(entry.state is State.STABLE and len(entry.isr) > 1 and not entry.learners for entry in entries)
        early = self.next_at - time.monotonic()
        if not whole or self.moving is not None or early > 0 or not self.left:
            # Reports wake the loop when something has changed: steps without need would take the processor from others.
            return replace(decision, wake_after=min(decision.wake_after or 1.0, early if 0 < early < 1.0 else 1.0))
        partition = self.turn % len(entries)
        entry = entries[partition]
        successor = next(copy for copy in entry.isr if copy != entry.primary)
        moved = entry.changed(state=State.MOVING, successor=successor, reason="measured")
        self.turn, self.left = self.turn + 1, self.left - 1
        self.moving = {"partition": partition, "begun": time.monotonic(), "successor": successor}
        return replace(
            decision, map=replace(view.map, entries=(*entries[:partition], moved, *entries[partition + 1 :]))
        )

    def _look(self, entries: tuple[Entry, ...]) -> None:
        if self.moving is None:
            return
        entry = entries[self.moving["partition"]]
        if entry.state is State.MOVING:
            return
        done = entry.primary == self.moving["successor"]
        say(
            kind="move",
            partition=self.moving["partition"],
            begun=self.moving["begun"],
            ended=time.monotonic(),
            done=done,
        )
        self.moving, self.next_at = None, time.monotonic() + PAUSE_S
        if not self.left:
            self.finished.set()


def say(**values: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def run(arguments: argparse.Namespace) -> None:
    """Start, wait for a line on standard input, move, end."""
    with tempfile.TemporaryDirectory() as directory:
        flags = ["--engine", arguments.engine, "--first-address", arguments.first_address, "--state-dir", directory]
        plan, spec, _ = parse_plan([*flags, "--nodes", "3"])
        mover = Mover(arguments.moves)
        async with LocalCluster(plan, spec, mover.step) as cluster:
            await cluster.wait_ready()
            say(kind="ready", plain=cluster.state["plain"], stateDir=str(Path(directory)))
            await asyncio.to_thread(sys.stdin.readline)
            mover.next_at = 0.0
            await mover.finished.wait()
            await asyncio.to_thread(sys.stdin.readline)


def main() -> None:
    """Flags: see bench/move.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="valkey")
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--first-address", default="127.83.1.1")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
