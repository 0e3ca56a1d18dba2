"""cachecluster-router: one router process of a pod. Reads its flags, builds the parts, serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import math
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from cachecluster_core.usage import UsageParser

from .answers import Answers
from .commands import load_commands
from .control import AgentLink
from .core import Client, Router
from .dial import PEER_TOKEN_FILE, Dialler
from .share import Listener, Share
from .users_file import UsersFile
from .wire import Poll

log = logging.getLogger("cachecluster.router")

LISTEN_BACKLOG = 4096
STOP_TIMEOUT_S = 1.8
"""From SIGTERM to the end, whatever is still outstanding."""
ENGINES_TIMEOUT_S = 1.0
"""Part of it for the engines to answer what they were given."""
CLOSE_TIMEOUT_S = 0.3
"""The last part of it, in which what is still busy is read no more."""
STOP_POLL_S = 0.01
LINGER_S = 0.1
"""For clients that are cut while they send, to read their replies: the end of the process resets their connections."""
LEAVE_AT_ONCE = 64
LEAVE_PAUSE_S = 0.01
"""So many connections are ended at a time, then there is a pause."""


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


def build_parser() -> argparse.ArgumentParser:
    """The flags; the agent of the pod passes them."""
    parser = UsageParser(prog="cachecluster-router", description="One router process of a CacheCluster pod.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory of pod-table and agent.sock")
    parser.add_argument("--secrets-dir", type=Path, required=True, help="directory of gate-password and peer-token")
    parser.add_argument("--worker", type=int, default=0, metavar="K", help="number of this process (default 0)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="how many share the ports (default 1)")
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
    parser.add_argument("--users-file", type=Path, metavar="FILE", help="users, as in an ACL file of Redis")
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="default: info"
    )
    return parser


WORKER_BITS = 40
"""Numbers of clients of one worker: so many bits, and the worker's number above them."""


class Ports:
    """The two listeners of a router, for which it does `serve`. The one for any client may be closed before the other.
    Several workers `share` what comes to them."""

    def __init__(self, serve: Callable[[bool, socket.socket], None], share: Share | None) -> None:
        self._serve = serve
        self._share = share
        self._front: Listener | None = None
        self._cluster: Listener | None = None
        self._closed = False

    def open(self, front: Address, cluster: Address) -> None:
        """Listen; several workers may share a port. The front port stays shut when the clients were dismissed."""
        self._cluster = self._listen(cluster, "the cluster protocol", True)
        if not self._closed:
            self._front = self._listen(front, "clients", False)

    def _listen(self, address: Address, what: str, cluster: bool) -> Listener:
        host, port = address.host, address.port
        if self._share is not None:
            listener = self._share.listen(host, port, LISTEN_BACKLOG, cluster=cluster)
        else:
            listener = Listener(host, port, LISTEN_BACKLOG, partial(self._serve, cluster))
        log.info("listening on %s:%d for %s", host, port, what)
        return listener

    def leave(self) -> None:
        """Let other workers pass no connections to this one any more."""
        if self._share is not None:
            self._share.leave()

    def close_front(self) -> None:
        """Take no more clients."""
        self._closed = True
        self.leave()
        if self._front is not None:
            self._front.close()

    def close(self) -> None:
        """Take nobody any more."""
        self.close_front()
        if self._cluster is not None:
            self._cluster.close()


async def wait_for(condition: Callable[[], bool], end: float) -> None:
    """Wait until the condition holds, or the loop's clock reads `end`."""
    loop = asyncio.get_running_loop()
    while loop.time() < end:
        if condition():
            return
        await asyncio.sleep(STOP_POLL_S)


async def take_leave(router: Router, clients: Sequence[Client]) -> None:
    """Have these connections ended one by one, each when nothing is outstanding on it; not all at the same instant, or
    they all came to another pod at once."""
    for number, client in enumerate(clients):
        client.leave()
        if number % LEAVE_AT_ONCE == LEAVE_AT_ONCE - 1:
            router.flush()
            await asyncio.sleep(LEAVE_PAUSE_S)
    router.flush()
    await wait_for(lambda: all(client.gone for client in clients), math.inf)


async def dismiss(router: Router, ports: Ports) -> None:
    """The pod is going: take no more clients, and end the connections of those that are here."""
    ports.close_front()
    clients = [client for client in router.clients.values() if not client.peer]
    log.info("dismissing %d clients", len(clients))
    await take_leave(router, clients)


async def stop(router: Router, ports: Ports) -> None:
    """Shut the gates in this router, let the engines finish, then close the ports and the connections.

    A port that refuses connections is evidence that the gates behind it are silent, so the ports close after them.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + STOP_TIMEOUT_S
    ports.leave()
    router.stop_serving()
    await wait_for(router.engines_idle, loop.time() + ENGINES_TIMEOUT_S)
    ports.close()
    router.give_up_parked(forwarded=False)
    clients = list(router.clients.values())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(end - CLOSE_TIMEOUT_S):
            await take_leave(router, clients)
            return
    router.give_up_parked(forwarded=True)
    for client in clients:
        client.leave(now=True)
    router.flush()
    await wait_for(lambda: all(client.gone for client in clients), end)
    await asyncio.sleep(LINGER_S)


async def serve(options: argparse.Namespace) -> None:
    """Run the router until it is told to stop."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    poll = Poll(loop)
    dialler = Dialler(options.secrets_dir, poll)
    router = Router(loop, load_commands(), dialler, Answers(lambda: dialler.secret(PEER_TOKEN_FILE)))
    poll.start(router.begin_turn, router.end_turn)
    router.start()

    def serve_it(cluster: bool, connection: socket.socket) -> None:
        try:
            poll.adopt(connection, router.client(cluster))
        except OSError as error:
            log.debug("a connection ended before it was served: %s", error)

    share = None
    if options.workers > 1:
        share = Share(options.run_dir, options.worker, options.workers, serve_it, lambda: len(router.clients))
        router.on_left = share.note
    ports = Ports(serve_it, share)
    router.number_from(options.worker << WORKER_BITS)
    agent = AgentLink(options.run_dir, options.worker, router, lambda: dismiss(router, ports))
    agent_task = loop.create_task(agent.run())
    stopping = loop.create_task(stopped.wait())
    ready = loop.create_task(agent.has_routes.wait())
    await asyncio.wait((stopping, ready), return_when=asyncio.FIRST_COMPLETED)
    users = None
    if options.users_file is not None and not stopped.is_set():
        file = UsersFile(options.users_file, router, agent.tell_users)
        file.look()
        users = loop.create_task(file.follow())
    if not stopped.is_set():
        ports.open(options.client_address, options.cluster_address)
        gc.collect()
        gc.freeze()
    await asyncio.wait((stopping, agent_task), return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping")
    await stop(router, ports)
    if agent_task.done():
        agent_task.result()
    for task in (agent_task, ready, users):
        if task is not None:
            task.cancel()


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
