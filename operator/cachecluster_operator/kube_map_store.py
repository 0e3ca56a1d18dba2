"""`MapStore` on a HashRing object: quorum reads and compare-and-swap through the API server.

The object is owned by its CacheCluster, so that garbage collection removes it, and nothing but the map is ever
written to it. Watching is not done here: whoever watches HashRings calls `notify`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from cachecluster_core.hashring import HashRing

from .cluster_key import ClusterKey
from .kube_api import ApiError, Conflict, Json, KubeApi, NotFound, Unreachable
from .ports import Conflict as MapConflict
from .ports import StoreUnavailable
from .resources import HASH_RING


class KubeMapStore:
    """The map of one cluster. `owner` is the owner reference to the CacheCluster; `labels` are set on creation."""

    def __init__(self, api: KubeApi, key: ClusterKey, owner: Json, labels: dict[str, str]) -> None:
        self._api = api
        self._key = key
        self._owner = owner
        self._labels = labels
        self._hints: set[asyncio.Event] = set()

    async def get(self) -> HashRing | None:
        """See `MapStore.get`. A map that cannot be understood is StoreUnavailable: it must not be overwritten."""
        try:
            found = await self._api.get(HASH_RING, self._key.namespace, self._key.name)
        except (ApiError, Unreachable) as error:
            raise StoreUnavailable(f"reading the map of {self._key}: {error}") from error
        if found is None or self._is_foreign(found):
            # The map of an earlier cluster of this name is on its way out: creating ours meets a conflict until then.
            return None
        return self._parse(found)

    async def create(self, ring: HashRing) -> HashRing:
        """See `MapStore.create`."""
        return await self._write(ring, {})

    async def replace(self, ring: HashRing) -> HashRing:
        """See `MapStore.replace`. A map that is gone is a conflict too."""
        return await self._write(ring, {"resourceVersion": ring.version, "uid": ring.uid})

    async def changes(self) -> AsyncIterator[None]:
        """See `MapStore.changes`. Hints that come while the last one is being worked on become one."""
        hint = asyncio.Event()
        self._hints.add(hint)
        try:
            while True:
                await hint.wait()
                hint.clear()
                yield None
        finally:
            self._hints.discard(hint)

    def notify(self) -> None:
        """The object was seen to change or to be deleted."""
        for hint in self._hints:
            hint.set()

    async def _write(self, ring: HashRing, identity: dict[str, str]) -> HashRing:
        ring.check()
        metadata = {
            "name": self._key.name,
            "namespace": self._key.namespace,
            "labels": self._labels,
            "ownerReferences": [self._owner],
        }
        manifest: Json = {
            "apiVersion": HASH_RING.api_version,
            "kind": HASH_RING.kind,
            "metadata": metadata | identity,
            "spec": ring.to_spec(),
        }
        write = self._api.replace if identity else self._api.create
        try:
            written = await write(HASH_RING, manifest)
        except (Conflict, NotFound) as error:
            raise MapConflict(str(error)) from error
        except (ApiError, Unreachable) as error:
            raise StoreUnavailable(f"writing the map of {self._key}: {error}") from error
        return self._parse(written)

    def _is_foreign(self, found: Json) -> bool:
        owners = found["metadata"].get("ownerReferences") or []
        return any(owner["kind"] == self._owner["kind"] and owner["uid"] != self._owner["uid"] for owner in owners)

    def _parse(self, found: Json) -> HashRing:
        try:
            return HashRing.from_object(found)
        except (ValueError, AssertionError) as error:
            raise StoreUnavailable(f"the HashRing {self._key} says what no map may say: {error}") from error
