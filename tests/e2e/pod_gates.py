"""Watches the gates of all pods, each from its own node, and says whether two gates of a partition were ever open.

`python -m tests.e2e.pod_gates` runs on a node, so that it goes on seeing the node's pods when the node is cut off. The
first line of its standard input is the cluster's peer token, each other one names a pod (`UID HOST`). Every 25 ms it
asks each for `CACHECLUSTER GATES` and writes a line of JSON with the gates that were open, at the same epoch, in this
answer and in the one before: those were open from that answer to this question. `GateWatch` runs one on every node and
puts together what they saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.e2e.resp_connection import Connection
from tests.waiting import wait_until

from cachecluster_devcluster.cluster import DevCluster, kubectl_binary
from cachecluster_devcluster.processes import ProcessError

PORT = 7379
PERIOD_S = 0.025
ANSWER_S = 1.0
RETRY_S = 0.1
JOIN_S = 0.2
"""Two spans with a pause below this between them, of one gate at one epoch, are one: no sample between saw it shut."""
STOP_S = 10.0
SEES_S = 20.0
ROOT = Path(__file__).resolve().parents[2]


async def _watch_connection(token: str, uid: str, host: str) -> None:
    connection = await Connection.open(host, PORT, ANSWER_S)
    try:
        hello = await connection.command("CACHECLUSTER", "HELLO", "2", token, uid, timeout_s=ANSWER_S)
        if not isinstance(hello, bytes) or not hello.startswith(b"OK"):
            raise ConnectionError(str(hello))
        before: dict[int, int] = {}
        answered_at = time.monotonic()
        while True:
            asked_at = time.monotonic()
            lines = await connection.command("CACHECLUSTER", "GATES", timeout_s=ANSWER_S)
            words = [line.split() for line in lines]
            gates = {int(partition): int(epoch) for partition, epoch, left_ms in words if int(left_ms) > 0}
            stayed = [[p, epoch] for p, epoch in gates.items() if before.get(p) == epoch]
            sys.stdout.write(json.dumps([uid, answered_at, asked_at, stayed]) + "\n")
            before, answered_at = gates, time.monotonic()
            sys.stdout.flush()
            await asyncio.sleep(PERIOD_S)
    finally:
        connection.close()


async def _watch_pod(token: str, uid: str, host: str) -> None:
    while True:
        with contextlib.suppress(OSError):
            await _watch_connection(token, uid, host)
        await asyncio.sleep(RETRY_S)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    token = (await loop.run_in_executor(None, sys.stdin.readline)).strip()
    tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        uid, host = line.split()
        if (uid, host) not in tasks:
            tasks[uid, host] = asyncio.create_task(_watch_pod(token, uid, host))
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@dataclass
class Span:
    """A gate that was open from `begin` to `end` (monotonic seconds)."""

    pod: str
    epoch: int
    begin: float
    end: float


@dataclass
class Observations:
    """Spans of all pods, by partition and pod, in the order of time for each pod."""

    spans: dict[int, dict[str, list[Span]]] = field(default_factory=dict)
    samples: Counter[str] = field(default_factory=Counter)

    def add(self, pod: str, begin: float, end: float, gates: list[tuple[int, int]]) -> None:
        """These gates, as (partition, epoch), were open on this pod in this time."""
        self.samples[pod] += 1
        for partition, epoch in gates:
            spans = self.spans.setdefault(partition, {}).setdefault(pod, [])
            if spans and spans[-1].epoch == epoch and begin - spans[-1].end < JOIN_S:
                spans[-1].end = end
            else:
                spans.append(Span(pod, epoch, begin, end))

    def violations(self) -> list[str]:
        """Two gates of a partition open at once, and gates that opened at a lower epoch than one before."""
        found = []
        for partition, by_pod in sorted(self.spans.items()):
            spans = [span for pod in by_pod.values() for span in pod]
            for one, other in itertools.combinations(sorted(spans, key=lambda span: span.begin), 2):
                if one.pod != other.pod and other.begin < one.end:
                    found.append(f"partition {partition}: open at once: {one} and {other}")
                if one.end <= other.begin and other.epoch < one.epoch:
                    found.append(f"partition {partition}: the epoch went back: {one}, then {other}")
        return found


class GateWatch:
    """`with GateWatch(devcluster, namespace, name, token): ...` asserts on leaving that nothing was ever wrong."""

    def __init__(self, cluster: DevCluster, namespace: str, name: str, token: str) -> None:
        self._cluster = cluster
        self._token = token
        self._where = ("--namespace", namespace, "-l", f"cachecluster.io/cluster={name}")
        self._lock = threading.Lock()
        self._watchers: dict[str, subprocess.Popen[str]] = {}
        self._all: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self._follower: subprocess.Popen[str] | None = None
        self.seen = Observations()

    def __enter__(self) -> Self:
        columns = "{.metadata.uid} {.spec.nodeName} {.status.podIP}{'\\n'}"
        kubectl = [str(kubectl_binary()), f"--kubeconfig={self._cluster.kubeconfig}"]
        command = [*kubectl, "get", "pods", *self._where, "--watch", "-o", f"jsonpath={columns}"]
        self._follower = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        self._start(self._follow, self._follower)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._follower is not None
        self._follower.kill()
        self._follower.wait()
        with self._lock:
            for watcher in self._all:
                assert watcher.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    watcher.stdin.close()
        for thread in self._threads:
            thread.join(STOP_S)
        for watcher in self._all:
            watcher.wait(STOP_S)
        if kind is None:
            violations = self.seen.violations()
            assert not violations, "\n".join(violations[:10])

    def wait_sees(self, pods: Sequence[str]) -> None:
        """Until the gates of each of these pods (UIDs) were seen once."""
        wait_until(lambda: all(self.seen.samples[pod] for pod in pods), SEES_S, "the gates of all pods are seen")

    def _start(self, target: Callable[[subprocess.Popen[str]], None], process: subprocess.Popen[str]) -> None:
        thread = threading.Thread(target=target, args=(process,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _follow(self, follower: subprocess.Popen[str]) -> None:
        assert follower.stdout is not None
        with follower.stdout as lines:
            for line in lines:
                words = line.split()
                if len(words) == 3:  # it has a node and an address
                    self._watch(*words)

    def _watch(self, uid: str, node: str, host: str) -> None:
        with self._lock, contextlib.suppress(ProcessError, BrokenPipeError):
            watcher = self._watchers.get(node)
            if watcher is None or watcher.poll() is not None:  # not there yet, or its node was killed and started
                watcher = self._watchers[node] = self._spawn(node)
                self._all.append(watcher)
                self._start(self._read, watcher)
            assert watcher.stdin is not None
            watcher.stdin.write(f"{uid} {host}\n")
            watcher.stdin.flush()

    def _spawn(self, node: str) -> subprocess.Popen[str]:
        program = ["env", "-C", str(ROOT), sys.executable, "-m", "tests.e2e.pod_gates"]
        command = self._cluster.node_command(node, program)
        watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert watcher.stdin is not None
        watcher.stdin.write(self._token + "\n")
        return watcher

    def _read(self, watcher: subprocess.Popen[str]) -> None:
        assert watcher.stdout is not None
        with watcher.stdout as lines:
            for line in lines:
                if line.endswith("\n"):  # else the node was killed in the middle of it
                    uid, begin, end, gates = json.loads(line)
                    self.seen.add(uid, begin, end, gates)


if __name__ == "__main__":
    asyncio.run(_serve())
