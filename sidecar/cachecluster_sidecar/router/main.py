"""cachecluster-router: one router process of a pod. Reads its flags, builds the parts, serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import uvloop

from .answers import Answers
from .commands import load_commands
from .control import AgentLink
from .core import Router
from .dial import PEER_TOKEN_FILE, Dialler

log = logging.getLogger("cachecluster.router")

EXIT_USAGE = 64
LISTEN_BACKLOG = 4096
STOP_TIMEOUT_S = 1.8
"""From SIGTERM to the end, whatever is still outstanding."""
ENGINES_TIMEOUT_S = 1.0
"""Part of it for the engines to answer what they were given."""
STOP_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Address:
    """Where a port listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From HOST:PORT; an IPv6 host stands in brackets. ArgumentTypeError otherwise."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
        return cls(host.strip("[]"), int(port))


class UsageParser(argparse.ArgumentParser):
    """Ends with 64 (EX_USAGE) on bad flags."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the reason."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The flags; the agent of the pod passes them."""
    parser = UsageParser(prog="cachecluster-router", description="One router process of a CacheCluster pod.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of pod-table and agent.sock")
    parser.add_argument("--secrets-dir", type=Path, required=True, help="directory of gate-password and peer-token")
    parser.add_argument("--worker", type=int, default=0, metavar="K", help="number of this process (default 0)")
    parser.add_argument(
        "--client-address", type=Address.parse, required=True, metavar="HOST:PORT", help="the port for any client"
    )
    parser.add_argument(
        "--cluster-address",
        type=Address.parse,
        required=True,
        metavar="HOST:PORT",
        help="the port for cluster-aware clients and peer routers",
    )
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default: info"
    )
    return parser


async def listen(router: Router, address: Address, cluster: bool) -> asyncio.Server:
    """Open a port; several workers may share it."""
    server = await asyncio.get_running_loop().create_server(
        lambda: router.client(cluster), address.host, address.port, reuse_port=True, backlog=LISTEN_BACKLOG
    )
    log.info("listening on %s:%d for %s", address.host, address.port, "the cluster protocol" if cluster else "clients")
    return server


async def wait_for(condition: Callable[[], bool], end: float) -> None:
    """Wait until the condition holds, or the loop's clock reads `end`."""
    loop = asyncio.get_running_loop()
    while loop.time() < end:
        if condition():
            return
        await asyncio.sleep(STOP_POLL_S)


async def stop(router: Router, servers: list[asyncio.Server]) -> None:
    """Shut the gates in this router, let the engines finish, then close the ports and the connections.

    A port that refuses connections is evidence that the gates behind it are silent, so the ports close after them.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + STOP_TIMEOUT_S
    router.stop_serving()
    await wait_for(router.engines_idle, loop.time() + ENGINES_TIMEOUT_S)
    for server in servers:
        server.close()
    router.give_up_parked()
    for client in list(router.clients.values()):
        client.close_when_done()
    router.flush()
    await wait_for(lambda: not router.clients, end)


async def serve(options: argparse.Namespace) -> None:
    """Run the router until it is told to stop."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    dialler = Dialler(options.secrets_dir)
    router = Router(loop, load_commands(), dialler, Answers(lambda: dialler.secret(PEER_TOKEN_FILE)))
    router.start()
    agent = AgentLink(options.run_dir, options.worker, router)
    agent_task = loop.create_task(agent.run())
    stopping = loop.create_task(stopped.wait())
    ready = loop.create_task(agent.has_routes.wait())
    await asyncio.wait((stopping, ready), return_when=asyncio.FIRST_COMPLETED)
    servers = []
    if not stopped.is_set():
        servers.append(await listen(router, options.cluster_address, cluster=True))
        servers.append(await listen(router, options.client_address, cluster=False))
        gc.collect()
        gc.freeze()
    await asyncio.wait((stopping, agent_task), return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    await stop(router, servers)
    if agent_task.done():
        agent_task.result()
    agent_task.cancel()
    ready.cancel()


def raise_file_limit() -> None:
    """Every client is an open file: take as many as the process may have, not the default for shells (often 1024)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: Sequence[str] | None = None) -> None:
    """Console entry point."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format=f"%(asctime)s %(levelname)s router[{options.worker}] %(message)s",
        stream=sys.stderr,
    )
    raise_file_limit()
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
