"""Port 9121: metrics for Prometheus, liveness and readiness for the kubelet."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from aiohttp import web

from ..metrics import SidecarMetrics
from .loop import AgentLoop
from .router_hub import RouterHub

STUCK_AFTER_S = 5.0
CONNECT_TIMEOUT_S = 0.5


class HealthServer:
    """The application. `client_address` is the front port that must accept for the pod to be ready."""

    def __init__(
        self, loop: AgentLoop, hub: RouterHub, metrics: SidecarMetrics, client_address: tuple[str, int]
    ) -> None:
        self._loop = loop
        self._hub = hub
        self._metrics = metrics
        self._client_address = client_address
        self.app = web.Application()
        self.app.router.add_get("/metrics", self._render)
        self.app.router.add_get("/healthz", self._alive)
        self.app.router.add_get("/readyz", self._ready)

    async def _render(self, request: web.Request) -> web.Response:
        report = self._loop.report
        if report is None:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="no step was made yet\n")
        counters = await self._hub.counters()
        page = self._metrics.render(report, self._maxmemory(), counters, self._loop.replica_lag())
        return web.Response(body=page, headers={"Content-Type": self._metrics.CONTENT_TYPE})

    async def _alive(self, request: web.Request) -> web.Response:
        stuck_s = asyncio.get_running_loop().time() - self._loop.stepped_at
        if stuck_s > STUCK_AFTER_S:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"no step for {stuck_s:.1f} s\n")
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        reason = await self._reason_not_ready()
        if reason:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{reason}\n")
        return web.Response(text="ok\n")

    async def _reason_not_ready(self) -> str:
        """Empty when clients may be sent here. Holding no copies is no reason: every pod serves every key."""
        if self._loop.draining:
            return "the pod is going"
        if self._loop.ring is None:
            return "there is no map yet"
        if self._loop.authority_s <= 0 and not self._loop.open_gates():
            return f"the map was not confirmed in time: authority lapsed {-self._loop.authority_s:.1f} s ago"
        if not self._hub.admitted:
            return "no router knows the gates yet"
        users = self._hub.users
        if users is not None and not users.known:
            return users.trouble
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(*self._client_address)
        except (OSError, TimeoutError) as error:
            return f"the front port does not accept: {error!r}"
        writer.close()
        return ""

    def _maxmemory(self) -> int:
        ring = self._loop.ring
        value = dict(ring.settings.engine_config).get("maxmemory", "0") if ring is not None else "0"
        return int(value) if value.isdigit() else 0
