"""A program of these tests in a cluster's network, as a process beside a test that asks it questions.

It writes "running" when its load has begun, answers each line of its standard input with a line of JSON, and writes one
more when its input ends: the `result`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.e2e.cache_in_pods import CacheInPods

END_S = 90.0
ROOT = Path(__file__).resolve().parents[2]


class AskedProgram:
    """Runs within `with`; `result` is there once it was left."""

    def __init__(self, cache: CacheInPods, module: str, arguments: Sequence[str]) -> None:
        self._command = cache.cluster.hub_command([sys.executable, "-m", module, *arguments])
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        if self._read() != "running\n":
            self._process.communicate()
            raise AssertionError(f"the program ended with {self._process.returncode}")
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
        """The answer to a question that the program knows."""
        assert self._process is not None and self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            line = self._read()
        assert line, f"the program ended with {self._process.wait()}"
        return json.loads(line)

    def _read(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.readline()
