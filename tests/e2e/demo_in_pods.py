"""Fixtures: the CacheCluster of crds/examples/minimal.yaml in pods, shared by a session, with load and watch.

They stand in `conftest.py` by import.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.cache_in_pods import CacheInPods, made
from tests.e2e.installed import Release
from tests.e2e.pod_faults import Fault, FaultTable, under_load

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "crds" / "examples" / "minimal.yaml"
FAULTS_FILE = ROOT / "build" / "faults.json"
REPAIR = '{"spec": {"repair": {"delaySeconds": 5}}}'


@dataclass(frozen=True, slots=True)
class Demo:
    """The cluster, and how long it took from `kubectl apply` until it was Ready."""

    cache: CacheInPods
    ready_s: float


@pytest.fixture(scope="session")
def demo(operator: Release) -> Iterator[Demo]:
    """The example, Ready. Repairs begin after 5 s instead of the default, so that tests need not wait long."""
    cache = CacheInPods(operator, "demo")
    began = time.monotonic()
    cache.kubectl("apply", "-f", str(EXAMPLE))
    try:
        cache.wait_ready()
    except Exception as error:
        raise AssertionError(f"{error}\n{cache.story()}") from error
    ready_s = time.monotonic() - began
    cache.kubectl("patch", "cc", cache.name, "--type=merge", "-p", REPAIR)
    yield Demo(cache, ready_s)
    cache.kubectl("delete", "cc", cache.name)


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Says a line to people: figures that were measured, shown together at the end of the session."""
    said: list[str] = []
    yield said.append
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        sys.stdout.write("\n".join(["", *said, ""]))
        sys.stdout.flush()


@pytest.fixture(scope="session")
def fault_table(say: Callable[[str], None]) -> Iterator[FaultTable]:
    """Shown at the end of the session, and left in build/faults.json."""
    table = FaultTable()
    yield table
    table.write(FAULTS_FILE)
    for line in table.lines():
        say(line)


@pytest.fixture(scope="session", params=["async", "sync"])
def struck(request: pytest.FixtureRequest, operator: Release) -> Iterator[CacheInPods]:
    """A cluster of each durability for faults: the example, and one that waits for its replicas."""
    if request.param == "async":
        yield request.getfixturevalue("demo").cache
        return
    spec = {"nodes": 3, "replicationFactor": 2, "memory": "256Mi", "durability": "sync", "repair": {"delaySeconds": 5}}
    with made(operator, "durable", spec) as cache:
        yield cache


@pytest.fixture
def fault(struck: CacheInPods, operator: Release, fault_table: FaultTable) -> Iterator[Fault]:
    """The cluster, whole, with a load on it and its gates watched."""
    with under_load(struck, operator, fault_table) as fault:
        yield fault
