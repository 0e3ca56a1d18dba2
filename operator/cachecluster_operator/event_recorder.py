"""Events on CacheClusters: posted in the background, repeats counted in a series, never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from cachecluster_core.operator_view import Event

from .kube_api import ApiError, Json, KubeApi, Unreachable
from .resources import EVENT

log = logging.getLogger(__name__)

CONTROLLER = "cachecluster.io/operator"
NOTE_LIMIT = 1024


@dataclass(slots=True)
class _Series:
    """An Event object that has been posted, by name, and how often it has happened."""

    name: str
    count: int
    last: float


class EventRecorder:
    """Posts Events (events.k8s.io/v1). At most `queue_limit` wait; when the API server is away the newest are dropped.

    The same event again within `series_s` seconds becomes a count on the first one; `series_limit` are remembered.
    """

    def __init__(
        self, api: KubeApi, instance: str, queue_limit: int = 256, series_s: float = 600.0, series_limit: int = 512
    ) -> None:
        self._api = api
        self._instance = instance
        self._series_s = series_s
        self._series_limit = series_limit
        self._queue: asyncio.Queue[tuple[Json, Event]] = asyncio.Queue(queue_limit)
        self._series: OrderedDict[tuple[str, Event], _Series] = OrderedDict()

    def record(self, cluster: Json, event: Event) -> None:
        """Say this about a CacheCluster (the object)."""
        log.log(
            logging.WARNING if event.warning else logging.INFO,
            "%s/%s: %s: %s",
            cluster["metadata"]["namespace"], cluster["metadata"]["name"], event.reason, event.note,
        )  # fmt: skip
        try:
            self._queue.put_nowait((cluster, event))
        except asyncio.QueueFull:
            log.warning("too many events wait for the API server; dropped %s", event.reason)

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            cluster, event = await self._queue.get()
            try:
                await self._post(cluster, event)
            except (ApiError, Unreachable) as error:
                log.warning("the event %s was not posted: %s", event.reason, error)

    async def _post(self, cluster: Json, event: Event) -> None:
        key = (cluster["metadata"]["uid"], event)
        now = asyncio.get_running_loop().time()
        series = self._series.get(key)
        namespace = cluster["metadata"]["namespace"]
        if series is not None and now - series.last < self._series_s:
            series.count += 1
            series.last = now
            patch = {"series": {"count": series.count, "lastObservedTime": _micro_time()}}
            await self._api.patch(EVENT, namespace, series.name, patch)
            return
        posted = await self._api.create(EVENT, self._manifest(cluster, event))
        self._series[key] = _Series(posted["metadata"]["name"], 1, now)
        self._series.move_to_end(key)
        while len(self._series) > self._series_limit:
            self._series.popitem(last=False)

    def _manifest(self, cluster: Json, event: Event) -> Json:
        metadata = cluster["metadata"]
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": f"{metadata['name']}.{secrets.token_hex(8)}", "namespace": metadata["namespace"]},
            "eventTime": _micro_time(),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance[:128],
            "action": "Control",
            "reason": event.reason[:128],
            "type": "Warning" if event.warning else "Normal",
            "note": event.note if len(event.note) <= NOTE_LIMIT else event.note[: NOTE_LIMIT - 3] + "...",
            "regarding": {
                "apiVersion": cluster["apiVersion"],
                "kind": cluster["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
