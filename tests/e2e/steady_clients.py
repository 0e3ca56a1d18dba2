"""`SteadyClients`: the twenty clients of `tests.steady_load` in a cluster's network, as a process beside a test.

They know the cluster by its Services, as applications do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

from tests.e2e.cache_in_pods import CacheInPods

PORT = 6379
END_S = 90.0
ROOT = Path(__file__).resolve().parents[2]


class SteadyClients:
    """Fills `keys` keys and begins the load when entered; `result` is what everybody saw, once it was left."""

    def __init__(self, cache: CacheInPods, keys: int, clients: int = 20) -> None:
        aware = cache.host.replace(cache.name, f"{cache.name}-cluster", 1)
        program = [sys.executable, "-m", "tests.steady_load", "--keys", str(keys), "--clients", str(clients)]
        addresses = ["--plain", f"{cache.host}:{PORT}", "--cluster", f"{aware}:{PORT}"]
        self._command = cache.cluster.hub_command([*program, *addresses])
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        if self._read() != "running\n":
            self._process.communicate()
            raise AssertionError(f"the clients ended with {self._process.returncode}")
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        try:
            output, _ = process.communicate(timeout=END_S)
            self.result = json.loads(output) if output else {}
        finally:
            process.kill()
            process.wait()

    def ask(self, question: str) -> Any:
        """ "look", "next", "check" or "forgive": see the program."""
        assert self._process is not None and self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            line = self._read()
        assert line, f"the clients ended with {self._process.wait()}"
        return json.loads(line)

    def _read(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.readline()
