"""The operator as users install it: the CRDs, and a release of the chart."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from cachecluster_devcluster.cluster import DevCluster

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/cachecluster-operator"
WAIT = "120s"


@dataclass(frozen=True, slots=True)
class Release:
    """One release: `name` is also that of its Deployment and Lease; `watched` is where its CacheClusters are."""

    cluster: DevCluster
    helm: Path
    name: str
    namespace: str
    watched: str

    def install(self, image: str, *sets: str) -> None:
        """Install it, with CRDs and namespaces, and wait until it runs. CacheClusters' pods must be "restricted"."""
        self.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
        for namespace in (self.namespace, self.watched):
            self.cluster.kubectl("create", "namespace", namespace)
            self.cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
        repository, _, tag = image.rpartition(":")
        values = (f"image.repository={repository}", f"image.tag={tag}", f"watchNamespaces={{{self.watched}}}", *sets)
        arguments = [argument for value in values for argument in ("--set", value)]
        self._helm("install", self.name, str(CHART), "--wait", "--timeout", WAIT, *arguments)

    def uninstall(self) -> None:
        """Remove the release; namespaces and CRDs stay."""
        self._helm("uninstall", self.name, "--wait", "--timeout", WAIT)

    def remove_namespaces(self) -> None:
        """Delete both namespaces, without waiting."""
        self.cluster.kubectl("delete", "namespace", self.watched, self.namespace, "--wait=false")

    def _helm(self, *arguments: str) -> None:
        options = ["--kubeconfig", str(self.cluster.kubeconfig), "--namespace", self.namespace]
        done = subprocess.run([self.helm, *options, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
