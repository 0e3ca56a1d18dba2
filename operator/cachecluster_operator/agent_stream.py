"""The stream between the operator and one agent: reports come in, hints and probes go out (docs/protocol.md).

A stream belongs to a pod UID. The address may meanwhile be another pod's: whoever reports another UID is not heard.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp

from cachecluster_core.report import Report

from .suspicion import AgentTrack, Probed

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 1.0
RECONNECT_S = 0.5
SILENCE_S = 3.0
"""A connection without a report for so long is given up; the other side may be gone without a word."""
MAX_MESSAGE_BYTES = 4 << 20
MAX_UNSENT = 64
"""Messages waiting to be sent; beyond that the connection is given up as stuck."""


class StreamListener(Protocol):
    """Who is told what comes in."""

    def on_report(self, uid: str, report: Report) -> None:
        """A report of exactly this pod."""
        ...

    def on_reset(self, uid: str) -> None:
        """The stream ended after at least one report."""
        ...


class AgentStream:
    """Keeps a stream to the agent of one pod, connecting again for ever. `run` it as a task."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        track: AgentTrack,
        agent_port: int,
        token: str,
        listener: StreamListener,
    ) -> None:
        self.uid = track.uid
        self.host = track.host
        self._session = session
        self._url = f"http://{_bracketed(track.host)}:{agent_port}/v1/stream"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._listener = listener
        self._ids = itertools.count(1)
        self._probes: dict[int, asyncio.Future[Probed]] = {}
        self._unsent: asyncio.Queue[str] = asyncio.Queue(MAX_UNSENT)
        self._reporting = False

    @property
    def reporting(self) -> bool:
        """The stream is up and its agent has reported on it."""
        return self._reporting

    def send_hint(self, version: str) -> None:
        """Tell the agent that the map was written. Lost without harm when the stream is down."""
        self._send({"hint": version})

    async def probe(self, target: AgentTrack, cluster_port: int, agent_port: int) -> Probed:
        """Have this agent look at another pod. ConnectionError when the stream is down; bound the time yourself."""
        number = next(self._ids)
        future: asyncio.Future[Probed] = asyncio.get_running_loop().create_future()
        self._probes[number] = future
        target_json = {"id": number, "uid": target.uid, "host": target.host}
        try:
            self._send({"probe": target_json | {"clusterPort": cluster_port, "agentPort": agent_port}})
            if not self._reporting:
                raise ConnectionError(f"no stream to {self.uid}")
            return await future
        finally:
            del self._probes[number]

    async def run(self) -> None:
        """Connect, listen, and begin again, until cancelled."""
        while True:
            try:
                await self._converse()
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                logger.debug("stream to %s at %s: %r", self.uid, self.host, error)
            finally:
                self._end()
            await asyncio.sleep(RECONNECT_S)

    async def _converse(self) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            socket = await self._session.ws_connect(self._url, headers=self._headers, max_msg_size=MAX_MESSAGE_BYTES)
        async with socket:
            sender = asyncio.create_task(self._send_all(socket))
            try:
                await self._listen(socket)
            finally:
                sender.cancel()

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await socket.receive(timeout=SILENCE_S)
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            self._take(json.loads(message.data))

    async def _send_all(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            try:
                await socket.send_str(await self._unsent.get())
            except (aiohttp.ClientError, OSError):
                return

    def _take(self, data: Any) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"not a message: {data!r}")
        if "report" in data:
            report = Report.from_json(data["report"])
            if report.pod != self.uid:
                raise ValueError(f"{self.host} is pod {report.pod} now, not {self.uid}")
            self._reporting = True
            self._listener.on_report(self.uid, report)
        elif "probed" in data:
            future = self._probes.get(data["probed"].get("id"))
            if future is not None and not future.done():
                future.set_result(Probed.from_json(data["probed"]))

    def _send(self, message: dict[str, Any]) -> None:
        if not self._reporting:
            return
        try:
            self._unsent.put_nowait(json.dumps(message))
        except asyncio.QueueFull:
            logger.warning("the agent %s takes no messages", self.uid)

    def _end(self) -> None:
        while not self._unsent.empty():
            self._unsent.get_nowait()
        for future in self._probes.values():
            if not future.done():
                future.set_exception(ConnectionError(f"the stream to {self.uid} ended"))
        if self._reporting:
            self._reporting = False
            self._listener.on_reset(self.uid)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


Connector = Callable[[AgentTrack], AgentStream]
"""Makes the stream of a track; the control loop is given one, so that tests need no sockets."""
