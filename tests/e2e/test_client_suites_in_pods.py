"""What clients of three languages offer their users, again and again while the cluster changes: no check fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
from tests.clients import programs
from tests.e2e.cache_in_pods import CacheInPods
from tests.e2e.installed import Release
from tests.e2e.pod_changes import Changes, ChangeTable, Story
from tests.e2e.steady_clients import PORT, SteadyClients

pytestmark = [pytest.mark.t4, pytest.mark.timeout(420)]

NAME = "suites"
ROOT = Path(__file__).resolve().parents[2]
CLUSTER = {
    "apiVersion": "cachecluster.io/v1alpha1",
    "kind": "CacheCluster",
    "metadata": {"name": NAME},
    "spec": {"nodes": 3, "replicationFactor": 2, "memory": "128Mi"},
}


@dataclass
class Suites:
    """Runs each suite without a break; `runs` counts the whole ones by suite, `failed` tells what failed."""

    cache: CacheInPods
    runs: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        suites: dict[str, Callable[[], list[str]]] = {"redis-py": self._redis_py}
        # Of a pipeline of writes whose slot moves on the way, ioredis' cluster client hands MOVED to the application.
        for build, ways in ((programs.ioredis, ("plain",)), (programs.goredis, ())):
            command = self.cache.cluster.hub_command(build())
            suites[build.__name__] = lambda command=command, ways=ways: self._program(command, ways)
        for name, run in suites.items():
            self.runs[name] = 0
            self._threads.append(threading.Thread(target=self._again, args=(name, run)))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _again(self, name: str, run: Callable[[], list[str]]) -> None:
        while not self._ended.is_set():
            self.failed += [f"{name}, run {self.runs[name] + 1}: {text}" for text in run()]
            self.runs[name] += 1

    def _program(self, command: list[str], ways: Sequence[str]) -> list[str]:
        count, failed = programs.failures(command, (self.cache.host, PORT), (self._aware, PORT), *ways)
        return failed if count else ["it made no check"]

    def _redis_py(self) -> list[str]:
        suite = [sys.executable, "-m", "pytest", "-q", "--tb=short", "tests/e2e/data_path_by_name.py"]
        environment = {**os.environ, "CACHE_HOST": self.cache.host, "CLUSTER_HOST": self._aware}
        command = self.cache.cluster.hub_command(suite)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return [] if done.returncode == 0 else [done.stdout[-4000:]]

    @property
    def _aware(self) -> str:
        return self.cache.host.replace(NAME, f"{NAME}-cluster", 1)


@pytest.fixture(scope="module")
def changes(operator: Release) -> Iterator[Changes]:
    """A cluster, and clients that never pause beside the suites."""
    cache = CacheInPods(operator, NAME)
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(CLUSTER))
    try:
        cache.wait_ready()
        with Story(cache) as story, SteadyClients(cache, keys=1000, clients=3) as clients:
            yield Changes(cache, clients, story, ChangeTable())
    finally:
        cache.kubectl("delete", "cc", NAME, "--ignore-not-found")


@pytest.mark.parametrize("change", ["scale-out", "roll"])
def test_no_check_of_any_client_fails(changes: Changes, change: str, say: Callable[[str], None]) -> None:
    changes.wait_complete()
    with Suites(changes.cache) as suites, changes.phase(change):
        if change == "scale-out":
            changes.scale(5)
            changes.wait_balanced(5)
        else:
            changes.patch(podLabels={"rolled": "once"})
            changes.wait_complete()
    say(f"suites during a {change}: {suites.runs} runs")
    assert not suites.failed, "\n".join(suites.failed)
    assert all(suites.runs.values())
