"""Makes the router's connections: to engines over their unix sockets, to peers over TCP, with their greetings."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from pathlib import Path

from .core import CONNECT_TIMEOUT_S, Backend, CommitLink, Passage
from .resp import encode_request
from .wire import Poll

log = logging.getLogger("cachecluster.router")

GATE_PASSWORD_FILE = "gate-password"
PEER_TOKEN_FILE = "peer-token"
GATE_USER = b"gate"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: what a peer has not received when it is given up must not reach it later, over newer writes."""


class Dialler:
    """Called with a backend that wants a connection; secrets are read for each, so that new ones are used at once."""

    def __init__(self, secrets_dir: Path, poll: Poll) -> None:
        self._secrets = secrets_dir
        self._poll = poll
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, backend: Backend | CommitLink) -> None:
        """Start connecting; the outcome goes to `greet` or `failed` of the backend."""
        task = asyncio.get_running_loop().create_task(self._dial(backend))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _dial(self, backend: Backend | CommitLink) -> None:
        address = backend.target.address
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                wire = await self._poll.connect(backend, address)
            if not isinstance(address, str):
                wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            backend.greet(self._greeting(backend))
        except (OSError, TimeoutError) as error:
            backend.failed(str(error) or type(error).__name__)

    def _greeting(self, backend: Backend | CommitLink) -> bytes:
        """The first command of a connection; it has exactly one reply."""
        proto = b"%d" % backend.proto
        if backend.target.uid is not None:
            token = self.secret(PEER_TOKEN_FILE)
            kind = [b"PASSAGE"] if isinstance(backend, Passage) else []
            return encode_request([b"CACHECLUSTER", b"HELLO", proto, token, backend.target.uid.encode(), *kind])
        return encode_request([b"HELLO", proto, b"AUTH", GATE_USER, self.secret(GATE_PASSWORD_FILE)])

    def secret(self, name: str) -> bytes:
        """The content of one file of the mounted Secret. OSError when it is not there."""
        return (self._secrets / name).read_bytes().strip()
