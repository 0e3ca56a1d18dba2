"""The process of one copy: writing its files, starting, ending and removing it through s6, connecting to it.

Starting always means an empty process: whatever runs is ended first. A process that dies young is started again with
growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .engine_connection import EngineConnection
from .engine_files import EngineFiles, config_text, run_script
from .supervisor import NotSupervised, Service, Supervisor


class StartFailed(Exception):
    """The process did not come up, or the old one did not go; the argument says which."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What all engines of a pod have in common. `replication_port` is the base: partition p listens on base + p."""

    files: EngineFiles
    binary: str
    host: str
    replication_port: int
    repl_password: str
    agent_password: str


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of waiting, in seconds. `young` is an age; deaths below it make the next start wait, doubling."""

    supervised: float = 5.0
    ended: float = 2.0
    unknown_ended: float = 0.1
    started: float = 1.0
    listening: float = 20.0
    between_connects: float = 0.003
    connect: float = 1.0
    young: float = 1.0
    first_pause: float = 0.05
    longest_pause: float = 5.0


class EngineProcess:
    """The process of one partition. `_up` is what the supervisor's events say: None before the first one. `_finished`
    is True when the supervisor is ready to start again, a moment after the process ended."""

    def __init__(
        self, partition: int, engine: Engine, supervisor: Supervisor, patience: Patience | None = None
    ) -> None:
        self.partition = partition
        self._engine = engine
        self._supervisor = supervisor
        self._patience = patience or Patience()
        self._service: Service | None = None
        self._on_end: Callable[[], None] = lambda: None
        self._up: bool | None = None
        self._finished = True
        self._starts = 0
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._started_at = 0.0
        self._pause = 0.0

    def exists(self) -> bool:
        """There is a service directory, left by this agent or an earlier one."""
        return self._engine.files.service(self.partition).is_dir()

    def listen(self, on_end: Callable[[], None]) -> None:
        """Hear the supervisor's events from now on; `on_end` is called when the process has ended."""
        self._on_end = on_end
        if self._service is None:
            self._service = Service(self._engine.files.service(self.partition), self._heard)

    async def start(self, settings: Mapping[str, str], on_end: Callable[[], None]) -> None:
        """End what runs, start an empty process, return when it has been started (not: when it answers).

        StartFailed when it did not; NotSupervised when the redis container stays away.
        """
        if not self._supervisor.running():
            raise NotSupervised("the redis container is not up")
        await self.end()
        if self._pause:
            await asyncio.sleep(self._pause)
        self._write_files(settings)
        self._supervisor.add(self.partition, run_script(self._engine.files, self.partition, self._engine.binary))
        self.listen(on_end)
        service = self._service
        assert service is not None
        if not service.supervised():
            self._supervisor.scan()
            await self._until(service.supervised, self._patience.supervised)
        before = self._starts
        self._started_at = self._loop.time()
        service.send("o")
        if not await self._until(lambda: self._starts != before, self._patience.started):
            raise StartFailed("the supervisor did not start the process")

    async def end(self) -> None:
        """Kill the process if there is one, and wait for its end. StartFailed when it does not end."""
        if self._service is None or (self._up is False and self._finished):
            return
        try:
            self._service.send("k")
        except NotSupervised:
            self._up, self._finished = False, True  # its supervisor died with the whole container
            return
        patience = self._patience.ended if self._up else self._patience.unknown_ended
        ended = await self._until(lambda: self._finished and self._up is False, patience)
        if self._up and not ended:
            raise StartFailed("the old process does not end")
        self._up, self._finished = False, True

    async def remove(self) -> None:
        """End the process and take away its service and files."""
        await self.end()
        files = self._engine.files
        self.close()
        self._supervisor.remove(self.partition)
        files.config(self.partition).unlink(missing_ok=True)
        files.socket(self.partition).unlink(missing_ok=True)
        shutil.rmtree(files.data(self.partition), ignore_errors=True)

    async def connect(self, on_end: Callable[[], None]) -> EngineConnection:
        """Connect to a process that should listen. OSError or ReplyError when that fails."""
        path, password = self._engine.files.socket(self.partition), self._engine.agent_password
        return await EngineConnection.connect(path, password, on_end, self._patience.connect)

    async def connect_started(self, on_end: Callable[[], None]) -> EngineConnection:
        """Connect to a process just started as soon as it listens. Errors as `connect`; StartFailed when it ended."""
        while True:
            try:
                return await self.connect(on_end)
            except (ConnectionRefusedError, FileNotFoundError):
                if self._up is False:
                    raise StartFailed("the process ended at once; its output says why") from None
                if self._loop.time() - self._started_at > self._patience.listening:
                    raise
            await asyncio.sleep(self._patience.between_connects)

    def close(self) -> None:
        """Stop listening to the supervisor."""
        service, self._service = self._service, None
        if service is not None:
            service.close()

    def _heard(self, letter: str) -> None:
        """`s`, a supervisor beginning, is also an end: with the last one, its whole container had died."""
        if letter == "u":
            self._up, self._finished = True, False
            self._starts += 1
        elif letter in "Dxs" and self._up is not True:
            self._up, self._finished = False, True
        elif letter in "dDxs" and self._up is not False:
            lived = self._loop.time() - self._started_at
            grown = min(self._patience.longest_pause, self._pause * 2 or self._patience.first_pause)
            self._pause = grown if lived < self._patience.young else 0.0
            self._up, self._finished = False, letter != "d"
            self._on_end()
        self._event.set()

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for events until the condition holds; False when it does not in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._event.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            await self._event.wait()
        return condition()

    def _write_files(self, settings: Mapping[str, str]) -> None:
        engine, partition = self._engine, self.partition
        port = engine.replication_port + partition
        text = config_text(engine.files, partition, engine.host, port, engine.repl_password, settings)
        for directory in (engine.files.config(partition).parent, engine.files.socket(partition).parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(engine.files.config(partition), text)


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read, whole at every moment."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
