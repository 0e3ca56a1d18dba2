"""`cachecluster-local`: a CacheCluster on this machine's loopback, without Kubernetes."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cachecluster_core.slots import MAX_PARTITIONS
from cachecluster_core.spec import CacheClusterSpec
from cachecluster_core.usage import UsageParser

from . import commands
from .cluster import LocalCluster
from .desired import spec_of
from .engines import ENGINES, Missing, engine_binary, require_supervisor
from .plan import CLUSTER_PORT_OFFSET, MAX_NODES, Plan

EXIT_UNAVAILABLE = 69
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (sun_path without its end)."""

DESCRIPTION = """\
Runs a whole CacheCluster on loopback: the same agents, routers, engines and control loop as on Kubernetes.
Node i listens on its own address, the first address + i: --port for any client, --port + 1000 for the cluster protocol,
9121 for metrics, 7380 and 17000 upwards for itself. Linux only; needs s6 and an engine (see docs/development.md).
SIGTERM or Ctrl-C stops everything; should this process be killed, everything it started ends too.

A cluster that runs is changed by `cachecluster-local scale|roll|delete|pause|resume|status --state-file FILE`."""


def _parser() -> argparse.ArgumentParser:
    parser = UsageParser(
        prog="cachecluster-local", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--nodes", type=int, default=3, help="nodes (default 3)")
    add("--partitions", type=int, default=16, help=f"partitions, a power of two up to {MAX_PARTITIONS} (default 16)")
    add("--replication-factor", type=int, help="copies of every partition (default 2, or 1 with one node)")
    add("--memory", default="256Mi", help="data that a node may hold, replicas included (default 256Mi)")
    add("--port", type=int, default=6379, help="port for any client (default 6379)")
    add("--engine", choices=ENGINES, default="valkey", help="the engine (default valkey)")
    durability = "sync: a write is answered when every in-sync copy has it (default async)"
    add("--durability", choices=("async", "sync"), default="async", help=durability)
    reads = "who answers reads: the primary, or replicas too, as spec.reads of a CacheCluster (default primary)"
    add("--reads", choices=("primary", "committed", "replica", "nearest-zone"), default="primary", help=reads)
    add("--min-in-sync", type=int, help="copies without which sync refuses writes (default 1, or 2 with three copies)")
    add("--router-workers", type=int, default=1, help="router processes of a node (default 1)")
    add("--users-file", type=Path, help="users of the clients, as in an ACL file of Redis (default: none)")
    add("--state-file", type=Path, help="write addresses and process ids there as JSON, once ready, kept current")
    add("--first-address", default="127.0.0.1", help="address of node 0 (default 127.0.0.1)")
    add("--state-dir", type=Path, help="where sockets, data and logs go (default: a new directory, removed at the end)")
    add("--repair-delay", type=int, default=30, help="seconds before a missing copy is rebuilt (default 30)")
    add("--lost-after", type=int, default=60, help="seconds before an unreachable copy counts as lost (default 60)")
    add("--verbose", action="store_true", help="log debug messages too")
    return parser


def parse_plan(arguments: Sequence[str]) -> tuple[Plan, CacheClusterSpec, bool]:
    """The plan, the spec of the cluster, and whether to be verbose.

    SystemExit: 64 when the flags make no sense, 69 when something is not installed.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    copies = min(2, flags.nodes) if flags.replication_factor is None else flags.replication_factor
    if reason := _reject_reason(flags):
        parser.error(reason)
    ours = flags.state_dir is None
    state_dir = (Path(tempfile.mkdtemp(prefix="cachecluster-")) if ours else flags.state_dir).resolve()
    try:
        _check_length(state_dir)
        require_supervisor()
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        plan = Plan(
            nodes=flags.nodes,
            partitions=flags.partitions,
            replication_factor=copies,
            memory=flags.memory,
            port=flags.port,
            engine=flags.engine,
            engine_binary=engine_binary(flags.engine, state_dir / "bin"),
            router_workers=flags.router_workers,
            first_address=flags.first_address,
            state_dir=state_dir,
            remove_state_dir=ours,
            state_file=flags.state_file.resolve() if flags.state_file else None,
            repair_delay_s=flags.repair_delay,
            lost_after_s=flags.lost_after,
            durability=flags.durability,
            reads=flags.reads,
            min_in_sync=flags.min_in_sync,
            users_file=flags.users_file.resolve() if flags.users_file else None,
        )
        return plan, spec_of(plan, plan.nodes), flags.verbose
    except (ValueError, OSError, Missing) as error:
        if ours:
            shutil.rmtree(state_dir, ignore_errors=True)
        if isinstance(error, Missing):
            parser.exit(EXIT_UNAVAILABLE, f"{parser.prog}: {error}\n")
        parser.error(str(error))


def _check_length(state_dir: Path) -> None:
    longest = state_dir / f"node-{MAX_NODES}" / "run" / "sock" / f"p{MAX_PARTITIONS}.sock"
    if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
        raise ValueError(f"--state-dir: {state_dir} is too long for the unix sockets in it")


def _reject_reason(flags: argparse.Namespace) -> str | None:
    """What is wrong with flags that the spec of a CacheCluster says nothing about."""
    if not 1 <= flags.nodes <= MAX_NODES:
        return f"--nodes: {flags.nodes} is not between 1 and {MAX_NODES}"
    if not 1 <= flags.port <= 65535 - CLUSTER_PORT_OFFSET:
        return f"--port: {flags.port} is not between 1 and {65535 - CLUSTER_PORT_OFFSET}"
    if not 1 <= flags.router_workers <= 64:
        return f"--router-workers: {flags.router_workers} is not between 1 and 64"
    try:
        last = ipaddress.IPv4Address(flags.first_address) + flags.nodes - 1
    except ValueError as error:
        return f"--first-address: {error}"
    if not ipaddress.IPv4Address(flags.first_address).is_loopback or not last.is_loopback:
        return (
            f"--first-address: {flags.first_address} and the {flags.nodes - 1} after it are not all loopback addresses"
        )
    return None


async def _serve(plan: Plan, spec: CacheClusterSpec) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    started = loop.time()
    async with LocalCluster(plan, spec) as cluster:
        stopped = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(cluster.wait_ready())
        await asyncio.wait([ready, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await ready
            sys.stdout.write(_how_to_connect(plan, loop.time() - started))
            sys.stdout.flush()
            running = asyncio.create_task(cluster.run())
            await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            running.cancel()
        ready.cancel()
        stopped.cancel()


def _how_to_connect(plan: Plan, seconds: float) -> str:
    address = plan.address(0)
    nodes = ", ".join(plan.address(number) for number in range(plan.nodes))
    return (
        f"Ready after {seconds:.1f} s: {plan.nodes} nodes, {plan.partitions} partitions, "
        f"{plan.replication_factor} copies each, {plan.engine}, on {nodes}\n"
        f"  any client:           redis-cli -h {address} -p {plan.port}\n"
        f"  cluster-aware client: redis-cli -c -h {address} -p {plan.cluster_port}\n"
        f"Files and logs are in {plan.state_dir}; stop with Ctrl-C.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits 64 on bad flags, 69 when s6 or the engine is missing, 1 when the cluster fails."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in commands.COMMANDS:
        sys.exit(commands.run(arguments))
    plan, spec, verbose = parse_plan(arguments)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        asyncio.run(_serve(plan, spec))
    except OSError as error:
        logging.critical("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
