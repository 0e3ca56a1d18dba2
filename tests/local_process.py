"""A `cachecluster-local` that runs beside the tests, as users run it, on a block of loopback addresses of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.datapath import Endpoints
from tests.loopback import free_block
from tests.waiting import wait_until

from cachecluster_core.hashring import HashRing, State

PORT = 6379
READY_S = 30.0
STOP_S = 20.0


@dataclass
class LocalProcess:
    """The running command. `ready_s` is how long it took to become ready."""

    engine: str
    nodes: int
    directory: Path
    process: subprocess.Popen[str]
    ready_s: float = 0.0

    @classmethod
    def start(cls, directory: Path, engine: str, nodes: int, *flags: str) -> LocalProcess:
        """Start it and wait until it says that it is ready."""
        first = free_block(PORT, PORT + 1000, 7380, 9121, 17000)
        directory.mkdir(parents=True)
        where = ("--first-address", first, "--state-file", str(directory / "state.json"))
        command = [sys.executable, "-m", "cachecluster_local.main", "--engine", engine, "--nodes", str(nodes)]
        began = time.monotonic()
        with (directory / "log").open("w") as log:
            process = subprocess.Popen([*command, *where, *flags], stdout=subprocess.PIPE, stderr=log, text=True)
        local = cls(engine, nodes, directory, process)
        try:
            local._await_ready()
        except BaseException:
            local.stop()
            raise
        local.ready_s = time.monotonic() - began
        return local

    def _await_ready(self) -> None:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_S)
        line = self.process.stdout.readline() if readable else ""
        if not line.startswith("Ready"):
            raise RuntimeError(f"cachecluster-local is not ready; its log ends:\n{self.log_tail()}")

    def log_tail(self, lines: int = 60) -> str:
        """The end of its log and of the agents'."""
        logs = [self.directory / "log"]
        if (self.directory / "state.json").exists():
            logs += sorted(Path(self.state()["stateDir"]).glob("node-*/agent.log"))
        return "\n".join(f"== {log}\n" + "\n".join(log.read_text().splitlines()[-lines:]) for log in logs)

    def stop(self) -> None:
        """SIGTERM, and wait until it and everything it started is gone."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    # -- what it is made of --

    def state(self) -> dict[str, Any]:
        """The state file."""
        state: dict[str, Any] = json.loads((self.directory / "state.json").read_text())
        return state

    def node(self, pod_uid: str) -> dict[str, Any]:
        """The state file's entry of one pod."""
        node: dict[str, Any] = next(node for node in self.state()["nodes"] if node["uid"] == pod_uid)
        return node

    def endpoints(self) -> Endpoints:
        """Where clients connect."""
        state = self.state()
        return Endpoints(
            tuple((host, port) for host, port in state["plain"]), tuple((host, port) for host, port in state["cluster"])
        )

    def ring(self) -> HashRing | None:
        """The map, read through the API that agents use."""
        url = f"{self.state()['api']}/apis/cachecluster.io/v1alpha1/namespaces/local/hashrings/local"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return HashRing.from_object(json.load(answer))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def delete_ring(self) -> None:
        """Delete the map, as somebody by hand would."""
        url = f"{self.state()['api']}/apis/cachecluster.io/v1alpha1/namespaces/local/hashrings/local"
        with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=5):
            pass

    # -- what may be asked of it --

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.state()["api"] + path, data, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def scale(self, nodes: int, evict: bool = False) -> list[str]:
        """Ask for another number of nodes; what of it is pending."""
        pending: list[str] = self._ask("PUT", "/v1/desired", {"nodes": nodes, "evict": evict})["pending"]
        self.nodes = nodes
        return pending

    def pause(self, paused: bool = True) -> None:
        """Hold back planned changes, or make them again."""
        self._ask("PUT", "/v1/desired", {"paused": paused})

    def roll(self, *names: str) -> None:
        """Have nodes replaced one at a time, all of them unless named."""
        for name in names or [node["name"] for node in self.state()["nodes"]]:
            self._ask("POST", f"/v1/nodes/{name}/outdated")

    def roll_to(self, engine: str) -> list[str]:
        """Have all nodes replaced by ones of another engine; what of it is pending."""
        pending: list[str] = self._ask("PUT", "/v1/desired", {"engine": engine})["pending"]
        return pending

    def engines(self) -> set[str]:
        """The engines that all engine processes were started as."""
        names = (Path(f"/proc/{pid}/cmdline").read_text() for pid in self.state()["pids"]["engine"])
        return {name.partition("-server")[0].rpartition("/")[2] for name in names}

    def delete_node(self, name: str) -> None:
        """End a node in order, as `kubectl delete pod`."""
        self._ask("DELETE", f"/v1/nodes/{name}")

    def status(self) -> dict[str, Any]:
        """The status that a CacheCluster would have."""
        return self._ask("GET", "/v1/status")

    def progressing(self) -> tuple[str, str]:
        """Reason and message of the condition Progressing."""
        found = next(c for c in self.status()["conditions"] if c["type"] == "Progressing")
        return found["reason"], found["message"]

    def scale_out_and_in(self, nodes: int) -> None:
        """A node more, and back to so many, each time until every copy is there."""
        for count in (nodes + 1, nodes):
            self.scale(count)
            self.wait_complete()

    def wait_complete(self, seconds: float = 120.0, copies: int = 2) -> float:
        """Until the wanted nodes are there, nothing is being changed, and all is whole; the seconds it took."""

        def complete() -> bool:
            status = self.status()
            pods = {member["uid"] for member in status["members"]}
            there = len(pods) == self.nodes and pods == {node["uid"] for node in self.state()["nodes"]}
            whole = any(c["reason"] == "Complete" for c in status["conditions"])
            return there and whole and not any(m["outdated"] for m in status["members"]) and self.is_whole(copies)

        try:
            return wait_until(complete, seconds, f"{self.nodes} whole nodes")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.status()}\n{self.ring()}\n{self.log_tail()}") from error

    def primary_of(self, partition: int) -> str:
        """UID of the pod that leads a partition now."""
        ring = self.ring()
        assert ring is not None
        primary = ring.entries[partition].primary
        assert primary is not None
        return primary.pod

    def is_whole(self, copies: int = 2) -> bool:
        """Every node is ready, every partition is served and has all its copies, on different pods."""
        ring = self.ring()
        return (
            ring is not None
            and all(
                entry.state is State.STABLE and len({copy.pod for copy in entry.isr}) == copies and not entry.learners
                for entry in ring.entries
            )
            and all(_is_ready(host, port) for host, port in self.state()["metrics"])
        )

    def wait_whole(self, seconds: float = 40.0, copies: int = 2) -> float:
        """Until `is_whole`; the seconds it took."""
        try:
            return wait_until(lambda: self.is_whole(copies), seconds, "all copies of all partitions")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.ring()}\n{self.log_tail()}") from error

    @staticmethod
    def signal(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to processes of the cluster."""
        assert pids and all(isinstance(pid, int) and pid > 1 for pid in pids), pids
        for pid in pids:
            os.kill(pid, number)


def _is_ready(host: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
