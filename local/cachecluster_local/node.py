"""One node of a local cluster, standing in for a pod: an s6 scan directory for the engines, and an agent.

Each of the two "containers" comes back a second after it died, as kubelet and s6 bring them back in a pod. When
s6-svscan dies its engines are ended with it, as a container's processes end with its first.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from .engines import engine_binary
from .plan import AGENT_PORT, METRICS_PORT, NAMESPACE, REPLICATION_PORT, Plan
from .processes import kill_under, send_signal

RESTART_S = 1.0
"""Pause before a dead process is started again."""
DRAIN_S = 20.0
"""How long an agent that ends goes on serving as a primary."""
ACCEPT_S = 1.0
"""... and how long its routers go on taking clients; there is no Service here that learns late."""
END_S = 30.0
"""How long an orderly end may take before it is forced; a pod's grace period."""


class Node:
    """The processes and files of one pod UID. `start` them, `kill` them; in between they are kept running, until
    `drain` ends the agent in order."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        uid: str,
        engine: str,
        api_url: str,
        secrets: Mapping[str, str],
        on_change: Callable[[], None],
    ) -> None:
        self.number = number
        self.uid = uid
        self.engine = engine
        self.name = f"{plan.name}-{number}"
        self.address = plan.address(number)
        self.directory = plan.node_dir(number)
        self.agent_pid: int | None = None
        self.supervisor_pid: int | None = None
        self._plan = plan
        self._api_url = api_url
        self._secrets = secrets
        self._on_change = on_change
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def data_dir(self) -> Path:
        """Where the engines work, one directory each, `p<partition>`."""
        return self.directory / "data"

    @property
    def scan_dir(self) -> Path:
        """The s6 scan directory."""
        return self.directory / "run" / "scan"

    def start(self) -> None:
        """Make the directories anew and keep both processes running from now on. OSError when that fails."""
        shutil.rmtree(self.directory, ignore_errors=True)
        for directory in (self.scan_dir, self.directory / "run" / "sock", self.data_dir, self.directory / "secrets"):
            directory.mkdir(mode=0o700, parents=True)
        for name, secret in self._secrets.items():
            file = self.directory / "secrets" / name
            file.touch(mode=0o600)
            file.write_text(secret)
        self._keepers = [self._keep(self._run_supervisor), self._keep(self._run_agent)]

    async def drain(self) -> None:
        """End the agent in order: it hands over first. It is not started again; what it does not end, `kill` does."""
        await self._let_go()
        pid = self.agent_pid
        if pid is not None and send_signal(pid, signal.SIGTERM):
            await _ended(pid, END_S)

    async def kill(self) -> None:
        """End everything of this node at once."""
        await self._let_go()
        await asyncio.to_thread(kill_under, self.directory)
        self.agent_pid = self.supervisor_pid = None

    async def _let_go(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    def _keep(self, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        async def keep() -> None:
            while True:
                await run()
                self._on_change()
                await asyncio.sleep(RESTART_S)

        return asyncio.create_task(keep())

    async def _run_supervisor(self) -> None:
        """The redis container: s6-svscan, and with it everything it supervises."""
        process = await self._spawn("s6.log", self.scan_dir, "s6-svscan", str(self.scan_dir))
        self.supervisor_pid = process.pid
        self._on_change()
        await process.wait()
        self.supervisor_pid = None
        await asyncio.to_thread(kill_under, self.scan_dir, self.data_dir)

    async def _run_agent(self) -> None:
        """The agent, which runs the routers; they outlive it, and the next one adopts them."""
        process = await self._spawn("agent.log", self.directory, *self._agent_command())
        self.agent_pid = process.pid
        self._on_change()
        await process.wait()
        self.agent_pid = None

    def _agent_command(self) -> list[str]:
        plan = self._plan
        flags = {
            "name": plan.name,
            "namespace": NAMESPACE,
            "pod-name": self.name,
            "pod-uid": self.uid,
            "host": self.address,
            "api-server": self._api_url,
            "run-dir": self.directory / "run",
            "data-dir": self.data_dir,
            "secrets-dir": self.directory / "secrets",
            "engine": self.engine,
            "engine-binary": engine_binary(self.engine, plan.state_dir / "bin"),
            "client-port": plan.port,
            "cluster-port": plan.cluster_port,
            "agent-port": AGENT_PORT,
            "metrics-port": METRICS_PORT,
            "replication-port": REPLICATION_PORT,
            "router-workers": plan.router_workers,
            "drain-seconds": DRAIN_S,
            "drain-accept": ACCEPT_S,
        }
        if plan.users_file is not None:
            flags["users-file"] = plan.users_file
        module = "cachecluster_sidecar.agent.main"
        return [sys.executable, "-m", module, *(word for flag, v in flags.items() for word in (f"--{flag}", str(v)))]

    async def _spawn(self, log: str, cwd: Path, *command: str) -> asyncio.subprocess.Process:
        with (self.directory / log).open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )


async def _ended(pid: int, patience_s: float) -> None:
    """Wait until a process has ended (also when nobody awaits it as a child), at most so long."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(patience_s):
            await ended.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
