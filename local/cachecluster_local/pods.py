"""The pods of a local cluster: `PodControl` over nodes made of processes, and their readiness."""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import Callable, Mapping

import aiohttp

from cachecluster_core.operator_view import Pod

from .node import Node
from .plan import METRICS_PORT, Plan

logger = logging.getLogger(__name__)

READY_PERIOD_S = 1.0
"""Pause between two looks at a ready node, as a pod's readiness probe."""
NOT_READY_PERIOD_S = 0.2
READY_TIMEOUT_S = 1.0


def new_secrets() -> dict[str, str]:
    """The cluster's Secret: passwords of the engine users and the token between pods, by file name."""
    names = ("agent-password", "gate-password", "repl-password", "peer-token")
    return {name: secrets.token_hex(32) for name in names}


class LocalPods:
    """PodControl. `on_change` is called whenever `pods()` or the processes behind it may have changed."""

    def __init__(self, plan: Plan, api_url: str, secrets: Mapping[str, str], on_change: Callable[[], None]) -> None:
        self._plan = plan
        self._api_url = api_url
        self._secrets = secrets
        self._on_change = on_change
        self._engine = plan.engine
        self._nodes: dict[str, Node] = {}
        self._ready: set[str] = set()
        self._outdated: set[str] = set()
        self._terminating: dict[str, asyncio.Task[None]] = {}
        self._terminated: set[str] = set()
        self._probes: dict[str, asyncio.Task[None]] = {}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes by number."""
        return tuple(sorted(self._nodes.values(), key=lambda node: node.number))

    def pods(self) -> tuple[Pod, ...]:
        """The pods as an API server would show them; each is a Kubernetes node of its own."""
        return tuple(
            Pod(
                uid=node.uid,
                name=node.name,
                host=node.address,
                node=f"node-{node.number}",
                ready=node.uid in self._ready,
                terminating=node.uid in self._terminating,
                terminated=node.uid in self._terminated,
                outdated=node.uid in self._outdated or node.engine != self._engine,
                engine=node.engine,
            )
            for node in self.nodes
        )

    async def create(self, number: int) -> None:
        """Start pod `<name>-<number>`, unless there is one."""
        if any(node.number == number for node in self._nodes.values()):
            return
        uid = str(uuid.uuid4())
        node = Node(self._plan, number, uid, self._engine, self._api_url, self._secrets, self._on_change)
        node.start()
        self._nodes[uid] = node
        self._probes[uid] = asyncio.create_task(self._probe(node))
        self._on_change()

    async def delete(self, uid: str, name: str, reason: str) -> None:
        """Drain exactly this pod, stop it and forget it. Returns at once, as an API server does."""
        node = self._nodes.get(uid)
        if node is None or uid in self._terminating:
            return
        logger.info("deleting %s: %s", name, reason)
        self._terminating[uid] = asyncio.create_task(self._end(node))
        self._probes.pop(uid).cancel()
        self._set_ready(uid, False)
        self._on_change()

    def use_engine(self, engine: str) -> None:
        """What pods are made with from now on; those that have another engine are outdated."""
        if engine != self._engine:
            self._engine = engine
            self._on_change()

    def mark_outdated(self, name: str) -> bool:
        """Have a pod replaced, as one that was made from another template; False when there is none of that name."""
        found = [node.uid for node in self._nodes.values() if node.name == name]
        self._outdated.update(found)
        self._on_change()
        return bool(found)

    async def _end(self, node: Node) -> None:
        await node.drain()
        self._terminated.add(node.uid)
        self._on_change()
        await node.kill()
        del self._nodes[node.uid], self._terminating[node.uid]
        for noted in (self._outdated, self._terminated):
            noted.discard(node.uid)
        self._on_change()

    async def mark_not_ready(self, uid: str, name: str) -> None:
        """Not ready until its next probe says otherwise."""
        self._set_ready(uid, False)

    async def stop(self) -> None:
        """End all pods at once; nobody is left to whom one could hand over."""
        tasks = [*self._probes.values(), *self._terminating.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(node.kill() for node in self.nodes))

    def _set_ready(self, uid: str, ready: bool) -> None:
        if ready != (uid in self._ready):
            (self._ready.add if ready else self._ready.discard)(uid)
            self._on_change()

    async def _probe(self, node: Node) -> None:
        """What the kubelet's readiness probe is to a pod."""
        url = f"http://{node.address}:{METRICS_PORT}/readyz"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=READY_TIMEOUT_S)) as session:
            while True:
                try:
                    async with session.get(url) as response:
                        ready = response.ok
                except (aiohttp.ClientError, OSError, TimeoutError):
                    ready = False
                self._set_ready(node.uid, ready)
                await asyncio.sleep(READY_PERIOD_S if ready else NOT_READY_PERIOD_S)
