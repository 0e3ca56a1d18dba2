"""One local copy: its engine process, the connection to it, what was last observed, and commands being carried out.

It decides nothing about roles: it carries out one command of `agent_step` at a time and tells what is. `view` is
what the step sees; `on_change` is called when something changed that the step should see soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from cachecluster_core.agent_step import NOWHERE
from cachecluster_core.agent_view import (
    Command,
    Configure,
    CopyView,
    Follow,
    Promote,
    Remove,
    Restart,
    Seal,
    Start,
)
from cachecluster_core.report import Process

from .ask_again import AskAgain
from .clock import boottime_ns
from .engine_connection import EngineConnection
from .engine_process import EngineProcess, StartFailed
from .observation import SECTIONS, STATE_SECTIONS, Observation, parse_info
from .pace import OffsetHistory, Pace
from .resp import Reply, ReplyError
from .streams import Streams
from .supervisor import NotSupervised

log = logging.getLogger(__name__)

SEAL = ("REPLICAOF", NOWHERE[0], str(NOWHERE[1]))


class LocalCopy:
    """One partition's copy on this pod. Call `attach` first, `poll` when `due`, `execute` for a command."""

    def __init__(
        self, partition: int, process: EngineProcess, on_change: Callable[[], None], pace: Pace | None = None
    ) -> None:
        self.partition = partition
        self.version = ""
        self._process = process
        self._on_change = on_change
        self._pace = pace or Pace()
        self._loop = asyncio.get_running_loop()
        self._state = Process.ABSENT
        self._run_id = ""
        self._announce = ""
        self._config: dict[str, str] = {}
        self._connection: EngineConnection | None = None
        self._observation: Observation | None = None
        self._observed_ns = 0
        self._offsets = OffsetHistory(self._pace)
        self._streams = Streams()
        self._again = AskAgain(lambda: self.poll(self._loop.time()))
        self._interval = self._pace.awaiting_first
        self._quick_until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._replacing = False
        self._expected: str | None = None
        self._silent_since = 0.0
        self._last_failure = ""
        self._polls = 0
        self.due = 0.0

    @property
    def busy(self) -> bool:
        """A command is being carried out."""
        return self._task is not None

    @property
    def absent(self) -> bool:
        """There is nothing here and nothing under way: this object may be forgotten."""
        return self._state is Process.ABSENT and self._task is None

    def view(self) -> CopyView:
        """What is known now."""
        silent_s = self._silent_s()
        state = self._state
        if state is Process.UP and silent_s > self._pace.silent_after:
            state = Process.SILENT
        seen = self._observation
        if seen is None:
            return CopyView(process=state, run_id=self._run_id, busy=self.busy, silent_s=silent_s)
        return CopyView(
            process=state,
            run_id=self._run_id,
            source=seen.source,
            link_up=seen.link_up,
            syncing=seen.syncing,
            has_stream=seen.has_stream,
            offset=seen.offset,
            settled_offset=self._offsets.settled(self._loop.time()),
            attached=seen.attached,
            announce=self._announce,
            observed_ns=self._observed_ns,
            replid=seen.replid,
            ask_again=self._again.due and seen.awaits_link and not self.busy,
            config=tuple(sorted(self._config.items())),
            busy=self.busy,
            used_memory=seen.used_memory,
            keys=seen.keys,
            silent_s=silent_s,
            link_silence_s=seen.link_silence_s,
        )

    async def attach(self, adopted_run_id: str) -> None:
        """Find out what an earlier agent left: called once, before the first step.

        A process other than the one that the marks name was started by an agent that died before it could tell, or
        was about to be ended: it is ended, and known as dead.
        """
        if not self._process.exists():
            return
        self._state = Process.DEAD
        self._expected = adopted_run_id
        self._process.listen(self._process_ended)
        await self._connect_or_silent()

    def poll(self, now: float) -> None:
        """Send an INFO unless one is outstanding; `due` says when to call again (loop time)."""
        if now < self._quick_until:
            self.due = now + self._pace.quick
        elif self._interval < self._pace.steady:
            self.due = now + self._interval
        else:  # all copies in the same instant: one wake-up for all of them
            self.due = (now // self._pace.steady + 1) * self._pace.steady
        connection = self._connection
        if self._state is Process.UP and connection is not None and connection.waiting_since is None:
            self._polls += 1
            future = connection.request([STATE_SECTIONS if self._polls % self._pace.figures_every else SECTIONS])
            future.add_done_callback(partial(self._polled, boottime_ns()))

    def hasten(self) -> None:
        """Look again soon: a learner is being filled from here, and how far it is shows only in the primary's INFO."""
        self.due = min(self.due, self._loop.time() + self._pace.syncing)

    def quicken(self, seconds: float) -> None:
        """Look again at once and, for so long, as often as makes sense; tell of every change of the offset."""
        now = self._loop.time()
        self._quick_until = now + seconds
        self.due = min(self.due, now)

    def execute(self, command: Command, settings: Mapping[str, str]) -> None:
        """Carry out a command of the step, in a task of its own; the view is busy until it ended.

        `settings` are the map's engine settings, for a process that is started. A command to an engine that does not
        answer is left for a later step: commands must not pile up in front of a hanging process.
        """
        assert self._task is None, f"partition {self.partition}: two commands at once"
        if not isinstance(command, Start | Restart | Remove) and self._silent_s() > self._pace.silent_after:
            return
        self._task = self._loop.create_task(self._carry_out(command, settings))

    async def close(self) -> None:
        """Let go of the process without touching it."""
        self._again.stop()
        for task in (self._task, self._reconnecting):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._drop_connection()
        self._process.close()

    # Commands

    async def _carry_out(self, command: Command, settings: Mapping[str, str]) -> None:
        self._replacing = isinstance(command, Start | Restart | Remove)
        if not isinstance(command, Configure):
            self._again.stop()
        try:
            await self._dispatch(command, settings)
            self._last_failure = ""
        except (OSError, ReplyError, ValueError, NotSupervised, StartFailed) as error:
            failure = f"{command} failed: {error!r}"
            log.log(logging.DEBUG if failure == self._last_failure else logging.WARNING, "%s", failure)
            self._last_failure = failure
            if self._replacing or self._state is Process.UP:
                await asyncio.sleep(self._pace.retry)
        finally:
            self._task = None
            self._replacing = False
            self._look_soon()
            self._on_change()

    async def _dispatch(self, command: Command, settings: Mapping[str, str]) -> None:
        match command:
            case Start():
                await self._start(settings)
            case Restart(reason=reason):
                log.info("partition %d: restarting the process empty: %s", self.partition, reason)
                await self._start(settings)
            case Remove():
                await self._remove()
            case Seal():
                self._again.forget()
                await self._ask(SEAL)
            case Promote():
                self._again.forget()
                await self._ask(("REPLICAOF", "NO", "ONE"))
            case Follow():
                await self._follow(command)
            case Configure(settings=changes):
                await self._configure(changes)

    async def _start(self, settings: Mapping[str, str]) -> None:
        self._forget_process()
        self._state = Process.STARTING
        self._expected = None
        self._on_change()
        try:
            await self._process.start(settings, self._process_ended)
            await self._meet(await self._process.connect_started(self._connection_ended))
        except BaseException:
            self._drop_connection()
            self._state = Process.DEAD
            raise
        self._config = dict(settings)

    async def _remove(self) -> None:
        self._forget_process()
        await self._process.remove()
        self._state = Process.ABSENT

    async def _follow(self, command: Follow) -> None:
        await self._ask(("CONFIG", "SET", "replica-announce-ip", command.announce))
        self._announce = command.announce
        follow = ("REPLICAOF", command.host, str(command.port))
        await self._ask(*((SEAL, follow) if command.anew else (follow,)))
        self._again.followed((command.host, command.port))

    async def _configure(self, changes: tuple[tuple[str, str], ...]) -> None:
        """One by one: a value that the engine refuses is logged once and counted as applied, or it would be tried for
        ever."""
        for name, value in changes:
            try:
                await self._ask(("CONFIG", "SET", name, value))
            except ReplyError as error:
                log.error("partition %d: the engine refuses %s %r: %s", self.partition, name, value, error)
            self._config[name] = value

    async def _ask(self, *commands: tuple[str, ...]) -> None:
        """Commands and an INFO behind them, so that what they did is known with their answers."""
        if self._connection is None:
            raise ConnectionResetError("no connection to the engine")
        asked_ns = boottime_ns()
        async with asyncio.timeout(self._pace.command_timeout):
            replies = await self._connection.request([*commands, SECTIONS])
        self._observe(replies[-1], asked_ns)

    # The connection

    async def _meet(self, connection: EngineConnection) -> None:
        """Learn who answers on a new connection. OSError, ReplyError or ValueError when it does not tell."""
        self._connection = connection
        asked_ns = boottime_ns()
        async with asyncio.timeout(self._pace.command_timeout):
            server, announce, info = await connection.request(
                [("INFO", "server"), ("CONFIG", "GET", "replica-announce-ip"), SECTIONS]
            )
        run_id, self.version = _identity(server)
        if run_id != self._run_id:
            self._config = {}
            self._offsets.clear()
        expected, self._expected = self._expected, None
        if expected not in (None, run_id):
            log.warning("partition %d: ending a process that was never adopted", self.partition)
            self._drop_connection()
            self._state = Process.DEAD
            await self._process.end()
            return
        self._run_id = run_id
        self._announce = announce[1].decode() if isinstance(announce, list) and isinstance(announce[1], bytes) else ""
        self._state = Process.UP
        self._observe(info, asked_ns)

    async def _connect_or_silent(self) -> None:
        """Connect to a process that may be there. Known as dead when nobody listens, as silent without an answer."""
        try:
            await self._meet(await self._process.connect(self._connection_ended))
        except (ConnectionRefusedError, FileNotFoundError):
            self._drop_connection()
            self._state = Process.DEAD
        except (OSError, ReplyError, ValueError, StartFailed) as error:
            log.warning("partition %d: the process is there and does not answer: %r", self.partition, error)
            self._drop_connection()
            if self._state is not Process.SILENT:
                self._state = Process.SILENT
                self._silent_since = self._loop.time()
            self._reconnect()

    def _connection_ended(self) -> None:
        """The engine died, or only closed the connection: a listener that refuses tells."""
        self._connection = None
        if self._state in (Process.UP, Process.SILENT) and not self._replacing:
            self._reconnect()

    def _reconnect(self) -> None:
        if self._reconnecting is None:
            self._reconnecting = self._loop.create_task(self._reconnect_until_known())

    async def _reconnect_until_known(self) -> None:
        try:
            while not self._replacing and self._connection is None and self._state in (Process.UP, Process.SILENT):
                await self._connect_or_silent()
                if self._state is Process.SILENT:
                    await asyncio.sleep(self._pace.reconnect)
        finally:
            self._reconnecting = None
            self._on_change()

    def _process_ended(self) -> None:
        """The supervisor says so: the second source, for a process that had no connection."""
        if self._replacing:
            return
        self._drop_connection()
        self._state = Process.DEAD
        self._on_change()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _forget_process(self) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()  # or what it finds out about the old process were taken for the new one's
        self._drop_connection()
        self._run_id = self._announce = ""
        self._config = {}
        self._observation = None
        self._offsets.clear()
        self._again.forget()

    # Observing

    def _polled(self, asked_ns: int, future: asyncio.Future[list[Reply]]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        self._observe(future.result()[0], asked_ns)

    def _observe(self, info: Reply, asked_ns: int) -> None:
        if not isinstance(info, bytes):
            raise ValueError(f"not an INFO: {info!r}")
        now = self._loop.time()
        before, seen = self._observation, parse_info(info, self._observation)
        seen = replace(seen, attached=self._streams.look(seen.attached))
        self._observation, self._observed_ns = seen, asked_ns
        again = self._again.observed(seen.link_up)
        if before is None or _shape(before) != _shape(seen):
            self._look_soon()
            self._on_change()
        elif again or (now < self._quick_until and before.offset != seen.offset):
            self._on_change()
        elif seen.settled:
            self._interval = self._pace.steady
        else:
            slowest = self._pace.syncing if seen.syncing else self._pace.steady
            self._interval = min(slowest, self._interval * self._pace.awaiting_growth)
        if before is None or before.source != seen.source or seen.offset < before.offset:
            self._offsets.clear()
        self._offsets.remember(now, seen.offset)

    def _look_soon(self) -> None:
        self._interval = self._pace.awaiting_first
        now = self._loop.time()
        self.due = now + (self._pace.quick if now < self._quick_until else self._interval)

    def _silent_s(self) -> float:
        now = self._loop.time()
        if self._state is Process.SILENT:
            return now - self._silent_since
        waiting_since = self._connection.waiting_since if self._connection is not None else None
        return now - waiting_since if self._state is Process.UP and waiting_since is not None else 0.0


def _shape(seen: Observation) -> tuple[object, ...]:
    """What must be acted on at once when it changes: everything but figures that grow all the time."""
    attached = tuple((replica.copy, replica.online, replica.streams) for replica in seen.attached)
    return seen.source, seen.link_up, seen.syncing, seen.has_stream, seen.replid, attached


def _identity(server: Reply) -> tuple[str, str]:
    """run_id and version of `INFO server`. Valkey says its own version beside the Redis one it is compatible with."""
    if not isinstance(server, bytes):
        raise ValueError(f"not an INFO: {server!r}")
    fields = dict(line.partition(b":")[::2] for line in server.split(b"\r\n"))
    version = fields.get(b"valkey_version") or fields.get(b"redis_version", b"")
    return fields[b"run_id"].decode(), version.decode()
