"""The one development cluster of a test session, and ways to ask it.

`devcluster` is started by the first test that wants it and removed at the end; what a killed session left behind is
removed by the next. To keep one between runs (much quicker while writing tests), name its state folder:

    DEVCLUSTER_STATE=build/devcluster .venv/bin/pytest tests/e2e/test_...

A test that makes a fault takes `faults` instead of `devcluster`: everything is whole again before the next test.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.demo_in_pods import demo, fault, fault_table, say, struck
from tests.e2e.installed import Release

from cachecluster_devcluster import binaries, image
from cachecluster_devcluster.cluster import DevCluster, check_machine, sweep

__all__ = ["demo", "fault", "fault_table", "say", "struck"]  # fixtures that are written elsewhere

ROOT = Path(__file__).resolve().parents[2]
STATES = ROOT / "build" / "e2e"
ARCHIVE = ROOT / image.DEFAULT_ARCHIVE
NODES = 3


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what the cluster needs before the first test: it may take minutes, and tests have a time limit."""
    if session.config.getoption("collectonly"):
        return
    if any("helm" in getattr(item, "fixturenames", ()) for item in session.items):
        binaries.binary(binaries.HELM)
    wanted = any("devcluster" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and _reason_against() is None:
        for program in (binaries.KUBE, binaries.COREDNS):
            binaries.binary(program)
        image.build(ARCHIVE)


@pytest.fixture(scope="session")
def devcluster() -> Iterator[DevCluster]:
    """Three nodes with the project's image, shared by all tests of the session."""
    reason = _reason_against()
    if reason is not None:
        pytest.skip(reason)
    kept = os.environ.get("DEVCLUSTER_STATE")
    sweep(STATES)
    cluster = DevCluster(Path(kept) if kept else STATES / f"session-{os.getpid()}")
    cluster.up(NODES, [ARCHIVE], owned=not kept)
    yield cluster
    if not kept:
        cluster.down()


@pytest.fixture
def faults(devcluster: DevCluster) -> Iterator[DevCluster]:
    """The cluster for a test that breaks it: stopped, killed and cut parts are back when the test is over."""
    yield devcluster
    devcluster.up(NODES)


@pytest.fixture(scope="session")
def kubectl(devcluster: DevCluster) -> Callable[..., str]:
    """`kubectl("get", "pods", ...)` as administrator: returns stdout, raises with stderr."""
    return devcluster.kubectl


@pytest.fixture(scope="session")
def helm() -> Path:
    """helm, built from its Go module."""
    return binaries.binary(binaries.HELM)


@pytest.fixture(scope="session")
def operator(devcluster: DevCluster, helm: Path) -> Iterator[Release]:
    """The operator, installed by the chart; it serves the CacheClusters of namespace `caches`."""
    release = Release(devcluster, helm, "cachecluster-operator", "cachecluster-system", "caches")
    release.install(image.DEFAULT_TAG)
    yield release
    release.uninstall()
    release.remove_namespaces()


def _reason_against() -> str | None:
    try:
        check_machine()
    except RuntimeError as reason:
        return str(reason)
    return None
