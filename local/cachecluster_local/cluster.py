"""A whole CacheCluster on loopback: the operator's control loop, the map in memory, and nodes made of processes.

Nothing here decides anything about the cluster; it composes what the operator and the sidecar are made of.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from cachecluster_core.hashring import State
from cachecluster_core.operator_step import operator_step
from cachecluster_core.spec import CacheClusterSpec
from cachecluster_operator.capacity import holdings_of
from cachecluster_operator.change_track import ChangeTrack
from cachecluster_operator.control import ControlLoop, Step
from cachecluster_operator.in_effect import InEffect, in_effect
from cachecluster_operator.labels import ENGINE_ANNOTATION
from cachecluster_operator.pause import Pause
from cachecluster_operator.snapshot import ClusterSnapshot
from cachecluster_operator.status import compose_status
from cachecluster_operator.status_figures import Known

from . import state_file
from .api import LocalApi
from .control_api import Change, control_routes
from .desired import spec_of
from .engines import Missing, engine_binary
from .guard import READY
from .map_store import MemoryMapStore
from .plan import AGENT_PORT, MAX_NODES, NAMESPACE, Plan, check_ports, node_directories
from .pods import LocalPods, new_secrets
from .processes import kill_under
from .state_file import NodePids

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often the known processes are checked for life."""
LOOK_AGAIN_S = 1.0
"""How soon a wish that is not in effect because of what copies hold is looked at again."""
SCAN_S = 5.0
"""... and all processes are looked for even when nothing seems to have changed."""


class LocalCluster:
    """Runs one plan: `async with LocalCluster(plan, spec) as cluster`, then `await cluster.wait_ready()`.

    Leaving the block stops everything. `state` is what the state file says. `step` decides in place of `operator_step`,
    for measurements that order hand-overs themselves.
    """

    def __init__(self, plan: Plan, spec: CacheClusterSpec, step: Step = operator_step) -> None:
        self.plan = plan
        self._step = step
        self._spec = spec
        self._paused = False
        self._track = ChangeTrack()
        self._looked_at = 0.0
        self.store = MemoryMapStore(NAMESPACE)
        self.snapshot: ClusterSnapshot | None = None
        self.state: dict[str, Any] = {}
        self._api = LocalApi(self.store, plan.first_address, control_routes(self))
        self._ready = asyncio.Event()
        self._touched = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._guard: asyncio.subprocess.Process | None = None
        self._pods: LocalPods
        self._token = ""
        self._operators: list[tuple[ControlLoop, asyncio.Task[None]]] = []

    async def __aenter__(self) -> LocalCluster:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def wait_ready(self) -> None:
        """Until every node is Ready, every partition is served with all its copies, and the state file says so."""
        ready = asyncio.create_task(self._ready.wait())
        done, _ = await asyncio.wait([ready, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        if ready not in done:
            ready.cancel()
            self.check()

    def check(self) -> None:
        """Raises what has ended one of the cluster's own tasks, if anything has."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()
                raise RuntimeError(f"{task.get_name()} ended")

    async def run(self) -> None:
        """Until cancelled, or until one of the cluster's own tasks fails: then raises why."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self.check()

    async def _start(self) -> None:
        plan = self.plan
        await asyncio.to_thread(kill_under, *node_directories(plan.state_dir))
        self._guard = await self._start_guard()
        check_ports(plan)
        await self._api.start()
        secrets = new_secrets()
        self._pods = LocalPods(plan, self._api.url, secrets, self._on_pods)
        self._token = secrets["peer-token"]
        self._tasks = [self.start_operator(), asyncio.create_task(self._keep_state(), name="state file")]

    def start_operator(self) -> asyncio.Task[None]:
        """Run a control loop, as a task to cancel. Several may run at once: the versions of the map decide."""
        loop = ControlLoop(
            name=self.plan.name,
            store=self.store,
            pods=self._pods,
            agent_port=AGENT_PORT,
            cluster_port=self.plan.cluster_port,
            token=self._token,
            on_change=self._on_snapshot,
            step=self._step,
        )
        loop.desire(self._in_effect().desired)
        task = asyncio.create_task(loop.run(), name="control loop")
        self._operators.append((loop, task))
        return task

    async def _start_guard(self) -> asyncio.subprocess.Process:
        what = "remove" if self.plan.remove_state_dir else "keep"
        guard = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "cachecluster_local.guard",
            str(self.plan.state_dir),
            what,
            cwd="/",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert guard.stdout is not None
        if await guard.stdout.readline() != READY:
            raise RuntimeError("the guard did not start")
        return guard

    async def _stop(self) -> None:
        tasks = [*self._tasks, *(task for _, task in self._operators)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(self, "_pods"):
            await self._pods.stop()
        await self._api.stop()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            await self._guard.wait()
        if self.plan.state_file is not None:
            self.plan.state_file.unlink(missing_ok=True)

    @property
    def operator_tasks(self) -> tuple[asyncio.Task[None], ...]:
        """The control loops started so far."""
        return tuple(task for _, task in self._operators)

    # -- what may be asked of it (control_api) -------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The status that a CacheCluster would have."""
        return compose_status(self._known(), {}, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def change(self, wanted: Change) -> dict[str, Any]:
        """Desire something else from now on; what is desired, and what of it is pending. ValueError: it cannot be."""
        nodes = self._spec.nodes if wanted.nodes is None else wanted.nodes
        engine = self._spec.engine if wanted.engine is None else wanted.engine
        evict = self._spec.scale_in.when_full == "evict" if wanted.evict is None else wanted.evict
        if nodes > MAX_NODES:
            raise ValueError(f"nodes: {nodes} is more than {MAX_NODES}")
        try:
            engine_binary(engine, self.plan.state_dir / "bin")
        except Missing as error:
            raise ValueError(f"engine: {error}") from error
        self._spec = spec_of(self.plan, nodes, engine, evict)
        self._paused = self._paused if wanted.paused is None else wanted.paused
        effect = self._desire()
        pending = [pending.message for pending in effect.pending]
        return {"nodes": nodes, "paused": self._paused, "engine": engine, "evict": evict, "pending": pending}

    def mark_outdated(self, name: str) -> bool:
        """Have a node replaced; False when there is none of that name."""
        return self._pods.mark_outdated(name)

    async def delete_node(self, name: str) -> bool:
        """Begin to end a node in order; False when there is none of that name."""
        found = [node for node in self._pods.nodes if node.name == name]
        for node in found:
            await self._pods.delete(node.uid, node.name, "asked for")
        return bool(found)

    def _in_effect(self) -> InEffect:
        ending = {pod.uid for pod in self._pods.pods() if pod.terminating}
        pods = [
            {"metadata": {"uid": node.uid, "annotations": {ENGINE_ANNOTATION: node.engine}}}
            for node in self._pods.nodes
            if node.uid not in ending
        ]
        agents = self._operators[-1][0].agents() if self._operators else {}
        held = holdings_of(self.store.current, agents)
        return in_effect(self._spec, pods, held, self._paused)

    def _desire(self) -> InEffect:
        effect = self._in_effect()
        self._pods.use_engine(effect.spec.engine)
        for loop, _ in self._operators:
            loop.desire(effect.desired)
        return effect

    def _known(self) -> Known:
        return Known(
            generation=0,
            selector="",
            effect=self._in_effect(),
            pods=self._pods.pods(),
            snapshot=self.snapshot,
            pause=Pause(self._paused),
            progress=self._track.progress,
        )

    # -- what changes --------------------------------------------------------------------------------------------------

    def _on_pods(self) -> None:
        for loop, _ in self._operators:
            loop.pods_changed()
        self._touched.set()

    def _on_snapshot(self, snapshot: ClusterSnapshot) -> None:
        for event in (*snapshot.events, *self._track.observe(snapshot)):
            logger.log(logging.WARNING if event.warning else logging.INFO, "%s: %s", event.reason, event.note)
        if snapshot.waiting_for and (self.snapshot is None or snapshot.waiting_for != self.snapshot.waiting_for):
            logger.info("waiting for %s", "; ".join(snapshot.waiting_for))
        self.snapshot = snapshot
        self._touched.set()
        if snapshot.now - self._looked_at >= LOOK_AGAIN_S:
            self._looked_at = snapshot.now
            self._desire()

    async def _keep_state(self) -> None:
        """Keep the state file current, from the moment the cluster is ready for the first time."""
        known: list[NodePids] = []
        loop = asyncio.get_running_loop()
        scan_at = loop.time()
        while True:
            if self._touched.is_set() or loop.time() >= scan_at or not all(pids.all_alive() for pids in known):
                self._touched.clear()
                found = await asyncio.to_thread(state_file.find_pids, self._pods.nodes, self.plan.state_dir)
                known, scan_at = [pids for _, pids in found], loop.time() + SCAN_S
                self._take_state(state_file.describe(self.plan, self._api.url, found))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._touched.wait()
            except TimeoutError:
                continue

    def _take_state(self, state: dict[str, Any]) -> None:
        changed, self.state = state != self.state, state
        ready = self._ready.is_set() or (self.snapshot is not None and _is_ready(self.snapshot))
        if ready and self.plan.state_file is not None and (changed or not self._ready.is_set()):
            state_file.write(self.plan.state_file, state)
        if ready:
            self._ready.set()


def _is_ready(snapshot: ClusterSnapshot) -> bool:
    """All nodes are Ready, every partition is served and has all its copies."""
    desired, ring = snapshot.desired, snapshot.map
    if ring is None or len(snapshot.pods) < desired.nodes or not all(pod.ready for pod in snapshot.pods):
        return False
    copies = desired.settings.replication_factor
    serving = (State.STABLE, State.MOVING)
    return all(entry.state in serving and len(entry.isr) >= copies for entry in ring.entries)
