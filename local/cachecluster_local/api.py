"""The part of the Kubernetes API that agents use to follow the map, served from memory over HTTP.

GET of the map (whole, or metadata only), a watch on it, and DELETE for those who want to see what happens then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from cachecluster_core.hashring import HashRing

from .map_store import ChangeType, Expired, MemoryMapStore

COLLECTION = "/apis/cachecluster.io/v1alpha1/namespaces/{namespace}/hashrings"
METADATA_ONLY = "as=PartialObjectMetadata"
WATCH_TIMEOUT_S = 300


class LocalApi:
    """Serves one store, and what else `routes` say, on a free port of `host`; `url` is known after `start`."""

    def __init__(self, store: MemoryMapStore, host: str, routes: Iterable[web.RouteDef] = ()) -> None:
        self._store = store
        self._host = host
        self._routes = tuple(routes)
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Bind and serve. OSError when the address cannot be bound."""
        app = web.Application()
        app.router.add_get(COLLECTION, self._watch)
        app.router.add_get(COLLECTION + "/{name}", self._get)
        app.router.add_delete(COLLECTION + "/{name}", self._delete)
        app.add_routes(self._routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://{self._host}:{port}"

    async def stop(self) -> None:
        """Close the port and all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get(self, request: web.Request) -> web.Response:
        ring = self._store.current
        if ring is None or not self._is_ours(request, ring):
            return _status(HTTPStatus.NOT_FOUND, "NotFound", f"hashrings {request.match_info['name']!r} not found")
        if METADATA_ONLY in request.headers.get("Accept", ""):
            metadata = self._store.to_metadata(ring)
            partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            return web.json_response(partial)
        return web.json_response(self._store.to_object(ring))

    async def _delete(self, request: web.Request) -> web.Response:
        ring = self._store.current
        if ring is None or not self._is_ours(request, ring):
            return _status(HTTPStatus.NOT_FOUND, "NotFound", f"hashrings {request.match_info['name']!r} not found")
        self._store.delete()
        return _status(HTTPStatus.OK, "", "deleted")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in ("1", "true"):
            return _status(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", "lists are not served, only watches are")
        try:
            version = int(request.query.get("resourceVersion") or -1)
            timeout_s = float(request.query.get("timeoutSeconds") or WATCH_TIMEOUT_S)
        except ValueError as error:
            return _status(HTTPStatus.BAD_REQUEST, "BadRequest", str(error))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            async with asyncio.timeout(timeout_s):
                await self._send_changes(response, version)
        except (TimeoutError, ConnectionError):
            pass
        return response

    async def _send_changes(self, response: web.StreamResponse, version: int) -> None:
        if version < 0:
            ring, version = self._store.current, int(self._store.version)
            if ring is not None:
                await _send(response, ChangeType.ADDED, self._store.to_object(ring))
        try:
            async for change in self._store.watch(version):
                await _send(response, change.type, self._store.to_object(change.ring))
        except Expired as error:
            await _send(response, "ERROR", _status_body(HTTPStatus.GONE, "Expired", str(error)))

    def _is_ours(self, request: web.Request, ring: HashRing) -> bool:
        asked = request.match_info
        return (asked["namespace"], asked["name"]) == (self._store.namespace, ring.name)


async def _send(response: web.StreamResponse, kind: str, body: dict[str, Any]) -> None:
    await response.write(json.dumps({"type": str(kind), "object": body}).encode() + b"\n")


def _status_body(code: HTTPStatus, reason: str, message: str) -> dict[str, Any]:
    body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": int(code)}
    return body | {"status": "Success" if code is HTTPStatus.OK else "Failure", "reason": reason, "message": message}


def _status(code: HTTPStatus, reason: str, message: str) -> web.Response:
    return web.json_response(_status_body(code, reason, message), status=code)
