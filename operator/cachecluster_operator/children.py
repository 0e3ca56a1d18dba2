"""Children: objects that somebody else's object owns, applied only when they differ from what is there.

What is there is read once and then remembered; whoever watches calls `seen` and `gone`, which only make the next
`ensure` read again. An object of the same name that belongs to somebody else is never touched.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .kube_api import Json, KubeApi
from .labels import APPLIED_ANNOTATION
from .resources import resource_of

ChildId = tuple[str, str, str]


class NameTaken(Exception):
    """There is an object of that name that is not this owner's."""


class Children:
    """The children of the owner with this UID."""

    def __init__(self, api: KubeApi, owner_uid: str) -> None:
        self._api = api
        self._owner_uid = owner_uid
        self._known: dict[ChildId, Json] = {}

    async def ensure(self, manifest: Json) -> bool:
        """Make the object say what `manifest` says; True when that needed a write. NameTaken, ApiError, Unreachable."""
        wanted = stamped(manifest)
        child = child_id(wanted)
        kind, namespace, name = child
        observed = self._known.get(child)
        if observed is None:
            observed = await self._api.get(resource_of(manifest), namespace, name)
        if observed is not None:
            if not is_owned(observed, self._owner_uid):
                raise NameTaken(f"{kind} {namespace}/{name} exists and belongs to {_owner(observed)}")
            self._known[child] = observed
            if covers(observed, wanted):
                return False
        self._known[child] = await self._api.apply(resource_of(manifest), wanted)
        return True

    def seen(self, obj: Json) -> bool:
        """A child was seen on a watch; True when that is news."""
        child = child_id(obj)
        known = self._known.get(child)
        if known is not None and known["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
            return False
        return self._known.pop(child, None) is not None

    def gone(self, obj: Json) -> None:
        """A child was deleted."""
        self._known.pop(child_id(obj), None)

    def forget(self) -> None:
        """Read everything again."""
        self._known.clear()


def child_id(obj: Json) -> ChildId:
    """Kind, namespace and name."""
    return obj["kind"], obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def stamped(manifest: Json) -> Json:
    """The manifest with its own fingerprint: a field that a later manifest leaves out is a difference too."""
    text = json.dumps(manifest, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    annotations = manifest["metadata"].get("annotations") or {}
    metadata = manifest["metadata"] | {"annotations": annotations | {APPLIED_ANNOTATION: fingerprint}}
    return manifest | {"metadata": metadata}


def covers(observed: Any, wanted: Any, field: str = "") -> bool:
    """Whether `observed` says all that `wanted` says; defaults and other people's fields do not matter."""
    if isinstance(wanted, dict):
        return isinstance(observed, dict) and all(covers(observed.get(name), wanted[name], name) for name in wanted)
    if isinstance(wanted, list):
        if not isinstance(observed, list):
            return False
        if field == "ownerReferences":
            return all(any(covers(found, reference) for found in observed) for reference in wanted)
        return len(observed) == len(wanted) and all(map(covers, observed, wanted))
    # The API server drops what is empty or false by default.
    return bool(observed == wanted or (observed is None and wanted in (False, "")))


def is_owned(obj: Json, owner_uid: str) -> bool:
    """Whether an owner reference with this UID is there."""
    return any(owner["uid"] == owner_uid for owner in obj["metadata"].get("ownerReferences") or ())


def _owner(obj: Json) -> str:
    owners = obj["metadata"].get("ownerReferences") or ()
    return ", ".join(f"{owner['kind']} {owner['name']} ({owner['uid']})" for owner in owners) or "nobody"
