"""The hub of a development cluster: the machine of the control plane, of DNS, and of the way in from the host."""

import logging
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from cachecluster_devcluster import components, network
from cachecluster_devcluster.api import Api, wait
from cachecluster_devcluster.namespaces import Machine, run
from cachecluster_devcluster.processes import Ledger, ProcessError

log = logging.getLogger(__name__)

API_SECONDS = 90.0
STOP_SECONDS = 10.0
FORWARDER = "forwarder"
# The far half of the forwarder, in the hub, listens on this socket in the state folder; both halves change into the
# folder first, because the path of a socket holds at most 107 bytes.
SOCKET = "api.sock"


class Hub:
    """Starts and stops the control plane's components."""

    def __init__(self, machine: Machine, ledger: Ledger, kube: Path, pki: Path) -> None:
        self.machine = machine
        self._ledger = ledger
        self._kube = kube
        self._pki = pki

    def start_machine(self) -> None:
        """The machine and its bridge."""
        self.machine.folder.mkdir(parents=True, exist_ok=True)
        (self.machine.folder / "resolv.conf").write_text(network.resolv_conf())
        self.machine.start()
        self.machine.shell(network.HUB_SCRIPT)

    def start_control_plane(self, api: Api, coredns: Path, kubectl: Callable[..., str]) -> None:
        """etcd, the API server, the controllers and DNS; returns when pods can be made."""
        self.machine.spawn("etcd", components.etcd(self._kube, self.machine.folder / "etcd"))
        self.start_api(api)
        for name, argv in (
            ("kube-controller-manager", components.controller_manager(self._kube, self._pki)),
            ("kube-scheduler", components.scheduler(self._kube, self._pki)),
        ):
            self.machine.spawn(name, argv)
        # Before CoreDNS starts: one that is refused tries again only after seconds.
        kubectl("apply", "--server-side", "-f", "-", input_text=components.coredns_access())
        self._start_coredns(coredns)
        wait("the default ServiceAccount", api.has_default_service_account, API_SECONDS)

    def start_api(self, api: Api) -> None:
        """Starts the API server when it does not run, and waits until it is ready."""
        if self.machine.component("kube-apiserver") is None:
            self.machine.spawn("kube-apiserver", components.api_server(self._kube, self._pki))
        wait(f"the API server (log: {self.machine.folder}/kube-apiserver.log)", api.ready, API_SECONDS)

    def stop_api(self) -> bool:
        """Kills the API server; False when it did not run."""
        self.signal_api(signal.SIGCONT)
        if not self.signal_api(signal.SIGKILL):
            return False
        wait("end of the API server", lambda: self.machine.component("kube-apiserver") is None, STOP_SECONDS)
        return True

    def signal_api(self, number: signal.Signals) -> bool:
        """Sends a signal to the API server, e.g. SIGSTOP to freeze it; False when it does not run."""
        return self.machine.signal("kube-apiserver", number)

    def start_forwarder(self, port: int, state: Path) -> None:
        """127.0.0.1:port of the host leads to the API server, for as long as the hub lives."""
        listen = f"cd {shlex.quote(str(state))} && exec socat UNIX-LISTEN:{SOCKET},fork,unlink-early,backlog=64 "
        self.machine.spawn(FORWARDER, ["sh", "-c", f"{listen} TCP:{network.HUB_ADDRESS}:{network.API_PORT}"])
        wait("the forwarder in the hub", (state / SOCKET).exists, STOP_SECONDS)
        outer = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,backlog=64"
        argv = ["sh", "-c", f"cd {shlex.quote(str(state))} && exec socat {outer} UNIX-CONNECT:{SOCKET}"]
        self._ledger.spawn(FORWARDER, argv, self.machine.folder / "forwarder-host.log")

    def start_proxy(self, node: str) -> None:
        """Makes Services reachable from the hub: a kube-proxy that takes the view of one node.

        It has no Node of its own, and a proxy without one waits half a minute for it.
        """
        config = self.machine.folder / "kube-proxy.json"
        config.write_text(components.kube_proxy_config(self._pki, node))
        self.machine.spawn("kube-proxy", components.kube_proxy(self._kube, config))

    def resolves(self) -> bool:
        """Whether cluster DNS knows the API server's name."""
        try:
            run(self.client_command(["getent", "hosts", f"kubernetes.default.svc.{network.CLUSTER_DOMAIN}."]))
        except ProcessError:
            return False
        return True

    def client_command(self, argv: Sequence[str]) -> list[str]:
        """A command line that runs `argv` with the hub's network and DNS, and else as a process of the host.

        No fork lies between: a signal to the process reaches the program.
        """
        resolver = self.machine.folder / "resolv.conf"
        script = 'mount --bind "$0" /etc/resolv.conf; exec "$@"'
        enter = ["nsenter", "-t", str(self.machine.init), "-n", "--"]
        return [*enter, "unshare", "-m", "--propagation", "private", "sh", "-ec", script, str(resolver), *argv]

    def _start_coredns(self, coredns: Path) -> None:
        corefile = self.machine.folder / "Corefile"
        corefile.write_text(components.corefile(self._pki))
        self.machine.spawn("coredns", [str(coredns), "-conf", str(corefile)])
