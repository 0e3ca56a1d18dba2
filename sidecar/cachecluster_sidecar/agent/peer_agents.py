"""Requests to the agents of other pods: JSON over HTTP, on connections that are kept. Decides nothing."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

CONNECT_S = 1.0
ANSWER_S = 0.3
KEEP_S = 60.0


class Refused(Exception):
    """The other agent answered with an error; its text says which."""


class PeerAgents:
    """All agents listen on the same port and share the peer token."""

    def __init__(self, token: str, port: int) -> None:
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._port = port
        self._session: aiohttp.ClientSession | None = None

    async def post(self, host: str, path: str, body: dict[str, Any], answer_s: float = ANSWER_S) -> Any:
        """The JSON answer, which may take `answer_s`. OSError, TimeoutError or aiohttp.ClientError when there is none,
        Refused when it is an error, ValueError when it makes no sense."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        url = f"http://{host}:{self._port}{path}"
        data = json.dumps(body, separators=(",", ":")).encode()
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=answer_s)
        async with self._session.post(url, data=data, headers=self._headers, timeout=timeout) as response:
            answer = await response.read()
        if not response.ok:
            raise Refused(f"HTTP {response.status}: {answer[:200].decode(errors='replace')}")
        return json.loads(answer)

    async def close(self) -> None:
        """End the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
