"""`make demo`: a Kubernetes, the operator from its chart and a CacheCluster called `demo`, and a proof that it answers.

Three ways to a Kubernetes, chosen in this order: the context that was named, kind where a Docker engine runs, the
development cluster elsewhere. Everything it leaves stands in build/demo; `down` removes all of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from cachecluster_devcluster import binaries, debian, image
from cachecluster_devcluster.cluster import DevCluster
from cachecluster_devcluster.main import Parser, log_to_stderr

log = logging.getLogger(__name__)

ROOT = image.ROOT
FOLDER = ROOT / "build/demo"
CHART = ROOT / "charts/cachecluster-operator"
EXAMPLE = ROOT / "crds/examples/minimal.yaml"
SYSTEM = "cachecluster-system"
RELEASE = "cachecluster"
DEMO = ("cachecluster", "demo")
CLIENT = "demo-client"
KIND = "sigs.k8s.io/kind@v0.32.0"
READY_SECONDS = 120
HOST = "demo.default.svc.cluster.local"


class Provider(Protocol):
    """A way to a Kubernetes. `image` is the name under which its nodes know CacheCluster's image."""

    image: str

    def up(self) -> None:
        """Make it, or find it; writes FOLDER/kubeconfig."""
        ...

    def down(self) -> None:
        """Remove what `up` made."""
        ...


class Development:
    """The development cluster of this repository: Linux, root, no Docker."""

    image = image.DEFAULT_TAG

    def __init__(self) -> None:
        self._cluster = DevCluster(FOLDER / "devcluster")

    def up(self) -> None:
        """Builds what is missing (ten minutes the first time on a machine) and starts three nodes with the image."""
        debian.install()
        archive = image.build(ROOT / image.DEFAULT_ARCHIVE)
        self._cluster.up(3, [archive])
        shutil.copyfile(self._cluster.kubeconfig, FOLDER / "kubeconfig")

    def down(self) -> None:
        """Removes the cluster with all that runs on it."""
        self._cluster.down()


class Kind:
    """kind on a Docker engine."""

    image = image.DEFAULT_TAG

    def up(self) -> None:
        """Builds the image with Docker, makes a cluster of three workers and loads the image into it."""
        run(["docker", "build", "--tag", self.image, str(ROOT)])
        config = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{"role": "control-plane"}]}
        config["nodes"] = [*config["nodes"], *({"role": "worker", "labels": _zone(i)} for i in (1, 2, 3))]
        (FOLDER / "kind.json").write_text(json.dumps(config))
        kubeconfig = ["--kubeconfig", str(FOLDER / "kubeconfig")]
        if "cachecluster-demo" not in output([self._kind(), "get", "clusters"]).split():
            run([self._kind(), "create", "cluster", "--name", "cachecluster-demo", *kubeconfig,
                 "--config", str(FOLDER / "kind.json")])  # fmt: skip
        run([self._kind(), "load", "docker-image", "--name", "cachecluster-demo", self.image])

    def down(self) -> None:
        """Removes the kind cluster."""
        run([self._kind(), "delete", "cluster", "--name", "cachecluster-demo"])

    def _kind(self) -> str:
        found = shutil.which("kind")
        if found:
            return found
        program = FOLDER / "bin/kind"
        if not program.exists():
            environment = os.environ | {"GOBIN": str(program.parent.resolve())}
            run([binaries.go_command(), "install", KIND], environment)
        return str(program)


class Existing:
    """A context of the user's kubeconfig; the image has to be where its nodes can pull it from ($IMAGE)."""

    def __init__(self, context: str) -> None:
        self._context = context
        self.image = os.environ.get("IMAGE", image.DEFAULT_TAG)

    def up(self) -> None:
        """Writes the context alone, with its credentials, to FOLDER/kubeconfig."""
        view = [str(kubectl_binary()), "config", "view", "--raw", "--minify", "--flatten", "--context", self._context]
        path = FOLDER / "kubeconfig"
        path.touch(mode=0o600)
        path.write_text(output(view))

    def down(self) -> None:
        """The cluster stays; only the demo and the operator are removed from it."""
        if (FOLDER / "kubectl").exists():
            kubectl("delete", *DEMO, "--ignore-not-found", "--wait")
            helm("uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found", "--wait")
            kubectl("delete", "namespace", SYSTEM, "--ignore-not-found")
            kubectl("delete", "--ignore-not-found", "-f", str(CHART / "crds"))


def _zone(number: int) -> dict[str, str]:
    return {"topology.kubernetes.io/zone": f"z{number}"}


def provider(context: str | None) -> Provider:
    """The way to a Kubernetes that this machine has. RuntimeError when there is none."""
    if context:
        return Existing(context)
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return Kind()
    if sys.platform == "linux" and os.geteuid() == 0:
        return Development()
    raise RuntimeError(
        "no Kubernetes to be had here: run a Docker engine (kind is used then), be root on Linux (the development "
        "cluster is used then), or name a context of your kubeconfig: make demo CONTEXT=name"
    )


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    """Run a command whose output the user sees. RuntimeError when it fails."""
    if subprocess.run(command, env=environment, check=False).returncode:
        raise RuntimeError(f"failed: {shlex.join(command)}")


def output(command: Sequence[str]) -> str:
    """Run a command for its output. RuntimeError with what it said when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"failed: {shlex.join(command)}\n{done.stderr}")
    return done.stdout


def kubectl_binary() -> Path:
    """kubectl of the Python environment, else of the PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = beside if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise RuntimeError("kubectl is neither in .venv/bin nor on the PATH: run `make install`")
    return Path(found)


def write_kubectl() -> None:
    """FOLDER/kubectl: kubectl for this cluster, without any option."""
    script = FOLDER / "kubectl"
    words = [str(kubectl_binary()), "--kubeconfig", str((FOLDER / "kubeconfig").resolve())]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)


def kubectl(*arguments: str) -> str:
    """Run FOLDER/kubectl for its output."""
    return output([str(FOLDER / "kubectl"), *arguments])


def helm(*arguments: str) -> str:
    """Run helm on this cluster."""
    program = shutil.which("helm") or str(binaries.binary(binaries.HELM))
    return output([program, "--kubeconfig", str(FOLDER / "kubeconfig"), *arguments])


def install_operator(name: str) -> None:
    """Install or upgrade the chart with this image."""
    repository, _, tag = name.rpartition(":")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    helm("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, "--create-namespace", "--wait",
         "--timeout", "120s", "--set", f"image.repository={repository}", "--set", f"image.tag={tag}")  # fmt: skip


def client(name: str, script: str) -> str:
    """Run a shell script in a pod of its own and return what it printed."""
    kubectl("delete", "pod", CLIENT, "--ignore-not-found", "--now")
    kubectl("run", CLIENT, f"--image={name}", "--restart=Never", "--command", "--", "sh", "-c", script)
    try:
        kubectl("wait", "pod", CLIENT, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")
        return kubectl("logs", CLIENT)
    finally:
        kubectl("delete", "pod", CLIENT, "--ignore-not-found", "--now")


def up(way: Provider) -> None:
    """Everything, from nothing to a value read back through the Service's DNS name."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    way.up()
    write_kubectl()
    log.info("installing the operator from %s", CHART.relative_to(ROOT))
    install_operator(way.image)
    log.info("kubectl apply -f %s", EXAMPLE.relative_to(ROOT))
    began = time.monotonic()
    kubectl("apply", "-f", str(EXAMPLE))
    kubectl("wait", "--for=condition=Ready", "/".join(DEMO), f"--timeout={READY_SECONDS}s")
    log.info("Ready %.1f s after apply", time.monotonic() - began)
    script = f"redis-cli -h {HOST} SET greeting 'hello from a pod' && redis-cli -h {HOST} GET greeting"
    answer = client(way.image, script)
    kubectl_path = os.path.relpath(FOLDER / "kubectl")
    sys.stdout.write(
        f"\n{kubectl('get', 'cc')}\n"
        f"$ {script}      # in a pod\n{answer}\n"
        f"Connect any Redis client, from any pod, to   {HOST}:6379\n"
        f"cluster-aware clients may use                demo-cluster.default.svc.cluster.local:6379\n\n"
        f"Look around:  {kubectl_path} get cc,pods,hashring     {kubectl_path} describe cc demo\n"
        f"A shell:      {kubectl_path} exec -it demo-0 -c sidecar -- redis-cli -h demo\n"
        f"Remove it:    make demo-down\n"
    )


def down(way: Provider) -> None:
    """Remove all that `up` made."""
    way.down()
    shutil.rmtree(FOLDER, ignore_errors=True)
    sys.stdout.write("removed\n")


def main() -> int:
    """The command behind `make demo` and `make demo-down`."""
    parser = Parser(prog="demo", description="A Kubernetes with CacheCluster and a cluster called demo.")
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--context", help="use this context of your kubeconfig; $IMAGE names the image to pull")
    options: argparse.Namespace = parser.parse_args()
    log_to_stderr()
    try:
        (up if options.action == "up" else down)(provider(options.context))
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
