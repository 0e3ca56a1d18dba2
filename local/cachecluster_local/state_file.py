"""The state file: where a local cluster listens and which processes it is made of, kept current as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .node import Node
from .plan import METRICS_PORT, Plan
from .processes import Process, is_alive, processes_under


@dataclass(frozen=True, slots=True)
class NodePids:
    """The processes of a node as found just now. `supervisor` is s6-svscan, the parent of the engines' supervisors."""

    agent: int | None
    supervisor: int | None
    routers: tuple[int, ...]
    engines: tuple[tuple[int, int], ...]

    def all_alive(self) -> bool:
        """Whether none of them has ended since."""
        pids = [*self.routers, *(pid for _, pid in self.engines), self.agent, self.supervisor]
        return all(pid is not None and is_alive(pid) for pid in pids)


def find_pids(nodes: Iterable[Node], state_dir: Path) -> list[tuple[Node, NodePids]]:
    """Look for the processes of all nodes. Children that an engine forks for a full sync are not counted."""
    running = processes_under(state_dir)
    return [(node, _pids_of(node, [it for it in running if it.cwd.is_relative_to(node.directory)])) for node in nodes]


def _pids_of(node: Node, running: list[Process]) -> NodePids:
    engines = {process.pid: process for process in running if process.cwd.parent == node.data_dir}
    return NodePids(
        agent=node.agent_pid,
        supervisor=node.supervisor_pid,
        routers=tuple(it.pid for it in running if any(".router" in word for word in it.arguments)),
        engines=tuple(
            sorted((int(it.cwd.name.removeprefix("p")), it.pid) for it in engines.values() if it.parent not in engines)
        ),
    )


def describe(plan: Plan, api_url: str, found: Iterable[tuple[Node, NodePids]]) -> dict[str, Any]:
    """The contents of the state file."""
    nodes = list(found)
    pids = [pids for _, pids in nodes]
    return {
        "plain": [[node.address, plan.port] for node, _ in nodes],
        "cluster": [[node.address, plan.cluster_port] for node, _ in nodes],
        "metrics": [[node.address, METRICS_PORT] for node, _ in nodes],
        "pids": {
            "router": [pid for it in pids for pid in it.routers],
            "agent": [it.agent for it in pids if it.agent is not None],
            "engine": [pid for it in pids for _, pid in it.engines],
        },
        "nodes": [_describe_node(node, it) for node, it in nodes],
        "engine": plan.engine,
        "partitions": plan.partitions,
        "api": api_url,
        "launcher": os.getpid(),
        "stateDir": str(plan.state_dir),
    }


def _describe_node(node: Node, pids: NodePids) -> dict[str, Any]:
    return {
        "name": node.name,
        "address": node.address,
        "uid": node.uid,
        "pids": {
            "agent": pids.agent,
            "supervisor": pids.supervisor,
            "routers": list(pids.routers),
            "engines": {str(partition): pid for partition, pid in pids.engines},
        },
    }


def write(path: Path, state: dict[str, Any]) -> None:
    """Replace the file in one step: readers see the old or the new state, whole. OSError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(state, indent=1) + "\n")
    temporary.replace(path)
