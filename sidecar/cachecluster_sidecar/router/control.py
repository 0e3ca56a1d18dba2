"""The router's connection to the agent of its pod: routes and gates come in, confirmations and counters go out.

Newline-delimited JSON over RUN/agent.sock. While there is no agent the router serves under the pod table, whose
deadlines bound it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .core import Router

log = logging.getLogger("cachecluster.router")

RECONNECT_S = 0.05
"""Pause before the agent's socket is tried again."""
MAX_LINE_BYTES = 8 * 1024 * 1024
"""Longest message: routes of 512 partitions and hundreds of pods are far below it."""


class AgentError(Exception):
    """The agent sent what the contract does not know."""


class AgentLink:
    """Keeps one connection to the agent; made again whenever it ends. `dismiss` is called when the agent wants the
    clients gone, and ends when they are."""

    def __init__(self, run_dir: Path, worker: int, router: Router, dismiss: Callable[[], Awaitable[None]]) -> None:
        self._run_dir = run_dir
        self._worker = worker
        self._router = router
        self._dismiss = dismiss
        self._dismissing: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._table_inode = 0
        self._connected = False
        self._users: dict[str, Any] | None = None
        self.has_routes = asyncio.Event()

    async def run(self) -> None:
        """Serve the agent for ever."""
        self._router.confirm = self._confirm
        while True:
            try:
                await self._serve_connection()
                self._note_loss("it closed the connection")
            except (OSError, AgentError, ValueError, KeyError, TypeError) as error:
                self._note_loss(f"{type(error).__name__}: {error}")
            await asyncio.sleep(RECONNECT_S)

    def _note_loss(self, reason: str) -> None:
        """Log the end of a connection, not every attempt to make the next."""
        if self._connected:
            log.warning("the agent is gone (%s); serving under the pod table", reason)
        self._connected = False

    async def _serve_connection(self) -> None:
        path = str(self._run_dir / "agent.sock")
        reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES)
        self._writer = writer
        try:
            self._send({"register": {"worker": self._worker, "pid": os.getpid()}})
            if self._users is not None:
                self._send(self._users)
            while line := await reader.readline():
                self._connected = True
                self._take(json.loads(line))
        finally:
            self._writer = None
            writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        """One message of the agent."""
        match message:
            case {"routes": routes}:
                self._use_routes(routes)
            case {"gates": gates}:
                for partition, generation, *more in gates:
                    self._router.use_gate(partition, generation, **dict(*more))
            case {"dismiss": _}:
                if self._dismissing is None or self._dismissing.done():
                    self._dismissing = asyncio.create_task(self._dismiss_clients())
            case {"ping": number}:
                self._send({"pong": number})
            case {"metrics": number}:
                self._send({"metrics": {"id": number, "worker": self._worker, **self._router.metrics()}})
            case _:
                raise AgentError(f"unknown message {list(message)}")

    async def _dismiss_clients(self) -> None:
        await self._dismiss()
        self._send({"dismissed": True})

    def tell_users(self, known: bool, trouble: str) -> None:
        """Whether any user is known, and why they are not as they are configured (empty: they are)."""
        self._users = {"users": {"known": known, "trouble": trouble}}
        self._send(self._users)

    def _use_routes(self, routes: dict[str, Any]) -> None:
        self._router.use_routes(routes)
        self._map_table()
        self.has_routes.set()

    def _map_table(self) -> None:
        """Map the pod table; again when the agent has made it anew."""
        with (self._run_dir / "pod-table").open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._table_inode:
                self._router.use_pod_table(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
                self._table_inode = inode

    def _confirm(self, partition: int, generation: int) -> None:
        self._send({"confirm": [[partition, generation]]})

    def _send(self, message: dict[str, Any]) -> None:
        """To the agent; dropped when there is none: a new connection gets all gates again, and confirms them."""
        if self._writer is not None:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
