"""The operator as a process of the host, against the API server of a development cluster.

From the host it reaches no pod, so clusters do not become Ready; everything on the API server works.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

from cachecluster_devcluster.cluster import DevCluster

IMAGE = "localhost/cachecluster:dev"
QUICK_ELECTION = ("--lease-duration", "8", "--renew-deadline", "6", "--retry-period", "1")
"""As quick as a starved machine can bear; only for tests that wait for another operator to take over."""
START_S = 30.0


@dataclass
class OperatorProcess:
    """One operator. Its log is kept for the message of a failed test."""

    identity: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, cluster: DevCluster, namespace: str, identity: str, directory: Path, flags: Sequence[str] = ()
    ) -> OperatorProcess:
        """Works in this namespace and keeps its Lease there."""
        log = directory / f"operator-{identity}.log"
        command = [
            *(sys.executable, "-m", "cachecluster_operator.main", "--kubeconfig", str(cluster.kubeconfig)),
            *("--namespace", namespace, "--operator-namespace", namespace, "--identity", identity),
            *("--image", IMAGE, "--metrics-port", "0", *flags),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        return cls(identity, process, log)

    def said(self, text: str) -> bool:
        """Whether its log has this; raises when it has ended instead."""
        found = text in self.log.read_text()
        assert found or self.process.poll() is None, f"the operator ended:\n{self.log.read_text()}"
        return found

    def wait_for(self, text: str) -> None:
        """Until its log has this."""
        wait_until(lambda: self.said(text), START_S, f"{self.identity} to say {text!r}")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)


@dataclass
class Bench:
    """A namespace of its own, the operators started in it, and ways to look at it."""

    cluster: DevCluster
    namespace: str
    directory: Path
    operators: list[OperatorProcess] = field(default_factory=list)

    def operator(self, identity: str, *flags: str) -> OperatorProcess:
        """Start an operator."""
        started = OperatorProcess.start(self.cluster, self.namespace, identity, self.directory, flags)
        self.operators.append(started)
        return started

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """kubectl in the namespace."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, input_text=input_text)

    def get(self, *what: str) -> list[dict[str, Any]]:
        """Objects of these kinds."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", ",".join(what), "-o", "json"))["items"]
        return items

    def apply(self, name: str, **spec: Any) -> None:
        """A CacheCluster whose pods are never scheduled: nothing of the host's is wanted."""
        whole = {"nodes": 3, "memory": "64Mi", "partitions": 4, "nodeSelector": {"cachecluster-test": "nowhere"}} | spec
        manifest = {
            "apiVersion": "cachecluster.io/v1alpha1",
            "kind": "CacheCluster",
            "metadata": {"name": name},
            "spec": whole,
        }
        self.kubectl("apply", "-f", "-", input_text=json.dumps(manifest))

    def conditions(self, name: str) -> dict[str, tuple[str, str]]:
        """Status and reason of a CacheCluster's conditions."""
        found = json.loads(self.kubectl("get", "cc", name, "-o", "json"))
        return {c["type"]: (c["status"], c["reason"]) for c in found.get("status", {}).get("conditions", ())}

    def holder(self) -> str:
        """Who holds the Lease; '' for nobody."""
        leases = self.get("leases")
        return str(leases[0].get("spec", {}).get("holderIdentity", "")) if leases else ""

    def close(self) -> None:
        """Ends what was started and removes the namespace."""
        for operator in self.operators:
            if operator.process.poll() is None:
                operator.kill()
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")
