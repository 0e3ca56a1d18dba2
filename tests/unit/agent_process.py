"""One whole agent in a test: its process, real routers and engines, s6-svscan, and maps written by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from tests.loopback import address, free_block
from tests.unit.agent_support import Scan, engine_binary
from tests.waiting import until

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.report import CopyReport, Report
from cachecluster_local.api import LocalApi
from cachecluster_local.map_store import MemoryMapStore
from cachecluster_local.processes import kill_under

NAMESPACE, NAME, UID, TOKEN = "ns", "demo", "pod-a", "peer-secret"
CLIENT, CLUSTER, AGENT, METRICS, REPLICATION = 6379, 7379, 7380, 9121, 17000
SECRETS = {"agent-password": "a", "gate-password": "g", "repl-password": "r", "peer-token": TOKEN}


class Relay:
    """A TCP relay to the API server that can be cut: connections then get no answer, as on a lost network."""

    def __init__(self, host: str, target: str) -> None:
        self._host = host
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        return f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # the event loop closes what was aborted

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = self._target.removeprefix("http://").rpartition(":")
        writers = [writer]
        try:
            other_reader, other_writer = await asyncio.open_connection(host, int(port))
            writers.append(other_writer)
            await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
        writer.close()


class AgentProcess:
    """A pod of the cluster `demo` on an own loopback address. `report` is the newest one of its stream."""

    def __init__(
        self, kind: str, directory: Path, host: str, url: str, store: MemoryMapStore, relay: Relay, number: int = 0
    ) -> None:
        self.uid = "pod-" + "abcdef"[number]
        self.name = f"{NAME}-{number}"
        self.kind = kind
        self.directory = directory
        self.host = host
        self.store = store
        self.relay = relay
        self.scan = Scan(directory / "run" / "scan")
        self.process: subprocess.Popen[bytes] | None = None
        self.report: Report | None = None
        self.probed: list[dict[str, Any]] = []
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self._url = url
        self._listener: asyncio.Task[None] | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {TOKEN}"}

    def start(self, *flags: str) -> None:
        for name, secret in SECRETS.items():
            (self.directory / "secrets").mkdir(exist_ok=True)
            (self.directory / "secrets" / name).write_text(secret)
        command = [sys.executable, "-m", "cachecluster_sidecar.agent.main", "--name", NAME, "--namespace", NAMESPACE]
        command += ["--pod-name", self.name, "--pod-uid", self.uid, "--host", self.host, "--api-server", self._url]
        command += ["--run-dir", str(self.directory / "run"), "--data-dir", str(self.directory / "data")]
        command += ["--secrets-dir", str(self.directory / "secrets"), "--engine", self.kind, *flags]
        command += ["--engine-binary", str(engine_binary(self.kind, self.directory))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.directory)

    async def restart(self) -> None:
        """kill -9, and another one."""
        self.kill()
        self.report = None
        self.start()
        await until(lambda: self.report is not None, 10)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def router_pids(self) -> list[int]:
        texts = [path.read_text() for path in (self.directory / "run").glob("router-*.lock")]
        return [int(text) for text in texts if text]

    def listen(self) -> None:
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    url = f"http://{self.host}:{AGENT}/v1/stream"
                    async with session.ws_connect(url, headers=self.headers) as self.socket:
                        async for message in self.socket:
                            self._take(json.loads(message.data))
                await asyncio.sleep(0.02)

    def _take(self, message: dict[str, Any]) -> None:
        if "report" in message:
            self.report = Report.from_json(message["report"])
        else:
            self.probed.append(message["probed"])

    async def get(self, path: str, port: int = METRICS, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.host}:{port}{path}", headers=headers) as response,
        ):
            return response.status, await response.text()

    def engine_pid(self, partition: int = 0) -> int:
        service = self.directory / "run" / "scan" / f"p{partition}"
        found = subprocess.run(["s6-svstat", "-o", "pid", str(service)], capture_output=True, check=True).stdout
        pid = int(found)
        assert pid > 1, "the engine does not run"
        return pid

    def copy(self, partition: int = 0) -> CopyReport:
        """What the newest report says about a copy; an empty one when it says nothing."""
        return self.report.copies.get(partition, CopyReport()) if self.report is not None else CopyReport()

    async def reported(
        self, condition: Callable[[CopyReport], object], partition: int = 0, seconds: float = 10
    ) -> None:
        """Wait until the newest report of a copy is as wanted."""
        await until(lambda: condition(self.copy(partition)), seconds)

    async def write(self, *entries: Entry, **settings: Any) -> None:
        """Make these the map's entries, padded to a power of two with what nobody holds."""
        ring = self.store.current or HashRing(NAME, members=((UID, Member("demo-0", self.host)),))
        chosen = replace(ring.settings if ring.entries else Settings(engine=self.kind, lost_after_s=3.0), **settings)
        ring = replace(ring, entries=entries, settings=chosen)
        await (self.store.replace(ring) if self.store.current is not None else self.store.create(ring))

    async def serve(self, partition: int = 0) -> None:
        """From nothing to a Stable partition (one of one) with its primary here."""
        await self.write(Entry(learners=(UID,)))
        await self.reported(lambda copy: copy.run_id and copy.born_epoch == 1)
        await self.write(self.stable(2))
        await self.reported(lambda copy: copy.gate_epoch == 2 and copy.required_epoch == 2)
        async with asyncio.timeout(10):
            while (await self.get("/readyz"))[0] != 200:  # noqa: ASYNC110 - a probe, as the kubelet's
                await asyncio.sleep(0.02)

    def stable(self, epoch: int, term: int = 2) -> Entry:
        me = CopyId(UID, self.copy().run_id)
        return Entry(epoch=epoch, state=State.STABLE, primary=me, isr=(me,), term=term)

    def electing(self, epoch: int, term: int = 2) -> Entry:
        me = CopyId(UID, self.copy().run_id)
        return Entry(epoch=epoch, state=State.ELECTING, isr=(me,), term=term)

    async def command(self, *words: str, seconds: float = 5) -> bytes:
        """One command to the front port, and the first line of its reply."""
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(self.host, CLIENT)
            writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words))
            line = await reader.readline()
            if line.startswith(b"$") and line != b"$-1\r\n":
                line = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return line.strip()

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self.process is not None and self.process.poll() is None:
            self.kill()
        kill_under(self.directory)
        self.scan.stop()


@contextlib.asynccontextmanager
async def running_agents(kind: str, directory: Path, count: int, *flags: str) -> AsyncIterator[list[AgentProcess]]:
    """Agents of one cluster, on addresses side by side, that have reported; with no map yet."""
    block = free_block(CLIENT, CLUSTER, AGENT, METRICS, REPLICATION)
    store = MemoryMapStore(NAMESPACE)
    api = LocalApi(store, block)
    await api.start()
    agents: list[AgentProcess] = []
    try:
        for number in range(count):
            host = address(block, number)
            relay = Relay(host, api.url)
            (directory / str(number)).mkdir()
            agent = AgentProcess(kind, directory / str(number), host, await relay.start(), store, relay, number)
            agents.append(agent)
            await agent.scan.start()
            agent.start(*flags)
            agent.listen()
        await until(lambda: all(agent.report is not None for agent in agents), 20)
        yield agents
    finally:
        for agent in agents:
            await agent.stop()
            await agent.relay.stop()
        await api.stop()


@contextlib.asynccontextmanager
async def running_agent(kind: str, directory: Path, *flags: str) -> AsyncIterator[AgentProcess]:
    """An agent that has reported, with no map yet."""
    host = free_block(CLIENT, CLUSTER, AGENT, METRICS, REPLICATION)
    store = MemoryMapStore(NAMESPACE)
    api = LocalApi(store, host)
    await api.start()
    relay = Relay(host, api.url)
    agent = AgentProcess(kind, directory, host, await relay.start(), store, relay)
    try:
        await agent.scan.start()
        agent.start(*flags)
        agent.listen()
        await until(lambda: agent.report is not None, 15)
        yield agent
    finally:
        await agent.stop()
        await relay.stop()
        await api.stop()
