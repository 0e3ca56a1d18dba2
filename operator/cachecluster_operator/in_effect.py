"""What of a spec is in effect: pure. What would lose data is refused, what must wait is put off, and both are told.

Pods carry what they were made for as annotations, and the map what copies may hold, so that the answer depends on
nothing remembered: an operator that starts in the middle of a change goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from cachecluster_core.hashring import HashRing, Settings
from cachecluster_core.quantity import MIB
from cachecluster_core.sizing import Sizing, size_copies
from cachecluster_core.spec import CacheClusterSpec, settings_of, timing_of
from cachecluster_core.spec_parts import Fencing, Repair

from .capacity import Holdings, fits, has_evicted, holdings_of, nodes_to_size_for, sized_nodes
from .labels import (
    CLIENTS_ANNOTATION,
    ENGINE_ANNOTATION,
    MEMORY_ANNOTATION,
    PARKED_ANNOTATION,
    TEMPLATE_ANNOTATION,
)
from .pod_manifest import template_fingerprint
from .snapshot import Desired

Json = dict[str, Any]

EVICTING = "ScaleInEvicting"
"""Reason of what is pending while copies evict so that nodes can go."""
WITHOUT_SPEC = Fencing(trust_connection_refused=False), Repair()
"""What holds where a spec that is not valid cannot even be read: nothing is proof that was perhaps not to be."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A part of the spec that is not in effect; `reason` is CamelCase. `refused` says that it stays so until somebody
    changes something, and not only for a while."""

    reason: str
    message: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class InEffect:
    """`spec` with what holds instead of what is pending; `desired` is what the control loop gets; `template` is the
    fingerprint of what pods are made from (None: not known, and none is made). `memory` (bytes) is what a node may
    hold: while there are pods that were made for less, that. `unsettled`: the answer may change with what copies hold,
    so ask again soon."""

    spec: CacheClusterSpec
    desired: Desired
    template: str | None
    memory: int
    sizing: Sizing
    pending: tuple[Pending, ...]
    unsettled: bool


def in_effect(spec: CacheClusterSpec, pods: Sequence[Json], held: Holdings, paused: bool = False) -> InEffect:
    """`pods` are the pod objects that exist, `held` what the cluster holds by the map and the reports."""
    running = [pod for pod in pods if not _has_ended(pod)]
    existing = [pod for pod in running if "deletionTimestamp" not in pod["metadata"]]
    engine, pending = _engine(spec, existing)
    spec, too_small = _not_too_small(spec.model_copy(update={"engine": engine}), existing, held)
    pending += too_small
    memory = min([spec.memory_bytes, *_memories(existing)])
    nodes, scale_in = _nodes(spec, memory, existing, held)
    pending += scale_in
    effective = spec.model_copy(update={"nodes": nodes})
    evicting = any(it.reason == EVICTING for it in scale_in)
    wanted = spec.nodes if evicting else nodes
    sized = nodes_to_size_for(memory, spec.partitions, spec.replication_factor, wanted, held)
    sizing = size_copies(memory, spec.partitions, spec.replication_factor, sized)
    if sized != wanted:
        pending.append(_capacity_follows(sizing, size_copies(memory, spec.partitions, spec.replication_factor, wanted)))
    template = template_fingerprint(effective)
    pending += _unfit_pods(existing, held, template, engine)
    desired = Desired(
        nodes=nodes,
        partitions=spec.partitions,
        settings=_fitting_sidecars(settings_of(effective, memory, sized), running, template, held),
        timing=timing_of(effective),
        trust_connection_refused=spec.fencing.trust_connection_refused,
        paused=paused,
    )
    unsettled = not held.known or bool(pending)
    return InEffect(effective, desired, template, memory, sizing, tuple(pending), unsettled)


def in_effect_by_map(ring: HashRing, pods: Sequence[Json], given: Mapping[str, Any]) -> InEffect:
    """What holds while there is no valid spec, not even an earlier one that this operator has read: what the map and
    the pods were made for, and nothing planned is begun. `given` is the spec that is not valid; what it says of nodes,
    fencing and repair holds as far as that much can be read."""
    existing = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and not _has_ended(pod)]
    held = holdings_of(ring, {})
    partitions, factor = len(ring.entries), ring.settings.replication_factor
    asked = given.get("nodes")
    wanted = asked if isinstance(asked, int) and asked <= partitions else 1
    nodes = max(1, wanted, sum(pod["metadata"].get("uid") not in held.leaving for pod in existing))
    memory = min(_memories(existing), default=ring.settings.maxmemory_cluster * factor // nodes)
    fencing, repair = _readable(given)
    spec = CacheClusterSpec.model_construct(
        nodes=nodes, partitions=partitions, replication_factor=factor, memory=memory, fencing=fencing, repair=repair
    )
    desired = Desired(
        nodes=nodes,
        partitions=partitions,
        settings=ring.settings,
        timing=timing_of(spec),
        trust_connection_refused=fencing.trust_connection_refused,
        paused=True,
    )
    sizing = size_copies(memory, partitions, factor, sized_nodes(memory, partitions, factor, held) or nodes)
    pending = Pending("InvalidSpec", "nothing planned is begun before the spec is valid", refused=True)
    return InEffect(spec, desired, None, memory, sizing, (pending,), unsettled=False)


def _readable(given: Mapping[str, Any]) -> tuple[Fencing, Repair]:
    fencing, repair = WITHOUT_SPEC
    try:
        fencing = Fencing.model_validate(given.get("fencing") or {})
        repair = Repair.model_validate(given.get("repair") or {})
    except ValidationError:
        pass
    return fencing, repair


def _engine(spec: CacheClusterSpec, existing: Sequence[Json]) -> tuple[Any, list[Pending]]:
    """Redis cannot read what valkey sends it, so no pod becomes redis while one runs valkey."""
    if spec.engine == "redis" and any(_text(pod, ENGINE_ANNOTATION) == "valkey" for pod in existing):
        text = "spec.engine is redis, and valkey stays: redis cannot load what valkey sends. Set it back to valkey"
        return "valkey", [Pending("EngineChangeRefused", text, refused=True)]
    return spec.engine, []


def _unfit_pods(existing: Sequence[Json], held: Holdings, template: str, engine: str) -> list[Pending]:
    """New pods that cannot be filled by those that are there: an image with an older version of the engine."""
    for pod in existing:
        new = _text(pod, TEMPLATE_ANNOTATION) in (None, template) and _text(pod, ENGINE_ANNOTATION) in (None, engine)
        found = held.unfit.get(pod["metadata"].get("uid", ""))
        if new and found is not None:
            name = pod["metadata"].get("name") or "a new pod"
            text = f"{name} has {found[0]}, which cannot load what {found[1]} sends: set spec.image back"
            return [Pending("EngineChangeRefused", text, refused=True)]
    return []


def _not_too_small(
    spec: CacheClusterSpec, existing: Sequence[Json], held: Holdings
) -> tuple[CacheClusterSpec, list[Pending]]:
    """With `noeviction` a smaller `memory`, or more copies in the same memory, would refuse writes at once: refused
    while what is there does not fit. With any other policy the user has allowed eviction."""
    smaller = spec.memory_bytes < min(_memories(existing), default=0)
    more = spec.replication_factor > held.replication_factor
    wanted = size_copies(spec.memory_bytes, spec.partitions, spec.replication_factor, max(spec.nodes, len(existing)))
    if spec.eviction != "noeviction" or not held.known or not (smaller or more) or fits(wanted, held):
        return spec, []
    kept: Json = {"memory": min(_memories(existing))} if smaller else {}
    kept |= {"replication_factor": held.replication_factor} if more else {}
    fields = [*(["spec.memory"] if smaller else []), *(["spec.replicationFactor"] if more else [])]
    text = f"{' and '.join(fields)} not changed: {_figures(wanted, held)} Free memory, or give nodes more"
    return spec.model_copy(update=kept), [Pending("MemoryRefused", text, refused=True)]


def _nodes(spec: CacheClusterSpec, memory: int, existing: Sequence[Json], held: Holdings) -> tuple[int, list[Pending]]:
    """Fewer nodes only if what copies hold fits into them; one that is under way goes on (see `capacity`)."""
    there = min(sum(pod["metadata"].get("uid") not in held.leaving for pod in existing), spec.partitions)
    if not held.known:
        # Nobody knows yet, or the map is gone: pods that are too many are none before it is there.
        if there <= spec.nodes:
            return spec.nodes, []
        text = f"spec.nodes is {spec.nodes}, and {there} nodes stay until it is known what they hold"
        return there, [Pending("ScaleInUndecided", text)]
    wanted = size_copies(memory, spec.partitions, spec.replication_factor, spec.nodes)
    before = min(_memories(existing), default=memory)
    now = max(there, sized_nodes(before, spec.partitions, held.replication_factor, held))
    evicts = spec.scale_in.when_full == "evict" and spec.eviction != "noeviction"
    if now <= spec.nodes or (fits(wanted, held) and (not evicts or has_evicted(wanted, held) or held.leaving)):
        return spec.nodes, []
    stay = f"spec.nodes is {spec.nodes}, and {now} nodes stay: "
    if evicts:
        return now, [Pending(EVICTING, f"{stay}copies evict until they fit; {_figures(wanted, held)}")]
    if held.unreported:
        return now, [Pending("ScaleInUndecided", stay + "it is not known of every partition what it holds")]
    evict = "" if spec.eviction == "noeviction" else ", set spec.scaleIn.whenFull to evict (keys are lost)"
    remedy = f" Free memory, raise spec.memory{evict}, or set spec.nodes to {now}"
    return now, [Pending("ScaleInRefused", stay + _figures(wanted, held) + remedy, refused=True)]


def _figures(wanted: Sizing, held: Holdings) -> str:
    return (
        f"a copy may use {wanted.maxmemory / MIB:.1f} MiB then, and the largest uses {held.largest_used / MIB:.1f} MiB."
    )


def _capacity_follows(now: Sizing, later: Sizing) -> Pending:
    text = f"a copy may use {now.maxmemory / MIB:.1f} MiB, and {later.maxmemory / MIB:.1f} MiB once copies are spread"
    return Pending("CapacityFollows", text)


def _memories(existing: Sequence[Json]) -> list[int]:
    """What existing pods were made for."""
    texts = (_text(pod, MEMORY_ANNOTATION) or "" for pod in existing)
    return [int(text) for text in texts if text.isdigit()]


def _fitting_sidecars(settings: Settings, running: Sequence[Json], template: str, held: Holdings) -> Settings:
    """As much as the sidecars of all pods were sized for: more would end them when it is used. What pods of an earlier
    operator, which did not say, were made for is in effect already."""
    parked, clients = settings.park_max_bytes, settings.max_clients
    for pod in running:
        is_older = _text(pod, TEMPLATE_ANNOTATION) != template
        parked = min(parked, _number(pod, PARKED_ANNOTATION) or (is_older and held.park_max_bytes) or parked)
        clients = min(clients, _number(pod, CLIENTS_ANNOTATION) or (is_older and held.max_clients) or clients)
    return replace(settings, park_max_bytes=parked, max_clients=clients)


def _number(pod: Json, annotation: str) -> int:
    text = _text(pod, annotation) or ""
    return int(text) if text.isdigit() else 0


def _text(pod: Json, annotation: str) -> str | None:
    return (pod["metadata"].get("annotations") or {}).get(annotation)


def _has_ended(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")
