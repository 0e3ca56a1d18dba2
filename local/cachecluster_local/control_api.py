"""What `kubectl` is on Kubernetes: HTTP paths by which a running local cluster is changed and looked at, in JSON.

GET /v1/status                    the status that a CacheCluster would have
PUT /v1/desired                   {"nodes": 5, "paused": true, "engine": "valkey", "evict": true}, each optional
                                  (see `Change`); answers with all of them, and what is pending
POST /v1/nodes/{name}/outdated    have a node replaced, as when the pod's template had changed
DELETE /v1/nodes/{name}           end a node in order, as `kubectl delete pod`; another takes its place
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from aiohttp import web

KINDS = {int: "whole number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Change:
    """What is desired from now on; None: as before. `evict`: a scale-in may evict keys."""

    nodes: int | None = None
    paused: bool | None = None
    engine: str | None = None
    evict: bool | None = None


class Controlled(Protocol):
    """What a local cluster can be asked to do."""

    def status(self) -> dict[str, Any]:
        """The status."""
        ...

    def change(self, wanted: Change) -> dict[str, Any]:
        """Desire something else; what is desired now, and what of it is pending. ValueError: it cannot be."""
        ...

    def mark_outdated(self, name: str) -> bool:
        """Have a node replaced; False when there is none of that name."""
        ...

    async def delete_node(self, name: str) -> bool:
        """Begin to end a node in order; False when there is none of that name."""
        ...


def control_routes(cluster: Controlled) -> list[web.RouteDef]:
    """The paths, for a server to add."""

    async def status(_: web.Request) -> web.Response:
        return web.json_response(cluster.status())

    async def desire(request: web.Request) -> web.Response:
        try:
            return web.json_response(cluster.change(_change(await request.json())))
        except (ValueError, json.JSONDecodeError) as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))

    async def outdated(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({}) if cluster.mark_outdated(name) else _no_node(name)

    async def delete(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response({}) if await cluster.delete_node(name) else _no_node(name)

    return [
        web.get("/v1/status", status),
        web.put("/v1/desired", desire),
        web.post("/v1/nodes/{name}/outdated", outdated),
        web.delete("/v1/nodes/{name}", delete),
    ]


def _change(body: Any) -> Change:
    """The body of a PUT, checked. ValueError says what is wrong with it."""
    kinds = {"nodes": int, "paused": bool, "engine": str, "evict": bool}
    if not isinstance(body, dict) or not body.keys() <= kinds.keys():
        raise ValueError('a JSON object with "nodes", "paused", "engine" and "evict", each optional, is expected')
    for name, value in body.items():
        if type(value) is not kinds[name]:
            raise ValueError(f"{name}: {value!r} is no {KINDS[kinds[name]]}")
    return Change(**body)


def _no_node(name: str) -> web.Response:
    return _error(HTTPStatus.NOT_FOUND, f"there is no node {name}")


def _error(code: HTTPStatus, message: str) -> web.Response:
    return web.json_response({"error": message}, status=code)
