"""From a Pod object, as JSON, to what `operator_step` needs to know of it. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cachecluster_core.operator_view import Pod

from .labels import ENGINE_ANNOTATION, TEMPLATE_ANNOTATION

SIDECAR = "sidecar"
USUAL_WAITS = ("ContainerCreating", "PodInitializing")


def pod_view(obj: dict[str, Any], zone: str, template: str | None = None) -> Pod:
    """The pod as a value; `zone` is its node's. `template` is the fingerprint of what pods are made from now (None:
    not known yet); a pod without one of its own is never outdated."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    return Pod(
        uid=metadata["uid"],
        name=metadata["name"],
        host=status.get("podIP") or "",
        zone=zone,
        node=spec.get("nodeName") or "",
        ready=_is_ready(status),
        terminating="deletionTimestamp" in metadata,
        failed=status.get("phase") in ("Failed", "Succeeded"),
        terminated=sidecar_ended(obj),
        outdated=template is not None and _template(metadata) not in (None, template),
        engine=(metadata.get("annotations") or {}).get(ENGINE_ANNOTATION, ""),
        unstarted=sidecar_never_ran(status),
    )


def _template(metadata: dict[str, Any]) -> str | None:
    return (metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION)


def sidecar_ended(obj: dict[str, Any]) -> bool:
    """Whether the kubelet says that the sidecar of this terminating pod has ended and will not start again.

    Only a container that finished *after* the deletion was requested counts: one that crashed before might be started
    once more by a kubelet that has not heard of the deletion yet. Both times have whole seconds, so "after" must be
    strict.
    """
    metadata, status = obj["metadata"], obj.get("status") or {}
    if "deletionTimestamp" not in metadata:
        return False
    requested = _time(metadata["deletionTimestamp"]) - timedelta(
        seconds=metadata.get("deletionGracePeriodSeconds") or 0
    )
    for container in status.get("containerStatuses") or ():
        if container["name"] == SIDECAR:
            terminated = (container.get("state") or {}).get("terminated") or {}
            finished = terminated.get("finishedAt")
            return finished is not None and _time(finished) > requested
    return False


def sidecar_never_ran(status: dict[str, Any]) -> bool:
    """Whether the kubelet says that the sidecar waits for its first start. One that has ended has a last state and is
    counted as restarted, even when the container itself is gone; without a word of it nothing is known."""
    sidecars = [it for it in status.get("containerStatuses") or () if it["name"] == SIDECAR]
    return bool(sidecars) and all(
        "waiting" in (it.get("state") or {}) and not it.get("lastState") and not it.get("restartCount")
        for it in sidecars
    )


def pod_trouble(obj: dict[str, Any]) -> str | None:
    """What keeps a pod from starting, by the scheduler's and the kubelet's word; None when nothing is known to."""
    name, status = obj["metadata"]["name"], obj.get("status") or {}
    if status.get("phase") in ("Failed", "Succeeded"):
        return f"{name} has ended: {status.get('reason') or status['phase']} {status.get('message') or ''}".rstrip()
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name} cannot be scheduled: {condition.get('message') or condition.get('reason') or 'no word why'}"
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, *USUAL_WAITS):
            return f"{name}, container {container['name']}: {waiting['reason']} {waiting.get('message') or ''}".rstrip()
    return None


def _is_ready(status: dict[str, Any]) -> bool:
    conditions = status.get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
