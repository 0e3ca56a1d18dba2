"""`Reconciler`: makes what the specs ask for true, level-triggered, from one keyed queue, and writes status.

Events only make keys dirty. Failover is not here: each cluster's control loop runs beside the queue and never waits
for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from cachecluster_core.operator_view import Event

from . import manifests
from .children import NameTaken, is_owned
from .cluster_key import ClusterKey
from .data_loss import data_loss_seen
from .event_recorder import EventRecorder
from .keyed_queue import KeyedQueue
from .kube_api import ApiError, Conflict, Json, KubeApi, NotFound, Unreachable, resource_version
from .labels import CLUSTER_LABEL, secret_name
from .managed_cluster import ManagedCluster, Wakeups
from .metrics import OperatorMetrics
from .pause import pause_of
from .ports import StoreUnavailable
from .resources import CACHE_CLUSTER, HASH_RING, POD, SECRET, Resource
from .snapshot import ClusterSnapshot
from .status import compose_status, min_available
from .status_figures import Difference, what_differs
from .zones import Zones

log = logging.getLogger(__name__)

WORKERS = 4
RESYNC_S = 60.0
"""How often everything is read again: what a watch missed, and children that are not watched."""
RESYNC_AGAIN_S = 5.0
"""... and after the API server did not answer, until it does: a watch may take long to notice that it is back."""
FIGURES_S = 30.0
"""Shortest time between two writes of a status in which only memory and client figures changed."""
PROGRESS_S = 2.0
"""... and in which besides only the figures of a running change did."""
STATUS_PAUSE_S = 0.25
"""Shortest time between two writes of a status."""
RECHECK_S = 1.0
"""How soon a part of the spec that is not in effect because of what copies hold is looked at again."""

DELETED_UIDS = 1024
"""So many CacheClusters that were deleted are kept from returning with a late list."""

_PAUSES = {Difference.FIGURES: FIGURES_S, Difference.PROGRESS: PROGRESS_S, Difference.STATE: STATUS_PAUSE_S}


class SecretMissing(Exception):
    """The Secret is gone or incomplete while pods use it: a new one would not match what they run with."""


EXPECTED = (ApiError, Unreachable, NameTaken, SecretMissing, StoreUnavailable)


class Reconciler:
    """All CacheClusters of the watched namespaces (None: of all). `image` is what pods run unless a spec says other."""

    def __init__(
        self,
        api: KubeApi,
        namespaces: Sequence[str] | None,
        image: str,
        recorder: EventRecorder,
        metrics: OperatorMetrics,
    ) -> None:
        self._api = api
        self._namespaces: Sequence[str | None] = [None] if namespaces is None else namespaces
        self._image = image
        self._recorder = recorder
        self._metrics = metrics
        self._zones = Zones(api)
        self._clusters: dict[ClusterKey, ManagedCluster] = {}
        self._seen: dict[ClusterKey, Json] = {}
        self._unanswered = asyncio.Event()
        self._deleted: deque[str] = deque(maxlen=DELETED_UIDS)
        self._queue = KeyedQueue(self._reconcile, "reconcile", expected=EXPECTED)
        self._status_queue = KeyedQueue(self._write_status, "status", expected=EXPECTED)

    async def run(self) -> None:
        """Until cancelled; then all control loops have ended."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run(WORKERS))
                group.create_task(self._status_queue.run(WORKERS))
                group.create_task(self._resync())
        finally:
            await asyncio.gather(*(cluster.stop() for cluster in self._clusters.values()))
            await self._zones.close()

    # -- what the watches tell -----------------------------------------------------------------------------------------

    def seen(self, resource: Resource, obj: Json) -> None:
        """An object of a watched kind was added or changed."""
        key = _key_of(resource, obj)
        if key is None:
            return
        cluster = self._clusters.get(key)
        if resource == CACHE_CLUSTER:
            before = self._seen.get(key)
            if self._take(key, obj) and (before is None or _matters(before) != _matters(obj)):
                self._queue.add(key)
        elif cluster is None:
            return
        elif resource == POD:
            cluster.pods.seen(obj)
        elif resource == HASH_RING:
            cluster.store.notify()
        elif cluster.children.seen(obj):
            self._queue.add(key)

    def gone(self, resource: Resource, obj: Json) -> None:
        """An object of a watched kind was deleted."""
        key = _key_of(resource, obj)
        if key is None:
            return
        cluster = self._clusters.get(key)
        if resource == CACHE_CLUSTER:
            self._deleted.append(obj["metadata"]["uid"])
            if (self._seen.get(key) or obj)["metadata"]["uid"] == obj["metadata"]["uid"]:
                self._seen.pop(key, None)
            self._queue.add(key)
        elif cluster is None:
            return
        elif resource == POD:
            cluster.pods.gone(obj["metadata"]["uid"])
        elif resource == HASH_RING:
            cluster.store.notify()
        else:
            cluster.children.gone(obj)
            self._queue.add(key)

    def _take(self, key: ClusterKey, obj: Json) -> bool:
        """Keep a CacheCluster that was watched or listed, unless a newer one is known or it has been deleted since: an
        old spec could have pods emptied, and what has begun to leave leaves."""
        known = self._seen.get(key)
        older = known is not None and resource_version(obj) <= resource_version(known)
        if older or obj["metadata"]["uid"] in self._deleted:
            return False
        self._seen[key] = obj
        return True

    # -- reconcile -----------------------------------------------------------------------------------------------------

    async def _reconcile(self, key: ClusterKey) -> float | None:
        started = time.monotonic()
        ok = False
        try:
            cluster = await self._managed(key)
            if cluster is not None:
                await self._bring_about(cluster)
            ok = True
        except (Unreachable, StoreUnavailable):
            self._unanswered.set()
            raise
        finally:
            self._metrics.reconciled(time.monotonic() - started, ok)
        unsettled = cluster is not None and cluster.effect is not None and cluster.effect.unsettled
        return RECHECK_S if unsettled else None

    async def _managed(self, key: ClusterKey) -> ManagedCluster | None:
        """The cluster to work on; one that is gone, or going, is let go of."""
        obj = self._seen.get(key)
        cluster = self._clusters.get(key)
        leaving = obj is None or "deletionTimestamp" in obj["metadata"]
        if cluster is not None and (leaving or (obj is not None and cluster.uid != obj["metadata"]["uid"])):
            del self._clusters[key]
            await cluster.stop()
            self._metrics.forget(key.namespace, key.name)
            log.info("%s: no longer managed", key)
            cluster = None
        if leaving or obj is None:
            self._queue.forget(key)
            self._status_queue.forget(key)
            return None
        if cluster is None:
            wakeups = Wakeups(
                reconcile=lambda: self._queue.add(key),
                status=lambda: self._status_queue.add(key),
                snapshot=lambda snapshot: self._on_snapshot(key, snapshot),
            )
            cluster = self._clusters[key] = ManagedCluster(self._api, key, obj, self._zones, self._image, wakeups)
            log.info("%s: managed", key)
        cluster.obj = obj
        return cluster

    async def _bring_about(self, cluster: ManagedCluster) -> None:
        problems = cluster.problems
        cluster.parse()
        if cluster.problems and cluster.problems != problems:
            note = "; ".join(str(problem) for problem in cluster.problems)
            self._recorder.record(cluster.obj, Event("InvalidSpec", note, warning=True))
        try:
            await self._make_true(cluster)
            cluster.trouble = ""
        except EXPECTED as error:
            cluster.trouble = str(error)
            raise
        finally:
            self._status_queue.add(cluster.key)

    async def _make_true(self, cluster: ManagedCluster) -> None:
        """What the first pods need, then the control loop, then the rest, which must not keep failover from running:
        where there are pods that is all but the Secret."""
        if not cluster.synced:
            await cluster.pods.sync()
            cluster.synced = True
        effect = await cluster.to_run()
        if effect is None:
            return
        access = manifests.access_children(cluster.key, cluster.obj)
        if not cluster.is_running:
            await self._ensure_secret(cluster)
            if not cluster.pods.objects():
                await self._ensure(cluster, access)
        cluster.run(effect)
        if not cluster.secret_checked:
            await self._ensure_secret(cluster)
        rest = manifests.service_children(cluster.key, cluster.obj)
        if cluster.budget is not None:
            rest.append(manifests.disruption_budget(cluster.key, cluster.obj, cluster.budget))
        await self._ensure(cluster, [*access, *rest])

    async def _ensure(self, cluster: ManagedCluster, children: Sequence[Json]) -> None:
        """All of them, whatever becomes of the others; then raises the first failure."""
        results = await asyncio.gather(*map(cluster.children.ensure, children), return_exceptions=True)
        for child, result in zip(children, results, strict=True):
            if result is True:
                log.info("%s: applied %s %s", cluster.key, child["kind"], child["metadata"]["name"])
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _ensure_secret(self, cluster: ManagedCluster) -> None:
        """Make the Secret once. Afterwards it is only read; when it is deleted, and this process still knows what was
        in it, it is made again the same."""
        key, name = cluster.key, secret_name(cluster.key, cluster.obj)
        found = await self._api.get(SECRET, key.namespace, name)
        if found is None:
            if cluster.secret is None and cluster.pods.objects():
                raise SecretMissing(
                    f"the Secret {key.namespace}/{name} is gone while pods use it: restore it, or delete all pods"
                )
            values = cluster.secret or manifests.new_secret_values()
            try:
                found = await self._api.create(SECRET, manifests.secret(key, cluster.obj, values))
            except Conflict:
                found = await self._api.get(SECRET, key.namespace, name)
        if found is None or not is_owned(found, cluster.uid):
            raise NameTaken(f"the Secret {key.namespace}/{name} exists and is not this cluster's")
        try:
            cluster.secret = manifests.secret_values(found)
        except ValueError as error:
            raise SecretMissing(str(error)) from error
        cluster.secret_checked = True

    # -- status --------------------------------------------------------------------------------------------------------

    def _on_snapshot(self, key: ClusterKey, snapshot: ClusterSnapshot) -> None:
        cluster = self._clusters.get(key)
        if cluster is None:
            return
        self._metrics.observe(key.namespace, snapshot)
        for event in snapshot.events:
            self._recorder.record(cluster.obj, event)
        self._status_queue.add(key)
        if cluster.effect is not None and snapshot.map_known:
            budget = min_available(cluster.effect.spec, snapshot)
            if budget != cluster.budget:
                cluster.budget = budget
                self._queue.add(key)

    async def _write_status(self, key: ClusterKey) -> float | None:
        cluster = self._clusters.get(key)
        if cluster is None:
            return None
        loop = asyncio.get_running_loop()
        if cluster.is_finding_out(loop.time()):
            return STATUS_PAUSE_S
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = compose_status(cluster.known(), cluster.written.status, now)
        if status == cluster.written.status:
            return None
        pause_s = _PAUSES[what_differs(cluster.written.status, status)]
        due_in_s = cluster.written.at + pause_s - loop.time()
        if due_in_s > 0:
            return due_in_s
        metadata = {"name": key.name, "namespace": key.namespace, "uid": cluster.uid}
        body = {"apiVersion": CACHE_CLUSTER.api_version, "kind": CACHE_CLUSTER.kind, "metadata": metadata}
        try:
            await self._api.apply(CACHE_CLUSTER, body | {"status": status}, "status")
        except Unreachable:
            self._unanswered.set()
            raise
        except (NotFound, Conflict) as error:
            # Deleted, or made again under the same name: the watch will tell.
            log.info("%s: the status was not written: %s", key, error)
            return None
        cluster.written.status = status
        cluster.written.at = loop.time()
        return None

    # -- resync --------------------------------------------------------------------------------------------------------

    async def _resync(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._unanswered.wait(), RESYNC_S)
                await asyncio.sleep(RESYNC_AGAIN_S)
            self._unanswered.clear()
            try:
                await self._resync_once()
            except (ApiError, Unreachable) as error:
                log.warning("resync: %s", error)
                self._unanswered.set()

    async def _resync_once(self) -> None:
        existing: dict[ClusterKey, Json] = {}
        for namespace in self._namespaces:
            items, _ = await self._api.list(CACHE_CLUSTER, namespace)
            existing |= {_own_key(item): item for item in items}
        for key in set(self._seen) - set(existing):
            # It may have been made since the list, or since this question.
            known = self._seen.get(key)
            found = await self._api.get(CACHE_CLUSTER, key.namespace, key.name)
            if found is None and known is not None and self._seen.get(key) is known:
                del self._seen[key]
                self._queue.add(key)
        for key, obj in existing.items():
            self._take(key, obj)
            cluster = self._clusters.get(key)
            if cluster is not None:
                cluster.children.forget()
                cluster.secret_checked = False
                await cluster.pods.sync()
                cluster.store.notify()
            self._queue.add(key)


def _own_key(obj: Json) -> ClusterKey:
    return ClusterKey(obj["metadata"]["namespace"], obj["metadata"]["name"])


def _key_of(resource: Resource, obj: Json) -> ClusterKey | None:
    """The cluster that an object is or belongs to."""
    if resource == CACHE_CLUSTER:
        return _own_key(obj)
    name = (obj["metadata"].get("labels") or {}).get(CLUSTER_LABEL)
    return ClusterKey(obj["metadata"]["namespace"], name) if name else None


def _matters(obj: Json) -> tuple[object, ...]:
    """What of a CacheCluster is an order; its status is this operator's own."""
    metadata = obj["metadata"]
    return (
        metadata["uid"],
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        pause_of(obj),
        data_loss_seen(obj),
    )
