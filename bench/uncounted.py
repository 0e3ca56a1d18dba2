"""Our router without its metrics, built anew in build/bench/uncounted: what counting costs is measured beside it.

What only counts is taken out of a copy of the sources. It is made sure that something of each kind was found, and that
the routers which are measured run the copy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

TARGET = Path("build/bench/uncounted")
PACKAGES = ("core", "operator", "sidecar", "local")
ROUTER = Path("sidecar/cachecluster_sidecar/router")
FOR_SETUP = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
REMOVED = {
    r"\S*\bcounters\.\S+ \+= .+": "pass",
    r"counter\[0\] \+= 1": "pass",
    r"self\.router\.sample \+= 1": "pass",
    r"if not self\.peer and self\.router\.sample & C_LATENCY_MASK == 0:": "if False:",
    r"if r\.started_ns:": "if False:",
    r"if split\.parent\.started_ns:": "if False:",
    r"self\.lag = now - self\.tick_due": "pass",
}
"""Whole statements that count, or begin what does, and what stands in their place. A partition's `requests` stay: the
order of its commands."""


class NothingToRemove(RuntimeError):
    """The router counts in other words by now: REMOVED must be changed."""


def sources() -> dict[Path, str]:
    """Of the router's extensions."""
    return {path: path.read_text() for path in sorted(ROUTER.iterdir()) if path.suffix in (".pyx", ".pxi")}


def without_metrics(texts: Mapping[Path, str]) -> dict[Path, str]:
    """The sources without what only counts. NothingToRemove when nothing of one kind is found."""
    left = dict(texts)
    for pattern, instead in REMOVED.items():
        statement = re.compile(rf"^( +){pattern}$", re.MULTILINE)
        if not any(statement.search(text) for text in left.values()):
            raise NothingToRemove(f"nothing in {ROUTER} counts like {pattern!r}: change REMOVED in bench/uncounted.py")
        left = {path: statement.sub(rf"\1{instead}", text) for path, text in left.items()}
    return left


def environment() -> dict[str, str]:
    """In which the copy is what is imported."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(str((TARGET / name).resolve()) for name in PACKAGES)}


def build() -> None:
    """Make the copy, or what has changed of it. RuntimeError when that does not work."""
    changed = without_metrics(sources())
    files = [path for name in PACKAGES for path in Path(name).rglob("*") if path.is_file()]
    for path in [*map(Path, FOR_SETUP), *files]:
        if path.suffix not in (".so", ".pyc"):
            _write(TARGET / path, changed[path].encode() if path in changed else path.read_bytes())
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=TARGET, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the router without metrics was not built: {done.stderr[-2000:]}")


def _write(path: Path, data: bytes) -> None:
    """Leave a file alone that is like that already: what is made of it is up to date."""
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def require_copy(pids: Iterable[int]) -> None:
    """RuntimeError unless all of these routers run the copy."""
    place = str((TARGET / ROUTER / "core.").resolve())
    for pid in pids:
        if place not in Path(f"/proc/{pid}/maps").read_text():
            raise RuntimeError(f"router {pid} does not run the copy without metrics in {TARGET}")
