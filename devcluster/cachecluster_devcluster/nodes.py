"""One node of a development cluster: its machine, network, containerd, kubelet and proxy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cachecluster_devcluster import cgroups, components, images, network
from cachecluster_devcluster.namespaces import Machine, run


@dataclass(frozen=True, slots=True)
class NodeSetup:
    """What all nodes of a cluster share."""

    kube: Path
    pki: Path
    nodes: Sequence[str]
    cgroup_root: str
    hub: Machine


class Node:
    """Starts one node; its machine knows the rest of its life."""

    def __init__(self, machine: Machine, setup: NodeSetup) -> None:
        self.machine = machine
        self.name = machine.name
        self._setup = setup

    @property
    def cgroup(self) -> str:
        """The control group beneath which the kubelet puts the pods."""
        return f"{self._setup.cgroup_root}/{self.name}"

    def prepare(self, store: Path | None) -> None:
        """Everything up to a running containerd; needs no API server.

        `store` is the image store to begin with; None for a node that has run before and keeps its disk.
        """
        folder = self.machine.folder
        # The groups of dead containers would cost the kubelet seconds each when it starts.
        cgroups.remove(f"{self.cgroup}/kubepods")
        cgroups.make(self.cgroup)
        if store is not None:
            images.lay_store(store, folder / "varlib" / "containerd")
        self.machine.start()
        self._connect()
        (folder / "cni").mkdir(exist_ok=True)
        (folder / "cni" / "10-devcluster.conflist").write_text(network.cni_config(self.name))
        images.start_containerd(self.machine, folder / "cni")

    def start_kubernetes(self) -> None:
        """Starts kubelet and kube-proxy; returns at once."""
        folder, setup = self.machine.folder, self._setup
        # An empty file: the pods of a cluster without a way out need no resolver of the host.
        (folder / "pods-resolv.conf").write_text("")
        kubelet_config, proxy_config = folder / "kubelet.json", folder / "kube-proxy.json"
        kubelet_config.write_text(
            components.kubelet_config(setup.pki, self.name, self.cgroup, folder / "pods-resolv.conf")
        )
        proxy_config.write_text(components.kube_proxy_config(setup.pki, self.name))
        self.machine.spawn("kubelet", components.kubelet(setup.kube, setup.pki, self.name, kubelet_config))
        self.machine.spawn("kube-proxy", components.kube_proxy(setup.kube, proxy_config))

    def _connect(self) -> None:
        hub = self._setup.hub
        hub.shell(network.plug_script(self.name))
        # Only the hub's network is entered: the node's pid must resolve, and it does so in the host's pid namespace.
        move = ["ip", "link", "set", f"{self.name}p", "netns", str(self.machine.init)]
        run(["nsenter", "-t", str(hub.init), "-n", "--", *move])
        self.machine.shell(network.node_script(self.name, self._setup.nodes))
