"""The operator's port for machines: /metrics, /healthz, /readyz."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


class HttpServer:
    """Serves on every address of the pod. `render` makes the metrics page, `is_ready` answers /readyz."""

    def __init__(self, port: int, render: Callable[[], bytes], content_type: str, is_ready: Callable[[], bool]) -> None:
        self._port = port
        self._render = render
        self._content_type = content_type
        self._is_ready = is_ready
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; the port that it became. OSError when it is taken."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._render(), headers={"Content-Type": self._content_type})

    async def _healthz(self, _: web.Request) -> web.Response:
        # That this is answered shows that the event loop turns; a failed part ends the process by itself.
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self._is_ready() else web.Response(text="starting\n", status=503)
