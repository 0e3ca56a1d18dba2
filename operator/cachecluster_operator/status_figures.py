"""The figures of a status: what is known, members, memory, what is served. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cachecluster_core.hashring import CopyId, Entry, State
from cachecluster_core.leaving import leaving_pods
from cachecluster_core.operator_view import Pod
from cachecluster_core.quantity import MIB, format_bytes
from cachecluster_core.report import USERS_KNOWN, CopyReport, Report
from cachecluster_core.spec import Problem

from .change_track import Progress
from .in_effect import InEffect
from .pause import Pause
from .snapshot import ClusterSnapshot

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """All that a status is made of.

    `effect` is what is in effect (None: there is neither a valid spec nor a map); `problems` are what is wrong with the
    newest spec; `trouble` is what keeps children from being made, `pod_troubles` what keeps pods from being made or
    from starting. `lost` are partitions that were given up since the operator started, and when (seconds since 1970);
    `loss_seen` is up to when a person has taken note of that, as in the annotation; `progress` is how far planned
    changes are.
    """

    generation: int
    selector: str
    effect: InEffect | None
    problems: tuple[Problem, ...] = ()
    trouble: str = ""
    pod_troubles: tuple[str, ...] = ()
    pods: tuple[Pod, ...] = ()
    snapshot: ClusterSnapshot | None = None
    lost: Mapping[int, float] = field(default_factory=dict)
    loss_seen: str = ""
    pause: Pause = field(default_factory=Pause)
    progress: Progress = field(default_factory=Progress)


def wanted_nodes(known: Known) -> int:
    """How many nodes there should be now."""
    return known.effect.desired.nodes if known.effect is not None else 0


NO_USERS = "everybody is served, because the pod's image knows of no users: see spec.image"


class Difference(Enum):
    """How much two statuses differ, the least first."""

    FIGURES = 1
    """In memory and client figures at most: that can wait."""
    PROGRESS = 2
    """Also in how far a change is."""
    STATE = 3
    """In more than that."""


def what_differs(old: Json, new: Json) -> Difference:
    """Between the status that was written and a new one."""
    old, new = _without_figures(old), _without_figures(new)
    if old == new:
        return Difference.FIGURES
    return Difference.PROGRESS if _without_progress(old) == _without_progress(new) else Difference.STATE


def member_rows(entries: Sequence[Entry], known: Known) -> list[Json]:
    """One row for every pod."""
    leaving = leaving_pods(known.snapshot.map if known.snapshot is not None else None)
    return [_member(pod, pod.uid in leaving, entries, known) for pod in known.pods]


def entries_of(known: Known) -> tuple[Entry, ...]:
    """The map's entries; before there is a map, vacant ones."""
    ring = known.snapshot.map if known.snapshot is not None else None
    if ring is not None:
        return ring.entries
    return tuple(Entry() for _ in range(known.effect.desired.partitions)) if known.effect is not None else ()


def _report(uid: str, known: Known) -> Report | None:
    view = known.snapshot.agents.get(uid) if known.snapshot is not None else None
    return view.report if view is not None and view.reporting else None


def users_troubles(known: Known) -> list[str]:
    """Why the users of clients are not as the Secret says, and on which pods."""
    wanted = known.effect is not None and known.effect.spec.auth is not None
    pods: dict[str, list[str]] = {}
    for pod in known.pods:
        report = _report(pod.uid, known)
        if report is None or report.users == USERS_KNOWN:
            continue
        if report.users:
            pods.setdefault(report.users, []).append(pod.name)
        elif wanted and report.routers and not pod.outdated:
            pods.setdefault(NO_USERS, []).append(pod.name)
    return [f"spec.auth.secretRef: {trouble} ({', '.join(names)})" for trouble, names in pods.items()]


def is_served(partition: int, entry: Entry, known: Known) -> bool:
    """The primary's own agent reports an open gate. An agent that is silent may serve, but nobody knows. While the
    primary hands over both gates are shut for a moment; then it is enough that both copies are there."""
    if entry.primary is None:
        return False
    if entry.state is State.MOVING and entry.successor is not None:
        return all(_copy(partition, copy, known) is not None for copy in (entry.primary, entry.successor))
    copy = _copy(partition, entry.primary, known)
    return copy is not None and copy.gate_epoch > 0


def _copy(partition: int, copy: CopyId, known: Known) -> CopyReport | None:
    report = _report(copy.pod, known)
    found = report.copies.get(partition) if report is not None else None
    return found if found is not None and found.run_id == copy.run_id else None


def _member(pod: Pod, leaving: bool, entries: Sequence[Entry], known: Known) -> Json:
    report = _report(pod.uid, known)
    primaries = sum(entry.primary is not None and entry.primary.pod == pod.uid for entry in entries)
    in_sync = sum(entry.copy_on(pod.uid) is not None for entry in entries)
    member: Json = {
        "pod": pod.name,
        "uid": pod.uid,
        "node": pod.node,
        "zone": pod.zone,
        "host": pod.host,
        "ready": pod.ready and report is not None,
        "leaving": leaving,
        "outdated": pod.outdated,
        "primaries": primaries,
        "replicas": in_sync - primaries,
        "learners": sum(pod.uid in entry.learners for entry in entries),
        "clients": report.clients if report is not None else 0,
        "memoryUsed": _figure(sum(copy.used_memory for copy in report.copies.values())) if report is not None else "",
        "memoryLimit": format_bytes(known.effect.memory) if known.effect is not None else "",
    }
    return member


def memory_row(effect: InEffect, entries: Sequence[Entry], known: Known) -> Json:
    """What the cluster may hold and holds."""
    sizing = effect.sizing
    used = 0
    for partition, entry in enumerate(entries):
        report = _report(entry.primary.pod, known) if entry.primary is not None else None
        copy = report.copies.get(partition) if report is not None else None
        used += copy.used_memory if copy is not None else 0
    return {
        "usable": _figure(sizing.usable),
        "perPartition": _figure(sizing.share),
        "perCopy": _figure(sizing.maxmemory),
        "used": _figure(used),
    }


def _figure(amount: int) -> str:
    """Bytes for people: whole MiB, with one decimal below 10."""
    return f"{amount / MIB:.1f}Mi" if amount < 10 * MIB else f"{amount // MIB}Mi"


def _without_figures(status: Json) -> Json:
    members = [
        {name: value for name, value in member.items() if name not in ("memoryUsed", "clients")}
        for member in status.get("members") or ()
    ]
    memory = {name: value for name, value in (status.get("memory") or {}).items() if name != "used"}
    return status | {"members": members, "memory": memory}


def _without_progress(status: Json) -> Json:
    """Without what a running change counts up: its message, and copies of members."""
    counted = ("primaries", "replicas", "learners")
    members = [{n: value for n, value in member.items() if n not in counted} for member in status["members"]]
    conditions = [
        {name: value for name, value in condition.items() if name != "message" or condition["type"] != "Progressing"}
        for condition in status.get("conditions") or ()
    ]
    return status | {"members": members, "conditions": conditions, "message": ""}
