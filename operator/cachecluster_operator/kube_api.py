"""`KubeApi`: the few requests that the operator makes of an API server, and their HTTP implementation.

JSON in, JSON out, one request a call, no retries, no caches: who calls decides what a failure means. A call either
succeeds, or raises `ApiError` (the server answered) or `Unreachable` (nobody knows whether the request took effect).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client as kubernetes_client

from .resources import Resource

Json = dict[str, Any]

FIELD_MANAGER = "cachecluster-operator"


class ApiError(Exception):
    """The API server refused. `status` is the HTTP status, `reason` the machine-readable reason of the Status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{message or reason} ({status} {reason})")
        self.status = status
        self.reason = reason
        self.message = message


class NotFound(ApiError):
    """404: no such object, or no such kind."""


class Conflict(ApiError):
    """409: it exists already, was changed meanwhile, has another UID, or another manager owns a field."""


class Unreachable(Exception):
    """No answer: refused, cut, timed out, or the server is unable to serve (429, 5xx)."""


class KubeApi(Protocol):
    """Requests; all raise ApiError and Unreachable. Objects are plain JSON dicts."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json | None:
        """A quorum read; None when there is no such object."""
        ...

    async def list(self, resource: Resource, namespace: str | None, label_selector: str = "") -> tuple[list[Json], str]:
        """A quorum list: the objects, and the resourceVersion of the list."""
        ...

    async def create(self, resource: Resource, manifest: Json) -> Json:
        """POST. Conflict when the name is taken."""
        ...

    async def replace(self, resource: Resource, manifest: Json) -> Json:
        """PUT; with metadata.resourceVersion it is a compare-and-swap (Conflict when it was changed)."""
        ...

    async def apply(self, resource: Resource, manifest: Json, subresource: str | None = None) -> Json:
        """Server-side apply, taking over fields of other managers; creates what is missing."""
        ...

    async def patch(
        self, resource: Resource, namespace: str, name: str, patch: Json, subresource: str | None = None
    ) -> Json:
        """Strategic merge patch for kinds of Kubernetes, merge patch for custom resources."""
        ...

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete exactly the object with this UID. NotFound or Conflict when that object is gone."""
        ...

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows this kind now (discovery; any authenticated user may ask)."""
        ...


class HttpKubeApi:
    """`KubeApi` over the HTTP client of kubernetes.aio, which knows kubeconfigs, tokens that rotate, and TLS.

    `read_timeout_s` and `write_timeout_s` are for a whole call; the client's own default would be five minutes.
    """

    def __init__(
        self,
        configuration: kubernetes_client.Configuration,
        read_timeout_s: float = 4.0,
        write_timeout_s: float = 6.0,
    ) -> None:
        self._configuration = configuration
        # The client's own type hints cover only a part of it.
        self._client: Any = kubernetes_client.ApiClient(configuration=configuration)
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s

    async def close(self) -> None:
        """End all connections."""
        await self._client.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json | None:
        try:
            return await self._request("GET", resource.path(namespace, name))
        except NotFound:
            return None

    async def list(self, resource: Resource, namespace: str | None, label_selector: str = "") -> tuple[list[Json], str]:
        query = {"labelSelector": label_selector} if label_selector else {}
        answer = await self._request("GET", resource.path(namespace), query)
        # Items of a list carry neither apiVersion nor kind.
        named = [{"apiVersion": resource.api_version, "kind": resource.kind} | item for item in answer["items"] or []]
        return named, answer["metadata"]["resourceVersion"]

    async def create(self, resource: Resource, manifest: Json) -> Json:
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def replace(self, resource: Resource, manifest: Json) -> Json:
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        return await self._request("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)

    async def apply(self, resource: Resource, manifest: Json, subresource: str | None = None) -> Json:
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        manager = FIELD_MANAGER if subresource is None else f"{FIELD_MANAGER}-{subresource}"
        query = {"fieldManager": manager, "force": "true"}
        return await self._request("PATCH", path, query, manifest, "application/apply-patch+yaml")

    async def patch(
        self, resource: Resource, namespace: str, name: str, patch: Json, subresource: str | None = None
    ) -> Json:
        custom = "." in resource.api_version and not resource.api_version.partition("/")[0].endswith(".k8s.io")
        content = "application/merge-patch+json" if custom else "application/strategic-merge-patch+json"
        path = resource.path(namespace, name, subresource)
        return await self._request("PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, content)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        await self._request("DELETE", resource.path(namespace, name), {}, options)

    async def serves(self, resource: Resource) -> bool:
        root = "/api/" if "/" not in resource.api_version else "/apis/"
        try:
            answer = await self._request("GET", root + resource.api_version)
        except NotFound:
            return False
        return any(entry["name"] == resource.plural for entry in answer.get("resources", ()))

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        timeout_s = self._read_timeout_s if method == "GET" else self._write_timeout_s
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            async with asyncio.timeout(timeout_s):
                headers = {"Accept": "application/json", "Content-Type": content_type} | await self._authorization()
                response = await self._client.rest_client.request(
                    method, url, headers=headers, body=body, _request_timeout=aiohttp.ClientTimeout(total=timeout_s)
                )
                payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{method} {path}: {type(error).__name__} {error}".rstrip()) from error
        return _answer(response.status, payload, f"{method} {path}")

    async def _authorization(self) -> dict[str, str]:
        settings: dict[str, Any] = dict(await self._configuration.auth_settings())
        return {setting["key"]: setting["value"] for setting in settings.values() if setting["in"] == "header"}


def _answer(status: int, payload: bytes, request: str) -> Json:
    try:
        answer = json.loads(payload)
        if not isinstance(answer, dict):
            raise ValueError("not an object")
    except ValueError as error:
        if status == 404:
            # An API group that the server does not know is answered in plain text.
            raise NotFound(status, "NotFound", request) from error
        # A proxy in between, or a server that is going down.
        raise Unreachable(f"{request}: {status} with an answer that is not JSON: {payload[:200]!r}") from error
    if status < 300:
        return answer
    reason, message = str(answer.get("reason") or status), str(answer.get("message") or "")
    if status == 429 or status >= 500:
        raise Unreachable(f"{request}: {message} ({status} {reason})")
    kind = {404: NotFound, 409: Conflict}.get(status, ApiError)
    raise kind(status, reason, f"{request}: {message}")


def resource_version(obj: Json) -> int:
    """The newer version of an object has the higher number (Kubernetes API concepts, "Resource versions")."""
    return int(obj["metadata"]["resourceVersion"])
