"""Debian's Prometheus for tests: scrapes given targets every second and answers queries, here or in another network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.waiting import wait_until

Command = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server; `inside` turns a command line into one that runs in the server's network."""

    url: str
    inside: Command

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query. CalledProcessError with what the server said when it refuses."""
        command = self.inside(["promtool", "query", "instant", "--format=json", self.url, expr])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        samples: list[dict[str, Any]] = json.loads(done.stdout)
        return samples

    def empty(self, queries: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """Those of the (dashboard, panel, PromQL) that return nothing."""
        return [query for query in queries if not self.query(query[2])]


@contextmanager
def running_prometheus(
    folder: Path, address: str, jobs: Mapping[str, Sequence[str]], inside: Command = list
) -> Iterator[Prometheus]:
    """Prometheus on `address` (host:port) until the block ends. `jobs` are lists of host:port to scrape, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": list(targets)}]} for name, targets in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    flags = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    flags += [f"--web.listen-address={address}", "--log.level=warn"]
    with (folder / "log").open("w") as log:
        command = inside(["prometheus", *flags])
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        server = Prometheus(f"http://{address}", inside)
        wait_until(lambda: _answers(server), 20, "Prometheus")
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(server: Prometheus) -> bool:
    try:
        return bool(server.query("vector(1)"))
    except subprocess.CalledProcessError:
        return False
