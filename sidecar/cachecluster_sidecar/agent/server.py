"""Port 7380: the operator's stream (reports out; hints and probes in), agents among each other, and the gates.

Everything is for whoever has the peer token.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import WSMsgType, web

from cachecluster_core.report import Report, essence

from .handover import HANDOVER_PATH, TAKEN_OVER_PATH
from .handover_messages import message_from_json, news_from_json, word_to_json
from .hearsay import MAP_PATH, map_to_json, version_from_json
from .loop import AgentLoop
from .map_client import MapClient
from .probe import Target, probe
from .promise_talk import PROMISE_PATH, asks_from_json

log = logging.getLogger(__name__)

REPORT_S = 0.5
COALESCE_S = 0.01
SEND_TIMEOUT_S = 2.0
MAX_STREAMS = 16
MAX_PROBES = 16
MAX_MESSAGE_BYTES = 64 << 10

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AgentServer:
    """The application. `publish` every report; streams send it when it says something new, or after 0.5 s."""

    def __init__(self, pod: str, token: str, loop: AgentLoop, maps: MapClient) -> None:
        self._pod = pod
        self._token = token
        self._loop = loop
        self._maps = maps
        self._report: Report | None = None
        self._said: tuple[object, ...] = ()
        self._streams: set[_Stream] = set()
        self.app = web.Application(middlewares=[self._authorise], client_max_size=MAX_MESSAGE_BYTES)
        self.app.router.add_get("/v1/stream", self._stream)
        self.app.router.add_get("/v1/gates", self._gates)
        self.app.router.add_post(HANDOVER_PATH, self._handover)
        self.app.router.add_post(TAKEN_OVER_PATH, self._taken_over)
        self.app.router.add_post(PROMISE_PATH, self._promise)
        self.app.router.add_post(MAP_PATH, self._map)
        self.app.on_shutdown.append(self._close_streams)

    def publish(self, report: Report) -> None:
        """A step was made: this is what it reports."""
        self._report = report
        said = essence(report)
        if said != self._said:
            self._said = said
            for stream in self._streams:
                stream.news.set()

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            return _error(HTTPStatus.UNAUTHORIZED, "the peer token is needed")
        return await handler(request)

    async def _gates(self, request: web.Request) -> web.Response:
        return web.json_response({"uid": self._pod, "gates": self._loop.open_gates()})

    async def _handover(self, request: web.Request) -> web.Response:
        """A primary's message to the successor here; whoever else has its address by now says so."""
        try:
            message = message_from_json(json.loads(await request.read()))
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        if message.successor.pod != self._pod:
            return _error(HTTPStatus.CONFLICT, f"this is pod {self._pod}, not {message.successor.pod}", uid=self._pod)
        if self._loop.handovers.is_ahead(message.partition, message.epoch):
            self._maps.read_now()
        word = await self._loop.handovers.answer(message)
        if word is None:
            return _error(HTTPStatus.NOT_FOUND, f"nothing is known of partition {message.partition} yet")
        return web.json_response(word_to_json(word))

    async def _taken_over(self, request: web.Request) -> web.Response:
        """News of successors that serve."""
        try:
            news = news_from_json(json.loads(await request.read()))
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        for partition, one in news.items():
            if self._loop.handovers.is_ahead(partition, one.epoch):
                self._maps.read_now()
            self._loop.handovers.take_news(partition, one)
        return web.json_response({})

    async def _promise(self, request: web.Request) -> web.Response:
        """An agent that cannot read the map asks that copies here be sealed at no higher epoch for a while."""
        try:
            asker, asked, asks = asks_from_json(json.loads(await request.read()))
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        if asked != self._pod:
            return _error(HTTPStatus.CONFLICT, f"this is pod {self._pod}, not {asked}", uid=self._pod)
        return web.json_response({"promised": sorted(self._loop.promise(asker, asks))})

    async def _map(self, request: web.Request) -> web.Response:
        """An agent that cannot read the map asks what is known of it here."""
        try:
            known = version_from_json(json.loads(await request.read()))
        except ValueError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        return web.json_response(map_to_json(self._loop.ring, known))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if len(self._streams) >= MAX_STREAMS:
            return _error(HTTPStatus.TOO_MANY_REQUESTS, "too many streams")
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, compress=False)
        await socket.prepare(request)
        stream = _Stream(socket, self._token, lambda: self._report, self._maps.hint)
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)
        return socket

    async def _close_streams(self, app: web.Application) -> None:
        for stream in list(self._streams):
            await stream.socket.close()


def _error(status: HTTPStatus, text: str, **details: str) -> web.Response:
    return web.json_response({"error": text, **details}, status=status)


class _Stream:
    """One operator's connection. `news` is set when the report says something new."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        token: str,
        report: Callable[[], Report | None],
        hint: Callable[[str], None],
    ) -> None:
        self.socket = socket
        self.news = asyncio.Event()
        self._token = token
        self._report = report
        self._hint = hint
        self._probes: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until the connection ends."""
        sender = asyncio.create_task(self._send_reports())
        try:
            async for message in self.socket:
                if message.type is not WSMsgType.TEXT:
                    break
                self._take(json.loads(message.data))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("the operator's stream makes no sense: %r", error)
        finally:
            for task in (sender, *self._probes):
                task.cancel()
            await self.socket.close()

    async def _send_reports(self) -> None:
        while True:
            report = self._report()
            self.news.clear()
            if report is not None and not await self._send({"report": report.to_json()}):
                return
            await asyncio.sleep(COALESCE_S)
            try:
                async with asyncio.timeout(REPORT_S - COALESCE_S):
                    await self.news.wait()
            except TimeoutError:
                pass

    def _take(self, message: Any) -> None:
        match message:
            case {"hint": str(version)}:
                self._hint(version)
            case {"probe": {"id": int(number)} as asked}:
                if len(self._probes) < MAX_PROBES:
                    task = asyncio.create_task(self._probe(number, Target.from_json(asked)))
                    self._probes.add(task)
                    task.add_done_callback(self._probes.discard)
            case _:
                raise ValueError(f"unknown message {message!r}")

    async def _probe(self, number: int, target: Target) -> None:
        await self._send({"probed": {"id": number, **await probe(target, self._token)}})

    async def _send(self, message: dict[str, Any]) -> bool:
        """False when the connection has ended or takes nothing."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self.socket.send_str(json.dumps(message, separators=(",", ":")))
        except (OSError, RuntimeError, TimeoutError) as error:
            log.info("a stream ended: %r", error)
            return False
        return True
