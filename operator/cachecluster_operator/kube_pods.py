"""`PodControl` on Kubernetes: a memory of one cluster's pod objects, and the three things done to pods.

The memory is fed by whoever watches pods (`seen`, `gone`) and corrected by quorum lists (`sync`).
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable

from cachecluster_core.operator_view import Pod

from .cluster_key import ClusterKey
from .kube_api import ApiError, Conflict, Json, KubeApi, NotFound, resource_version
from .pod_view import pod_view
from .ports import PodRefused
from .resources import POD
from .zones import Zones

log = logging.getLogger(__name__)

# UIDs never come back, so a deleted one may be kept from returning with a late list; this many are remembered.
DELETED_UIDS = 1024


class KubePods:
    """The pods of the CacheCluster with UID `owner_uid`; pods of an earlier cluster of that name are not its.

    `build` makes the manifest of a pod by its number, `template` is the fingerprint of what it is made from (None: not
    known yet); `on_change` is called when `pods` may answer differently.
    """

    def __init__(
        self,
        api: KubeApi,
        key: ClusterKey,
        owner_uid: str,
        zones: Zones,
        build: Callable[[int], Json],
        on_change: Callable[[], None],
        selector: str,
        template: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._api = api
        self._key = key
        self._owner_uid = owner_uid
        self._zones = zones
        self._build = build
        self._on_change = on_change
        self._selector = selector
        self._template = template
        self._objects: dict[str, Json] = {}
        self._deleted: deque[str] = deque(maxlen=DELETED_UIDS)

    def pods(self) -> tuple[Pod, ...]:
        """See `PodControl.pods`; by name."""
        template = self._template()
        views = (pod_view(obj, self._zones.of(_node(obj)), template) for obj in self._objects.values())
        return tuple(sorted(views, key=lambda pod: (len(pod.name), pod.name)))

    def objects(self) -> tuple[Json, ...]:
        """The pod objects themselves."""
        return tuple(self._objects.values())

    def seen(self, obj: Json) -> None:
        """A pod object was read or watched; an older version than the one known changes nothing."""
        uid = obj["metadata"]["uid"]
        if uid in self._deleted or not self._is_ours(obj):
            return
        known = self._objects.get(uid)
        if known is not None and resource_version(obj) <= resource_version(known):
            return
        self._objects[uid] = obj
        if _node(obj):
            self._zones.want(_node(obj), self._on_change)
        self._on_change()

    def gone(self, uid: str) -> None:
        """A pod object was deleted."""
        self._deleted.append(uid)
        if self._objects.pop(uid, None) is not None:
            self._on_change()

    async def sync(self) -> None:
        """Take the truth from a quorum list; also finds deletions that a watch has missed, and zones of nodes that had
        none."""
        items, version = await self._api.list(POD, self._key.namespace, self._selector)
        for item in items:
            self.seen(item)
        listed = {item["metadata"]["uid"] for item in items}
        for uid, obj in list(self._objects.items()):
            if uid not in listed and resource_version(obj) <= int(version):
                self.gone(uid)
        for obj in self._objects.values():
            if _node(obj):
                self._zones.want(_node(obj), self._on_change)

    async def create(self, number: int) -> None:
        """See `PodControl.create`. A name that a pod of somebody else has, such as one of an earlier cluster on a node
        that is lost, must not hold up this cluster: the next number that is free is taken."""
        while True:
            manifest = self._build(number)
            name = manifest["metadata"]["name"]
            if any(obj["metadata"]["name"] == name for obj in self._objects.values()):
                return
            try:
                self.seen(await self._api.create(POD, manifest))
                log.info("%s: made the pod %s", self._key, name)
                return
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise PodRefused(f"{name} cannot be made: {error}") from error
            there = await self._api.get(POD, self._key.namespace, name)
            if there is not None and self._is_ours(there):
                self.seen(there)
                return
            if there is not None:
                number = self._next_free(number)

    async def delete(self, uid: str, name: str, reason: str) -> None:
        """See `PodControl.delete`."""
        try:
            await self._api.delete(POD, self._key.namespace, name, uid)
        except (NotFound, Conflict):
            return
        log.info("%s: deleted the pod %s (%s): %s", self._key, name, uid, reason)

    async def mark_not_ready(self, uid: str, name: str) -> None:
        """See `PodControl.mark_not_ready`. The kubelet says the truth again when it is back."""
        condition = {
            "type": "Ready",
            "status": "False",
            "reason": "CacheClusterLostContact",
            "message": "neither the operator nor a peer reaches this pod",
        }
        # The UID in the patch is a precondition: another pod of this name answers with a conflict.
        patch = {"metadata": {"uid": uid}, "status": {"conditions": [condition]}}
        try:
            self.seen(await self._api.patch(POD, self._key.namespace, name, patch, "status"))
        except (NotFound, Conflict):
            return
        log.info("%s: marked the pod %s (%s) not ready", self._key, name, uid)

    def _next_free(self, number: int) -> int:
        taken = {obj["metadata"]["name"] for obj in self._objects.values()}
        return next(n for n in itertools.count(number + 1) if f"{self._key.name}-{n}" not in taken)

    def _is_ours(self, obj: Json) -> bool:
        owners = obj["metadata"].get("ownerReferences") or ()
        return any(owner["uid"] == self._owner_uid for owner in owners)


def _node(obj: Json) -> str:
    return (obj.get("spec") or {}).get("nodeName") or ""
