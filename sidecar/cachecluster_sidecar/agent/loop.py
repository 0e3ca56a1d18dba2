"""The agent's loop: observe, `agent_step`, carry out in the order marks, gates, messages, commands; and again.

Nothing is decided here. The loop sleeps until something changed, and looks at everything twice a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cachecluster_core.agent_step import agent_step
from cachecluster_core.agent_view import (
    AgentDecision,
    AgentView,
    Command,
    Configure,
    HandoverMessage,
    PromiseAsk,
    Restart,
    Start,
)
from cachecluster_core.copy_state import CopyState
from cachecluster_core.handover import is_shutting
from cachecluster_core.hashring import HashRing
from cachecluster_core.partial_step import continued
from cachecluster_core.pod_table import Marks
from cachecluster_core.replica_reads import readable_until
from cachecluster_core.report import USERS_KNOWN, Process, Report

from ..metrics import SidecarMetrics
from .clock import boottime_ns
from .copy import LocalCopy
from .engine_process import Engine, EngineProcess
from .gates import Gates
from .handover import HOLD_S, HandOvers
from .handover_account import HandOverAccount
from .hearsay import Hearsay
from .map_client import MapRead
from .map_news import changed_entries, filled_from
from .peer_agents import PeerAgents
from .promise_talk import PromiseTalk
from .remembered import Remembered
from .router_hub import RouterHub
from .routes import build_routes, local_partitions, serving_copy
from .supervisor import Supervisor
from .table import PodTable, read_header

log = logging.getLogger(__name__)

TICK_S = 0.5
HAND_OVER_TICK_S = 0.005
"""While a gate is shut for a hand-over: its time must not pass unnoticed."""
ANSWER_TICK_S = 0.02
"""While another agent's answer is waited for: it wakes the loop, and may not come for as long as the API is away."""
QUICK_S = HOLD_S * 1.2
"""How long a copy is looked at quickly after a message of its primary, which comes again while it matters."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is; `boot_id` is the kernel's, `incarnation` this process'; `engine` is as in `Report.engine`."""

    pod: str
    incarnation: str
    boot_id: str
    engine: str = ""


class AgentLoop:
    """Owns the pod table and the copies. `on_report` is called after every step."""

    def __init__(
        self,
        identity: Identity,
        table_path: Path,
        engine: Engine,
        supervisor: Supervisor,
        remembered: Remembered,
        metrics: SidecarMetrics,
        peers: PeerAgents,
        cluster_port: int,
        on_report: Callable[[Report], None],
    ) -> None:
        self._identity = identity
        self._table_path = table_path
        self._engine = engine
        self._supervisor = supervisor
        self._remembered = remembered
        self._metrics = metrics
        self._cluster_port = cluster_port
        self._on_report = on_report
        self._hub: RouterHub | None = None
        self._table: PodTable | None = None
        self._marks: dict[int, Marks] = {}
        self._gates = Gates()
        self.handovers = HandOvers(identity.pod, peers, self.wake, self._tell_routes, self._look_quickly)
        self._promises = PromiseTalk(identity.pod, peers, self.wake)
        self._hearsay = Hearsay(identity.pod, peers, self._tell_routes)
        self._account = HandOverAccount(identity.pod, metrics)
        self._copies: dict[int, LocalCopy] = {}
        self._processes: dict[int, Process] = {}
        self._ring: HashRing | None = None
        self._filling: tuple[int, ...] = ()
        self._sent_ns = 0
        self._margin_s = 0.0
        self._read_failing = False
        self._promise_asks: dict[str, Mapping[int, PromiseAsk]] = {}
        self._promised: Mapping[str, frozenset[int]] = {}
        self._shutting: frozenset[int] = frozenset()
        self._last = AgentDecision()
        self._wake = asyncio.Event()
        self._changed: set[int] = set()
        self._all_changed = True
        self._loop = asyncio.get_running_loop()
        self.stepped_at = self._loop.time()
        self.draining = False
        self.report: Report | None = None

    async def attach(self, hub: RouterHub) -> None:
        """Take over what an earlier agent left: the pod table, the last map, running processes."""
        self._hub = hub
        self._gates.use_hub(hub)
        self._remembered.load()
        header = read_header(self._table_path)
        if header is not None:
            self._open_table(header[0])
        self._tell_routes()
        found = self._supervisor.partitions()
        adopted = (self._copy(p).attach(self._marks.get(p, Marks()).run_id) for p in found)
        await asyncio.gather(*adopted)

    def wake(self, *partitions: int) -> None:
        """Something changed about these partitions, or, without any, perhaps about all: step soon."""
        self._changed.update(partitions)
        self._all_changed |= not partitions
        self._wake.set()

    def take_read(self, read: MapRead) -> None:
        """A quorum read succeeded. OSError when what must be written before acting on it cannot be written."""
        self._margin_s = self.authority_s
        if read.ring is not None:
            if self._table is None:
                self._open_table(len(read.ring.entries))
            self._remembered.take(read.ring)
        if read.ring is not self._ring:
            self._filling = filled_from(read.ring, self._identity.pod)
            self._changed |= changed_entries(self._ring, read.ring)  # these first, then all
        self._ring, self._sent_ns = read.ring, read.sent_ns
        self.handovers.use_map(read.ring)
        self._hearsay.read_succeeded()
        self._tell_routes()
        if self._hub is not None:
            self._hub.read_succeeded(read.sent_ns, self._gates.notices())
        self.wake()

    def read_attempted(self, seconds: float, succeeded: bool) -> None:
        """A quorum read ended. At the first failure others are asked for promises, at each for what they know."""
        if not succeeded:
            self._hearsay.read_failed(self._known_ring)
        if self._read_failing == succeeded:
            self._read_failing = not succeeded
            self.wake()
        self._metrics.quorum_read(seconds, succeeded, self._margin_s)

    @property
    def ring(self) -> HashRing | None:
        """The map by the last successful read."""
        return self._ring

    @property
    def authority_s(self) -> float:
        """How long authority lasts, negative since when it has lapsed, 0 without a map."""
        if self._ring is None:
            return 0.0
        return self._ring.settings.authority_s - (boottime_ns() - self._sent_ns) / 1e9

    @property
    def is_primary(self) -> bool:
        """A copy of this pod serves a partition: by the map, or by what its successor said since."""
        entries = self._ring.entries if self._ring is not None else ()
        serving = (serving_copy(entry, self.handovers.taken_over.get(p)) for p, entry in enumerate(entries))
        return any(copy is not None and copy.pod == self._identity.pod for copy in serving)

    def open_gates(self) -> dict[int, tuple[int, int]]:
        """Epoch and milliseconds of authority left of every open gate."""
        return self._gates.open_gates()

    def replica_lag(self) -> dict[int, int]:
        """Bytes that the slowest attached replica is behind, of every partition that is primary here."""
        views = {partition: copy.view() for partition, copy in self._copies.items()}
        return {
            partition: max(0, view.offset - min(replica.offset for replica in view.attached))
            for partition, view in views.items()
            if view.source is None and view.process is Process.UP and view.attached
        }

    async def run(self) -> None:
        """Step until cancelled."""
        next_tick = next_look = 0.0
        while True:
            now = self._loop.time()
            looking = bool(self._shutting) or self.handovers.busy
            due = min([next_tick, *(copy.due for copy in self._copies.values()), *([next_look] if looking else [])])
            if due > now and not self._wake.is_set():
                try:
                    async with asyncio.timeout(due - now):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            now = self._loop.time()
            self._poll(now)
            if looking and next_look <= now:
                next_look = now + (HAND_OVER_TICK_S if self._shutting else ANSWER_TICK_S)
                self._look_after_handovers()
            if next_tick <= now:
                next_tick = (now // TICK_S + 1) * TICK_S
                self.wake()
            if self._wake.is_set():
                await self._step_what_changed()

    def _poll(self, now: float) -> None:
        for copy in self._copies.values():
            if copy.due <= now:
                copy.poll(now)
        for partition in self._filling:
            if (filling := self._copies.get(partition)) is not None:
                filling.hasten()

    async def _step_what_changed(self) -> None:
        """Most of what happens concerns one partition; it must not wait until all others have been stepped."""
        self._wake.clear()
        everything, self._all_changed = self._all_changed, False
        if self._changed:
            only, self._changed = frozenset(self._changed), set()
            self.step(only)
            await asyncio.sleep(0)
        if everything:
            self.step()
            await asyncio.sleep(0)

    def promise(self, asker: str, asks: Mapping[int, PromiseAsk]) -> frozenset[int]:
        """Another agent asks for promises: the partitions for which they are given, and written down."""
        if self._table is None:
            return frozenset()
        self._promise_asks = {asker: asks}
        try:
            self.step(frozenset(asks))
            return self._promised.get(asker, frozenset())
        finally:
            self._promise_asks = {}

    def step(self, only: frozenset[int] | None = None) -> None:
        """Decide once, about all partitions or only these, and carry it out."""
        view = self._view(only)
        self._count_deaths(view)
        decision = agent_step(view)
        if only is not None:
            decision = continued(self._last, decision, only)
        self._last = decision
        self._tell_readable(view, decision)
        self._carry_out(decision)
        self._promised = decision.promised
        self.stepped_at = self._loop.time()
        if decision.report is not None:
            self.report = replace(
                decision.report,
                incarnation=self._identity.incarnation,
                engine=self._identity.engine,
                routers=self._hub.admitted if self._hub is not None else 0,
                clients=self._hub.clients if self._hub is not None else 0,
                users=self._told_of_users(),
                draining=self.draining,
            )
            self._on_report(self.report)

    def _told_of_users(self) -> str:
        users = self._hub.users if self._hub is not None else None
        return "" if users is None else users.trouble or USERS_KNOWN

    async def shut_all(self, timeout_s: float) -> None:
        """The end of this agent: shut every gate, and wait until the routers have confirmed it."""
        await self._gates.shut_all(timeout_s, self._wake)

    async def close(self) -> None:
        """Let go of everything without touching it."""
        await self._promises.close()
        await self._hearsay.close()
        await self.handovers.close()
        for copy in self._copies.values():
            await copy.close()
        if self._table is not None:
            self._table.close()

    def _view(self, only: frozenset[int] | None) -> AgentView:
        shown = self._copies if only is None else {p: self._copies[p] for p in only if p in self._copies}
        return AgentView(
            pod=self._identity.pod,
            map=self._ring,
            confirmed_at_ns=self._sent_ns,
            now_ns=boottime_ns(),
            taken=self._remembered.taken,
            marks=self._marks,
            gates=self._gates.views(only),
            copies={partition: copy.view() for partition, copy in shown.items()},
            replication_port=self._engine.replication_port,
            words=self.handovers.words,
            asked=self.handovers.asked,
            taken_over=self.handovers.taken_over,
            read_failing=self._read_failing,
            promises=self._promises.promises,
            promise_asks=self._promise_asks,
            only=only,
        )

    def _tell_readable(self, view: AgentView, decision: AgentDecision) -> None:
        """Which copies may answer reads, before anything is done to one: a copy that is about to change may not."""
        if self._table is None:
            return
        changing = {command.partition for command in decision.commands if not isinstance(command, Configure)}
        for partition in view.copies.keys() | changing:
            until_ns = 0 if partition in changing else readable_until(CopyState(view, partition))
            if until_ns != self._table.readable_ns(partition):
                self._table.write_readable(partition, until_ns)

    def _carry_out(self, decision: AgentDecision) -> None:
        if self._table is None:
            assert not decision.marks and not decision.gates and not decision.commands, "decided without a map"
            return
        for partition, marks in decision.marks.items():
            self._table.write_marks(partition, marks)
            self._account.marks_changed(partition, self._marks.get(partition, Marks()), marks)
            self._marks[partition] = marks
        if decision.marks:
            self._shutting = _shutting(self._marks)
        self._gates.change(decision.gates)
        self._gates.be_patient(self._shutting)
        if self._read_failing:
            self._gates.promised(self._identity.pod, self._promises.promises)
        self.handovers.carry_out(decision)
        self._promises.carry_out(decision.asks, self._ring)
        self._account.settle(self._ring, self.handovers.taken_over, boottime_ns())
        for command in decision.commands:
            self._execute(command)
        self._forget_absent()
        changed = {*decision.marks, *(change.partition for change in decision.gates if change.new_generation)}
        if changed:
            self.wake(*changed)  # the report is about the view before; a deadline that was moved changes nothing in it

    def _look_after_handovers(self) -> None:
        """A hand-over that goes on here has its time, which must not pass unnoticed."""
        going_on = {*self._shutting, *self.handovers.said}
        if going_on:
            self.wake(*going_on)

    def _look_quickly(self, message: HandoverMessage) -> None:
        """A primary waits until the copy here has its final offset; with the token it has."""
        copy = self._copies.get(message.partition)
        if copy is not None and message.offset >= 0:
            copy.quicken(0.0 if message.token else QUICK_S)

    def _execute(self, command: Command) -> None:
        copy = self._copy(command.partition)
        copy.execute(command, self._engine_settings())
        if copy.busy:
            log.info("%s", command)
            self.wake(command.partition)
        if isinstance(command, Start | Restart):
            self._metrics.engine_started()

    def _engine_settings(self) -> Mapping[str, str]:
        return dict(self._ring.settings.engine_config) if self._ring is not None else {}

    def _copy(self, partition: int) -> LocalCopy:
        copy = self._copies.get(partition)
        if copy is None:
            process = EngineProcess(partition, self._engine, self._supervisor)
            copy = self._copies[partition] = LocalCopy(partition, process, partial(self.wake, partition))
        return copy

    def _forget_absent(self) -> None:
        for partition in [partition for partition, copy in self._copies.items() if copy.absent]:
            del self._copies[partition]

    def _count_deaths(self, view: AgentView) -> None:
        for partition, copy in view.copies.items():
            before = self._processes.get(partition, Process.ABSENT)
            if copy.process is Process.DEAD and before in (Process.UP, Process.SILENT):
                log.warning("partition %d: the engine died", partition)
                self._metrics.engine_died()
            self._processes[partition] = copy.process
        if view.only is None:
            self._processes = {partition: copy.process for partition, copy in view.copies.items()}

    def _open_table(self, partitions: int) -> None:
        self._table = PodTable.open(self._table_path, partitions, self._identity.boot_id)
        marks = {partition: self._table.marks(partition) for partition in range(partitions)}
        self._marks = {partition: mark for partition, mark in marks.items() if mark != Marks()}
        self._shutting = _shutting(self._marks)
        self._gates.use_table(self._table, self._marks, self._shutting)

    @property
    def _known_ring(self) -> HashRing | None:
        """The map by the last read, or, before the first one, by those of an earlier agent."""
        return self._ring if self._sent_ns else self._remembered.ring

    def _tell_routes(self) -> None:
        ring = self._hearsay.newest(self._known_ring)
        if ring is None or self._hub is None:
            return
        version = next((copy.version for copy in self._copies.values() if copy.version), "")
        pod = self._identity.pod
        sockets = {p: str(self._engine.files.socket(p)) for p in local_partitions(ring, pod)}
        self._hub.set_routes(build_routes(ring, pod, self._cluster_port, sockets, version, self.handovers.taken_over))


def _shutting(marks: Mapping[int, Marks]) -> frozenset[int]:
    """The partitions whose gate is shut here for a hand-over that may still be given up."""
    return frozenset(p for p, mark in marks.items() if is_shutting(mark.hand_over, mark.seen_epoch))
