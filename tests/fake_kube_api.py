"""A `KubeApi` in memory: versions, conflicts, UIDs, and faults on demand. Checked against the real one in tests/e2e."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from cachecluster_operator.kube_api import Conflict, Json, NotFound, Unreachable
from cachecluster_operator.resources import Resource

Id = tuple[str, str, str]


class FakeKubeApi:
    """Objects by kind, namespace and name. `writes` counts; `away` makes every call fail; `stalled` makes it hang."""

    def __init__(self) -> None:
        self.objects: dict[Id, Json] = {}
        self.writes: list[tuple[str, str]] = []
        self.away = False
        self.stalled = False
        self._versions = itertools.count(1)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json | None:
        await self._reach()
        found = self.objects.get((resource.kind, namespace or "", name))
        return _copy(found) if found is not None else None

    async def list(self, resource: Resource, namespace: str | None, label_selector: str = "") -> tuple[list[Json], str]:
        await self._reach()
        wanted = dict(term.split("=") for term in label_selector.split(",") if term)
        items = [
            _copy(obj)
            for (kind, where, _), obj in self.objects.items()
            if kind == resource.kind
            and namespace in (None, where)
            and wanted.items() <= (obj["metadata"].get("labels") or {}).items()
        ]
        return items, str(next(self._versions))

    async def create(self, resource: Resource, manifest: Json) -> Json:
        await self._reach()
        child = self._id(resource, manifest)
        if child in self.objects:
            raise Conflict(409, "AlreadyExists", f"{child} already exists")
        return self._store(child, manifest, f"uid-{next(self._versions)}", "create")

    async def replace(self, resource: Resource, manifest: Json) -> Json:
        await self._reach()
        child = self._id(resource, manifest)
        found = self.objects.get(child)
        if found is None:
            raise NotFound(404, "NotFound", f"no {child}")
        if manifest["metadata"].get("resourceVersion") != found["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", "the object has been modified")
        return self._store(child, manifest, found["metadata"]["uid"], "replace")

    async def apply(self, resource: Resource, manifest: Json, subresource: str | None = None) -> Json:
        await self._reach()
        child = self._id(resource, manifest)
        found = self.objects.get(child)
        if subresource is not None:
            if found is None:
                raise NotFound(404, "NotFound", f"no {child}")
            manifest = found | {subresource: manifest[subresource]}
        uid = found["metadata"]["uid"] if found is not None else f"uid-{next(self._versions)}"
        return self._store(child, manifest, uid, "apply")

    async def patch(
        self, resource: Resource, namespace: str, name: str, patch: Json, subresource: str | None = None
    ) -> Json:
        await self._reach()
        found = self.objects.get((resource.kind, namespace, name))
        if found is None:
            raise NotFound(404, "NotFound", f"no {name}")
        uid = patch.get("metadata", {}).get("uid", found["metadata"]["uid"])
        if uid != found["metadata"]["uid"]:
            raise Conflict(409, "Conflict", "another UID")
        rest = {field: value for field, value in patch.items() if field != "metadata"}
        return self._store((resource.kind, namespace, name), found | rest, uid, "patch")

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        await self._reach()
        child = (resource.kind, namespace, name)
        if child not in self.objects:
            raise NotFound(404, "NotFound", f"no {name}")
        if self.objects[child]["metadata"]["uid"] != uid:
            raise Conflict(409, "Conflict", "another UID")
        del self.objects[child]
        self.writes.append(("delete", name))

    async def serves(self, resource: Resource) -> bool:
        await self._reach()
        return True

    async def _reach(self) -> None:
        if self.stalled:
            await asyncio.Event().wait()
        # A request takes at least one turn of the loop.
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("nobody answers")

    def _id(self, resource: Resource, manifest: Json) -> Id:
        return resource.kind, manifest["metadata"].get("namespace") or "", manifest["metadata"]["name"]

    def _store(self, child: Id, manifest: Json, uid: str, verb: str) -> Json:
        stored = _copy(manifest)
        stored["metadata"] |= {"uid": uid, "resourceVersion": str(next(self._versions))}
        self.objects[child] = stored
        self.writes.append((verb, child[2]))
        return _copy(stored)


def _copy(obj: Any) -> Any:
    if isinstance(obj, dict):
        return {name: _copy(value) for name, value in obj.items()}
    return [_copy(value) for value in obj] if isinstance(obj, list) else obj
