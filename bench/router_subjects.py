"""What `make bench-router` measures side by side: starting it, where clients connect, and whose CPU time counts.

Every engine process and every proxy is started anew and ended with the run. Addresses are blocks of loopback.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from bench import router_peers, uncounted

from cachecluster_local.engines import engine_binary

HOST = "127.61.1.1"
ENGINES = 3
ENGINE_PORT, TWEMPROXY_PORT, ENVOY_PORT = 7001, 7101, 7201
READY_S = 30.0
POLL_S = 0.02
SLOTS = 16384

ANY, CLUSTER, ANY_16, CLUSTER_16 = "any", "cluster", "any-16", "cluster-16"
TWEMPROXY, ENVOY, DIRECT = "twemproxy", "envoy", "direct"
NAMES = (ANY, CLUSTER, ANY_16, CLUSTER_16, TWEMPROXY, ENVOY, DIRECT)
UNCOUNTED, ONE_WORKER, TWO_WORKERS = "-uncounted", "-1-worker", "-2-workers"
METRICS = (ANY + UNCOUNTED, ANY, CLUSTER + UNCOUNTED, CLUSTER)
"""What shows the cost of metrics."""
WORKERS = (ANY + ONE_WORKER, ANY + TWO_WORKERS)
"""What shows what a second router process of a node brings."""
ABOUT = {
    ANY: "our port for any client, 3 nodes, 4 partitions",
    CLUSTER: "our cluster port, cluster-aware clients, 3 nodes, 4 partitions",
    ANY_16: "our port for any client, 3 nodes, 16 partitions (as shipped)",
    CLUSTER_16: "our cluster port, cluster-aware clients, 3 nodes, 16 partitions (as shipped)",
    TWEMPROXY: "twemproxy, 1 process, over 3 engines by TCP",
    ENVOY: "Envoy, concurrency 1, over 3 engines by TCP",
    DIRECT: "3 engines by TCP, cluster-aware clients; the CPU time is the engines'",
    ANY + UNCOUNTED: "our port for any client as above, built without its metrics",
    CLUSTER + UNCOUNTED: "our cluster port as above, built without its metrics",
    ANY + ONE_WORKER: "our port for any client, 1 node, 4 partitions",
    ANY + TWO_WORKERS: "the same with two router processes",
}


@dataclass(frozen=True, slots=True)
class Ours:
    """A cluster of ours; its nodes have one address after the other."""

    first_address: str
    nodes: int = 3
    partitions: int = 4
    workers: int = 1


OURS = {
    "": Ours("127.61.4.1"),
    "-16": Ours("127.61.16.1", partitions=16),
    UNCOUNTED: Ours("127.61.5.1"),
    ONE_WORKER: Ours("127.61.6.1", nodes=1),
    TWO_WORKERS: Ours("127.61.7.1", nodes=1, workers=2),
}
"""By the end of the names of what is measured on them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """`targets` are HOST:PORT, or HOST:PORT/LOW-HIGH,... with the slots that clients ask for there."""

    name: str
    targets: list[str]
    pids: list[int]

    @property
    def takes_every_key(self) -> bool:
        """At each of its addresses."""
        return "/" not in self.targets[0]

    @property
    def fill_targets(self) -> list[str]:
        """Where to write each key once: a proxy that takes every key needs no more than one address."""
        return self.targets[:1] if self.takes_every_key else self.targets


@contextlib.contextmanager
def process(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block; its output goes to a file."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(READY_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def until(condition: Callable[[], bool], child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it holds. RuntimeError with the end of the log when the process ends or READY_S have passed."""
    end = time.monotonic() + READY_S
    while not condition():
        if child.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{child.args!r} did not come up: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(POLL_S)


def answers(host: str, port: int) -> bool:
    """Does a Redis answer there?"""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$11\r\nbench:ready\r\n")
            return connection.recv(64).startswith(b"$-1")
    except OSError:
        return False


class Subjects:
    """Everything for one engine; what a run needs is started when it is first asked for and ends with the stack."""

    def __init__(self, engine: str, directory: Path, stack: contextlib.ExitStack) -> None:
        self._engine, self._directory, self._stack = engine, directory, stack
        self._engines: list[int] = []
        self._clusters: dict[str, dict[str, Any]] = {}

    def get(self, name: str) -> Subject:
        """A subject, running. Missing when it is a peer that is not installed, RuntimeError when it does not start."""
        if name == DIRECT:
            return Subject(name, _direct_targets(), self._engine_pids())
        if name in (TWEMPROXY, ENVOY):
            return self._proxy(name)
        state = self._cluster(name.removeprefix(ANY).removeprefix(CLUSTER))
        plain = [f"{host}:{port}" for host, port in state["plain"]]
        return Subject(name, plain if name.startswith(ANY) else _cluster_targets(state), state["pids"]["router"])

    def _engine_pids(self) -> list[int]:
        if not self._engines:
            binary = engine_binary(self._engine, self._directory / "bin")
            for port in range(ENGINE_PORT, ENGINE_PORT + ENGINES):
                directory = self._directory / f"engine-{port}"
                directory.mkdir()
                flags = ["--bind", HOST, "--port", str(port), "--save", "", "--dir", str(directory)]
                log = directory / "log"
                child = self._stack.enter_context(process([str(binary), *flags, "--protected-mode", "no"], log))
                until(lambda port=port: answers(HOST, port), child, log)  # type: ignore[misc]
                self._engines.append(child.pid)
        return self._engines

    def _proxy(self, name: str) -> Subject:
        self._engine_pids()
        engines = [(HOST, port) for port in range(ENGINE_PORT, ENGINE_PORT + ENGINES)]
        settings, log = self._directory / f"{name}.yaml", self._directory / f"{name}.log"
        if name == TWEMPROXY:
            port = TWEMPROXY_PORT
            command = router_peers.twemproxy_command(settings, port, HOST)
            settings.write_text(router_peers.twemproxy_settings(port, HOST, engines))
        else:
            port = ENVOY_PORT
            command = router_peers.envoy_command(settings)
            settings.write_text(router_peers.envoy_settings(port, HOST, engines))
        child = self._stack.enter_context(process(command, log))
        until(lambda: answers(HOST, port), child, log)
        return Subject(name, [f"{HOST}:{port}"], [child.pid])

    def _cluster(self, kind: str) -> dict[str, Any]:
        if kind not in self._clusters:
            environment = None
            if kind == UNCOUNTED:
                uncounted.build()
                environment = uncounted.environment()
            ours = OURS[kind]
            state_file, log = self._directory / f"local{kind}.json", self._directory / f"local{kind}.log"
            command = [sys.executable, "-m", "cachecluster_local.main", "--engine", self._engine]
            command += ["--nodes", str(ours.nodes), "--replication-factor", "1", "--partitions", str(ours.partitions)]
            command += ["--router-workers", str(ours.workers)]
            command += ["--first-address", ours.first_address, "--state-file", str(state_file)]
            child = self._stack.enter_context(process(command, log, environment))
            until(lambda: log.read_bytes().find(b"Ready after") >= 0 and state_file.exists(), child, log)
            state = json.loads(state_file.read_text())
            until(lambda: all(answers(host, port) for host, port in state["plain"]), child, log)
            if kind == UNCOUNTED:
                uncounted.require_copy(state["pids"]["router"])
            self._clusters[kind] = state
        return self._clusters[kind]


def _direct_targets() -> list[str]:
    """A third of the slots on each engine."""
    bounds = [SLOTS * number // ENGINES for number in range(ENGINES + 1)]
    return [
        f"{HOST}:{ENGINE_PORT + number}/{low}-{high - 1}"
        for number, (low, high) in enumerate(itertools.pairwise(bounds))
    ]


def _cluster_targets(state: dict[str, Any]) -> list[str]:
    """The cluster port of every node with the slots that it owns, as CLUSTER SLOTS says."""
    host, port = state["cluster"][0]
    client: Any = redis.Redis(host, port, protocol=2)
    client.response_callbacks.clear()
    owned: dict[str, list[str]] = {}
    for low, high, primary, *_ in client.execute_command("CLUSTER SLOTS"):
        owned.setdefault(f"{primary[0].decode()}:{primary[1]}", []).append(f"{low}-{high}")
    client.close()
    return [f"{address}/{','.join(ranges)}" for address, ranges in owned.items()]


def memory_kib(pids: list[int]) -> int:
    """Resident memory of these processes."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.partition("VmRSS:")[2].split()[0])
    return total


def end_on_signal() -> None:
    """SIGTERM ends the run as Ctrl-C does: everything that was started ends first."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
