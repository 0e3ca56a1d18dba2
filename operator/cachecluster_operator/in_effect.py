"""What of a spec is in effect: pure. Scale-in and changes of the pod template touch no pod yet, and say so.

Pods carry what they were made for as annotations, so that the answer depends on nothing remembered, except for the
number of nodes: a lost pod and its replacement exist at once, so pods alone do not say how many are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cachecluster_core.sizing import Sizing, size_copies
from cachecluster_core.spec import CacheClusterSpec, settings_of, timing_of

from .labels import ENGINE_ANNOTATION, MEMORY_ANNOTATION, TEMPLATE_ANNOTATION
from .pod_manifest import template_fingerprint
from .snapshot import Desired

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pending:
    """A part of the spec that is not in effect; `reason` is CamelCase."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class InEffect:
    """`spec` with what holds instead of what is pending; `desired` is what the control loop gets. `memory` (bytes) is
    what a node may hold: while there are pods that were made for less, that."""

    spec: CacheClusterSpec
    desired: Desired
    memory: int
    sizing: Sizing
    pending: tuple[Pending, ...]


def in_effect(spec: CacheClusterSpec, pods: Sequence[Json], nodes_before: int | None) -> InEffect:
    """`nodes_before` is how many nodes were in effect until now (None: this operator does not know)."""
    existing = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    nodes = _nodes(spec, existing, nodes_before)
    engine = _engine(spec, existing)
    memory = min([spec.memory_bytes, *(_annotation(pod, MEMORY_ANNOTATION, spec.memory_bytes) for pod in existing)])
    effective = spec.model_copy(update={"nodes": nodes, "engine": engine})
    pending = [*_scale_in(spec, nodes), *_template(spec, existing)]
    desired = Desired(
        nodes=nodes,
        partitions=spec.partitions,
        settings=settings_of(effective, memory),
        timing=timing_of(effective),
        trust_connection_refused=spec.fencing.trust_connection_refused,
    )
    sizing = size_copies(memory, effective.partitions, effective.replication_factor, nodes)
    return InEffect(effective, desired, memory, sizing, tuple(pending))


def _nodes(spec: CacheClusterSpec, existing: Sequence[Json], nodes_before: int | None) -> int:
    """Never below what is there: a pod leaves by the user's hand only. A first look counts pods that are ready."""
    there = len(existing)
    before = sum(map(_is_ready, existing)) if nodes_before is None else nodes_before
    return min(spec.partitions, max(spec.nodes, min(before, there)))


def _scale_in(spec: CacheClusterSpec, nodes: int) -> list[Pending]:
    if nodes == spec.nodes:
        return []
    return [
        Pending(
            "ScaleInNotServed",
            f"spec.nodes is {spec.nodes}, and {nodes} nodes stay: this version of the operator does not remove nodes",
        )
    ]


def _template(spec: CacheClusterSpec, existing: Sequence[Json]) -> list[Pending]:
    wanted = template_fingerprint(spec)
    older = sorted(pod["metadata"]["name"] for pod in existing if _text(pod, TEMPLATE_ANNOTATION) not in (wanted, None))
    if not older:
        return []
    return [
        Pending(
            "PodTemplateChangeNotServed",
            f"made for another spec, and left as they are: {', '.join(older)}. This version of the operator does not"
            " replace pods; one that is deleted comes back by the new spec (its engine once all are gone)",
        )
    ]


def _engine(spec: CacheClusterSpec, existing: Sequence[Json]) -> Any:
    """While any pod runs the old engine new ones do too: redis cannot follow valkey."""
    engines = {_text(pod, ENGINE_ANNOTATION) for pod in existing} - {None}
    return "redis" if "redis" in engines else spec.engine


def _text(pod: Json, annotation: str) -> str | None:
    return (pod["metadata"].get("annotations") or {}).get(annotation)


def _annotation(pod: Json, annotation: str, default: int) -> int:
    text = _text(pod, annotation) or ""
    return int(text) if text.isdigit() else default


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
