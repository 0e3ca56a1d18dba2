"""What one run of `cachecluster-local` is to be: the parsed flags, and the addresses and directories that follow."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "local"
MAX_NODES = 64
CLUSTER_PORT_OFFSET = 1000
AGENT_PORT = 7380
METRICS_PORT = 9121
REPLICATION_PORT = 17000


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes are bytes, times seconds; `nodes` are those at the start. `state_dir` exists;
    `remove_state_dir` says that it is ours to delete."""

    nodes: int
    partitions: int
    replication_factor: int
    memory: str
    port: int
    engine: str
    engine_binary: Path
    router_workers: int
    first_address: str
    state_dir: Path
    remove_state_dir: bool
    state_file: Path | None
    repair_delay_s: int
    lost_after_s: int
    durability: str = "async"
    reads: str = "primary"
    min_in_sync: int | None = None
    users_file: Path | None = None
    name: str = "local"

    @property
    def cluster_port(self) -> int:
        """The port of the cluster protocol on every node."""
        return self.port + CLUSTER_PORT_OFFSET

    def address(self, number: int) -> str:
        """The loopback address of pod `<name>-<number>`."""
        return str(ipaddress.IPv4Address(self.first_address) + number)

    def node_dir(self, number: int) -> Path:
        """The directory of everything that pod `<name>-<number>` has and runs."""
        return self.state_dir / f"node-{number}"


def check_ports(plan: Plan) -> None:
    """OSError naming the first port of a node that somebody else listens on."""
    for number in range(plan.nodes):
        for port in (plan.port, plan.cluster_port, AGENT_PORT, METRICS_PORT, REPLICATION_PORT):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((plan.address(number), port))
                except OSError as error:
                    raise OSError(error.errno, f"{plan.address(number)}:{port}: {error.strerror}") from error


def node_directories(state_dir: Path) -> tuple[Path, ...]:
    """The node directories that are there, of this run or an earlier one."""
    return tuple(state_dir.glob("node-*"))
