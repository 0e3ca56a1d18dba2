"""The agent's flags, each also an environment variable, checked and turned into values."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cachecluster_core.usage import UsageParser

ENVIRONMENT_PREFIX = "CACHECLUSTER_"
MAX_SOCKET_PATH = 107
SECRET_FILES = ("agent-password", "gate-password", "repl-password", "peer-token")


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything that one agent is told at its start. Ports are TCP; `replication_port` is the base of one port per
    partition. `drain_s` is how long a terminating pod may go on serving as a primary: longer than it takes until
    another operator leads, since a drained node may take the operator with it. `drain_accept_s` is how long its routers
    go on taking clients: Services learn late that it is going."""

    name: str
    namespace: str
    pod_name: str
    pod_uid: str
    cluster_uid: str
    host: str
    api_server: str
    token_file: Path | None
    ca_file: Path | None
    run_dir: Path
    data_dir: Path
    secrets_dir: Path
    users_file: Path | None
    engine: str
    engine_binary: str
    client_port: int
    cluster_port: int
    agent_port: int
    metrics_port: int
    replication_port: int
    router_workers: int
    incarnation: str
    drain_s: float
    drain_accept_s: float
    log_level: str


def parse_config(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> AgentConfig:
    """The configuration. Exits with 64 and a message that names the flag when something is wrong."""
    parser = _make_parser(environment)
    flags = parser.parse_args(arguments)
    binary = flags.engine_binary or shutil.which(f"{flags.engine}-server")
    if binary is None:
        parser.error(f"--engine: there is no {flags.engine}-server on PATH, and --engine-binary was not given")
    longest = str(flags.run_dir.absolute() / "sock" / "p511.sock")
    if len(longest.encode()) > MAX_SOCKET_PATH:
        parser.error(f"--run-dir: too long: {longest} exceeds the {MAX_SOCKET_PATH} bytes of a unix socket's path")
    for name in SECRET_FILES:
        if not (flags.secrets_dir / name).is_file():
            parser.error(f"--secrets-dir: {flags.secrets_dir} has no file {name}")
    if not 1 <= flags.router_workers <= 64:
        parser.error("--router-workers: must be 1 to 64")
    incarnation = f"{os.getpid()}-{os.urandom(4).hex()}" if flags.incarnation == "auto" else flags.incarnation
    return AgentConfig(
        name=flags.name,
        namespace=flags.namespace,
        pod_name=flags.pod_name,
        pod_uid=flags.pod_uid,
        cluster_uid=flags.cluster_uid or "",
        host=flags.host,
        api_server=flags.api_server,
        token_file=flags.token_file,
        ca_file=flags.ca_file,
        run_dir=flags.run_dir.absolute(),
        data_dir=flags.data_dir.absolute(),
        secrets_dir=flags.secrets_dir.absolute(),
        users_file=flags.users_file,
        engine=flags.engine,
        engine_binary=str(binary),
        client_port=flags.client_port,
        cluster_port=flags.cluster_port,
        agent_port=flags.agent_port,
        metrics_port=flags.metrics_port,
        replication_port=flags.replication_port,
        router_workers=flags.router_workers,
        incarnation=incarnation,
        drain_s=flags.drain_seconds,
        drain_accept_s=flags.drain_accept,
        log_level=flags.log_level,
    )


def _make_parser(environment: Mapping[str, str]) -> UsageParser:
    parser = UsageParser(
        prog="cachecluster-agent",
        description="The control process of one CacheCluster pod: follows the map, runs the engine processes and the "
        "routers, holds authority, reports to the operator.",
        epilog=f"Every flag is also an environment variable: --pod-uid is {ENVIRONMENT_PREFIX}POD_UID. Flags win.",
    )

    def flag(
        name: str, text: str, kind: Callable[[str], object] = str, default: object = None, optional: bool = False
    ) -> None:
        variable = ENVIRONMENT_PREFIX + name.upper().replace("-", "_")
        value = environment.get(variable, default)
        required = value is None and not optional
        shown = text if value is None else f"{text} ({value})"
        parser.add_argument(f"--{name}", help=shown, type=kind, default=value, required=required, metavar="VALUE")

    flag("name", "name of the cluster, and of its map")
    flag("namespace", "namespace of the cluster")
    flag("pod-name", "name of this pod")
    flag("pod-uid", "UID of this pod: its identity in the map")
    flag("cluster-uid", "UID of the CacheCluster: a map that belongs to another one is none", optional=True)
    flag("host", "address of this pod; every port is bound on it")
    flag("api-server", "URL of the API server, or of what stands in for it")
    flag(
        "token-file", "file with the bearer token for the API server, read again for every request", Path, optional=True
    )
    flag("ca-file", "file with the certificate authority of the API server", Path, optional=True)
    flag("run-dir", "directory shared with the redis container and the routers", Path, "/run/cachecluster")
    flag("data-dir", "directory that the engines work in", Path, "/data")
    flag("secrets-dir", f"directory with the files {', '.join(SECRET_FILES)}", Path, "/etc/cachecluster/secrets")
    flag(
        "users-file", "users of the clients, as in an ACL file of Redis; without it there are none", Path, optional=True
    )
    flag("engine-binary", "the engine's server, instead of <engine>-server on PATH", optional=True)
    flag("client-port", "port for any client", _port, 6379)
    flag("cluster-port", "port for the cluster protocol and for peers", _port, 7379)
    flag("agent-port", "port for the operator", _port, 7380)
    flag("metrics-port", "port for metrics and health", _port, 9121)
    flag("replication-port", "port of partition 0's engine; partition p has the p-th after it", _port, 17000)
    flag("router-workers", "router processes", int, 1)
    flag("incarnation", "name of this start of the agent, in its reports", str, "auto")
    flag("drain-seconds", "how long a terminating pod may go on serving its partitions", _seconds, 40.0)
    flag("drain-accept", "how long a terminating pod goes on taking clients, in seconds", _seconds, 10.0)
    engine = environment.get(f"{ENVIRONMENT_PREFIX}ENGINE", "valkey")
    parser.add_argument("--engine", help="the engine", choices=("valkey", "redis"), default=engine)
    level = environment.get(f"{ENVIRONMENT_PREFIX}LOG_LEVEL", "info")
    parser.add_argument("--log-level", help="what to log", choices=("debug", "info", "warning"), default=level)
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 86400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds up to a day")
    return seconds
