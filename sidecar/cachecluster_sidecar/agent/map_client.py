"""The agent's way to the map: quorum reads that authority comes from, and a watch that only says when to read.

A read is a GET without resourceVersion, which the API server answers from etcd's quorum. Usually it asks for metadata
only; the whole map is read when the resourceVersion differs from the one known, or when a hint says that it will.
What counts for authority is the time *before* a read was sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from cachecluster_core.hashring import HashRing

from .clock import boottime_ns

log = logging.getLogger(__name__)

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MAX_EVENT_BYTES = 8 << 20


class ReadFailed(Exception):
    """Nothing is known: no answer, a refusal, or one that makes no sense."""


@dataclass(frozen=True, slots=True)
class MapRead:
    """What a successful quorum read said: the map (None: there is none). It was sent at `sent_ns` (CLOCK_BOOTTIME)."""

    ring: HashRing | None
    sent_ns: int


@dataclass(frozen=True, slots=True)
class ApiServer:
    """How to reach the API server. The token is read again for every request: projected tokens rotate.

    `owner_uid` is the CacheCluster's: the map of an earlier cluster of the same name may still be there when this one
    starts, and must not be taken for ours ('' takes every map).
    """

    url: str
    namespace: str
    name: str
    token_file: Path | None = None
    ca_file: Path | None = None
    owner_uid: str = ""

    @property
    def collection(self) -> str:
        """URL of the namespace's maps."""
        return f"{self.url.rstrip('/')}/apis/cachecluster.io/v1alpha1/namespaces/{self.namespace}/hashrings"

    @property
    def object(self) -> str:
        """URL of the map."""
        return f"{self.collection}/{self.name}"

    def owns(self, found: dict[str, Any]) -> bool:
        """Whether a map belongs to this cluster."""
        owners = found["metadata"].get("ownerReferences") or []
        return not self.owner_uid or any(owner.get("uid") == self.owner_uid for owner in owners)

    def headers(self) -> dict[str, str]:
        """Authorization, when there is a token."""
        if self.token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self.token_file.read_text(encoding='ascii').strip()}"}
        except OSError as error:
            raise ReadFailed(f"cannot read the token: {error}") from error

    def connector(self) -> aiohttp.TCPConnector:
        """Connections that trust the cluster's own authority, when one is given."""
        if self.ca_file is None:
            return aiohttp.TCPConnector(limit=4)
        return aiohttp.TCPConnector(limit=4, ssl=ssl.create_default_context(cafile=str(self.ca_file)))


@dataclass(frozen=True, slots=True)
class ReadTimes:
    """Seconds: from one read to the next, how long one may take, pause after a failure, life of a watch."""

    period: float = 1.0
    timeout: float = 1.0
    retry: float = 0.2
    watch: int = 240
    watch_retry: float = 0.5


class MapClient:
    """Reads for ever; `on_read` gets every success, `on_attempt` the duration and outcome of every read."""

    def __init__(
        self,
        api: ApiServer,
        on_read: Callable[[MapRead], None],
        on_attempt: Callable[[float, bool], None],
        times: ReadTimes | None = None,
        clock_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        self._api = api
        self._on_read = on_read
        self._on_attempt = on_attempt
        self._times = times or ReadTimes()
        self._clock_ns = clock_ns
        self._ring: HashRing | None = None
        self._expected = ""
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failing = False

    def hint(self, version: str) -> None:
        """Somebody says that the map has this resourceVersion ('' for: changed somehow): read it now, if it is new."""
        if self._ring is None or version != self._ring.version:
            self._expected = version
            self._wake.set()

    def read_now(self) -> None:
        """A read that is sent from now on is wanted: do not wait for the next one in turn."""
        self._wake.set()

    async def run(self) -> None:
        """Read and watch until cancelled."""
        timeout = aiohttp.ClientTimeout(total=self._times.timeout)
        async with (
            aiohttp.ClientSession(connector=self._api.connector(), timeout=timeout) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._read_forever(session))
            tasks.create_task(self._watch_forever(session))

    async def _read_forever(self, session: aiohttp.ClientSession) -> None:
        while True:
            self._wake.clear()
            began = self._loop.time()
            succeeded = await self._read_once(session)
            took = self._loop.time() - began
            self._on_attempt(took, succeeded)
            pause = self._times.period - took if succeeded else self._times.retry
            try:
                async with asyncio.timeout(max(0.0, pause)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _read_once(self, session: aiohttp.ClientSession) -> bool:
        try:
            read = await self._read(session)
        except (ReadFailed, aiohttp.ClientError, OSError, TimeoutError, ValueError, AssertionError) as error:
            return self._failed(error)
        try:
            self._on_read(read)
        except OSError as error:
            return self._failed(error)
        if self._failing:
            log.info("the map can be read again")
        self._failing = False
        self._ring = read.ring
        return True

    def _failed(self, error: Exception) -> bool:
        log.log(logging.DEBUG if self._failing else logging.WARNING, "the map cannot be read: %r", error)
        self._failing = True
        return False

    async def _read(self, session: aiohttp.ClientSession) -> MapRead:
        """One quorum read, or two when the first shows that there is a new map."""
        ring = self._ring
        if ring is not None and self._expected in ("", ring.version):
            sent_ns = self._clock_ns()
            found = await self._get(session, METADATA_ONLY)
            if found is None:
                return MapRead(None, sent_ns)
            if found["metadata"]["resourceVersion"] == ring.version:
                self._expected = ""
                return MapRead(ring, sent_ns)
        self._expected = ""
        sent_ns = self._clock_ns()
        found = await self._get(session, "application/json")
        return MapRead(None if found is None else HashRing.from_object(found), sent_ns)

    async def _get(self, session: aiohttp.ClientSession, accept: str) -> dict[str, Any] | None:
        headers = self._api.headers() | {"Accept": accept}
        async with session.get(self._api.object, headers=headers) as response:
            body = await response.read()
        if response.status == HTTPStatus.NOT_FOUND and _is_missing(body):
            return None
        if response.status != HTTPStatus.OK:
            raise ReadFailed(f"HTTP {response.status}: {body[:200]!r}")
        found = json.loads(body)
        if not isinstance(found, dict) or "resourceVersion" not in found.get("metadata", {}):
            raise ReadFailed(f"not an object of the API: {body[:200]!r}")
        return found if self._api.owns(found) else None

    async def _watch_forever(self, session: aiohttp.ClientSession) -> None:
        while True:
            try:
                await self._watch(session)
            except (ReadFailed, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                log.debug("the watch ended: %r", error)
            await asyncio.sleep(self._times.watch_retry)

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        """One watch, from the known map on. Every event is only a reason to read."""
        parameters = {
            "watch": "1",
            "fieldSelector": f"metadata.name={self._api.name}",
            "resourceVersion": self._ring.version if self._ring is not None else "0",
            "timeoutSeconds": str(self._times.watch),
        }
        timeout = aiohttp.ClientTimeout(total=None, connect=self._times.timeout, sock_read=self._times.watch + 10)
        async with session.get(
            self._api.collection, params=parameters, headers=self._api.headers(), timeout=timeout
        ) as response:
            if response.status != HTTPStatus.OK:
                raise ReadFailed(f"HTTP {response.status} to a watch")
            buffer = bytearray()
            async for chunk in response.content.iter_any():
                buffer += chunk
                *lines, rest = buffer.split(b"\n")
                for line in lines:
                    self._take_event(json.loads(line))
                if len(rest) > MAX_EVENT_BYTES:
                    raise ReadFailed(f"an event of more than {MAX_EVENT_BYTES} bytes")
                buffer = rest

    def _take_event(self, event: dict[str, Any]) -> None:
        kind, found = event.get("type"), event.get("object", {})
        if kind == "ERROR":
            raise ReadFailed(f"the watch says {found.get('code')} {found.get('reason')}")
        if kind == "DELETED":
            self.read_now()
        elif kind in ("ADDED", "MODIFIED"):
            self.hint(found.get("metadata", {}).get("resourceVersion", ""))


def _is_missing(body: bytes) -> bool:
    """A 404 that is the API's word on this object, and not a proxy's or a missing CRD's."""
    try:
        status = json.loads(body)
    except ValueError:
        return False
    return isinstance(status, dict) and status.get("kind") == "Status" and status.get("reason") == "NotFound"
