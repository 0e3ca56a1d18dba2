"""Fixtures shared by the unit tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.local_process import LocalProcess

LocalFactory = Callable[..., LocalProcess]


@pytest.fixture(scope="module")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFactory]:
    """`local_cluster(engine=..., nodes=...)`: a running `cachecluster-local`, shared by the tests of a module.

    Further words are its flags. Every one has a block of loopback addresses of its own.
    """
    running: dict[tuple[str, int, tuple[str, ...]], LocalProcess] = {}

    def start(*flags: str, engine: str = "valkey", nodes: int = 3) -> LocalProcess:
        key = (engine, nodes, flags)
        if key not in running or running[key].process.poll() is not None:
            directory = tmp_path_factory.mktemp("local") / "run"
            running[key] = LocalProcess.start(directory, engine, nodes, *flags)
        return running[key]

    yield start
    for local in running.values():
        local.stop()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """pytest's own directories are too deep for unix sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)
