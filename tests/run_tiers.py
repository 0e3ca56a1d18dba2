"""Runs the test tiers one after the other, says which ran, which did not and why, and sums them up.

Called by `make test`; `--tier N` runs one. Exit status 0 only when every tier that ran passed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEVCLUSTER = str(Path(sys.executable).with_name("devcluster"))


def _linux() -> str | None:
    return None if sys.platform == "linux" else "needs Linux"


def _pure() -> str | None:
    """Nothing keeps pure tests from running; promtool for the alert rules is installed where that may be."""
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        _prepare("tests")
    return None


def _processes() -> str | None:
    """Why real engines cannot run here, None when they can; installs what is missing where it may."""
    return _linux() or _prepare("local")


def _kubernetes() -> str | None:
    """Why no Kubernetes can run here, None when one can."""
    if _linux():
        return _linux()
    if os.geteuid() != 0:
        return "needs root (namespaces and cgroups of the development cluster)"
    return _prepare("tests")


def _prepare(purpose: str) -> str | None:
    done = subprocess.run([DEVCLUSTER, "deps", "--for", purpose], check=False)
    return None if done.returncode == 0 else f"`devcluster deps --for {purpose}` failed: see above"


@dataclass(frozen=True)
class Tier:
    """One tier: what it is, and why it cannot run here."""

    number: int
    title: str
    obstacle: Callable[[], str | None]


TIERS = (
    Tier(0, "pure functions, properties, model checker", _pure),
    Tier(1, "cachecluster-local: real redis processes and routers", _processes),
    Tier(2, "a real API server and etcd", _kubernetes),
    Tier(3, "one node: real pods", _kubernetes),
    Tier(4, "three nodes in network namespaces", _kubernetes),
)
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


FAILURE = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$")


FEW = 5
SHOWN_CHARACTERS = 300
"""Of the first line of a failure's message, in the list at the end."""


def run(tier: Tier, told: list[str]) -> dict[str, int]:
    """Run one tier's tests; numbers of passed, failed (errors included), skipped and repeated ones. Adds to `told` a
    line for each failure.

    Tests with real processes depend on the machine keeping up. When only a few of them fail they are run once more,
    alone: what fails again has failed, what passes then is counted as `repeated`, too, and stands above with its
    failure. A pure test has no such excuse.
    """
    counts = _pytest(tier, told) | {"repeated": 0}
    failed = counts["failed"]
    if tier.number > 0 and 0 < failed <= FEW:
        sys.stdout.write(f"--- {failed} failed: once more, alone\n")
        again = _pytest(tier, told, "--last-failed", "--last-failed-no-failures=none")
        passed = min(again["passed"], failed) if not again["failed"] else 0
        counts = counts | {"passed": counts["passed"] + passed, "failed": failed - passed, "repeated": passed}
    return counts


def _pytest(tier: Tier, told: list[str], *flags: str) -> dict[str, int]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", f"t{tier.number}", "--durations=5", "--durations-min=5"]
    command += flags
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        last = line if COUNT.search(line) else last
        if failure := FAILURE.match(line):
            told.append(f"{failure[1]}: {(failure[2] or '')[:SHOWN_CHARACTERS]}")
    code = process.wait()
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for number, word in COUNT.findall(last):
        counts["failed" if word.startswith(("fail", "error")) else word] += int(number)
    if code not in (0, 5) and not counts["failed"]:
        counts["failed"] = 1
    return counts


def main() -> int:
    """Run the tiers asked for, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", type=int, choices=range(5), help="only this tier")
    wanted = parser.parse_args().tier
    told: list[str] = []
    rows, total = [], {"passed": 0, "failed": 0, "skipped": 0, "repeated": 0}
    for tier in TIERS:
        if wanted is not None and tier.number != wanted:
            continue
        sys.stdout.write(f"\n=== tier {tier.number}: {tier.title}\n")
        sys.stdout.flush()
        reason = tier.obstacle()
        if reason:
            rows.append(f"tier {tier.number}  did not run: {reason}")
            continue
        began = time.monotonic()
        counts = run(tier, told)
        for word, number in counts.items():
            total[word] += number
        seconds = time.monotonic() - began
        figures = ", ".join(f"{number} {word}" for word, number in counts.items())
        rows.append(f"tier {tier.number}  {figures}  in {seconds:.0f} s  ({tier.title})")
    width = shutil.get_terminal_size().columns
    sys.stdout.write("\n" + "=" * min(width, 80) + "\n" + "\n".join(rows) + "\n")
    if told:
        sys.stdout.write("what failed, once at least:\n" + "\n".join(told) + "\n")
    if total["repeated"]:
        sys.stdout.write(f"{total['repeated']} of those that passed had failed first: see above\n")
    sys.stdout.write(", ".join(f"{total[word]} {word}" for word in ("passed", "failed", "skipped")) + "\n")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
