"""`CacheCluster.status` from what is known of a cluster: pure. The conditions are here, the figures beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cachecluster_core.hashring import Entry, State
from cachecluster_core.leaving import is_gone, leaving_pods
from cachecluster_core.operator_view import Pod
from cachecluster_core.spec import CacheClusterSpec

from .capacity import places_of
from .data_loss import data_loss
from .findings import MESSAGE_LIMIT, Finding, condition, partitions_text
from .progressing import held_back_texts, is_planned, progressing
from .snapshot import ClusterSnapshot
from .status_figures import Known, entries_of, is_served, member_rows, memory_row, users_troubles, wanted_nodes

Json = dict[str, Any]

NO_EVICTION = 1_000_000
"""More pods than any cluster has: as `minAvailable` it can never be met, so that no pod may be evicted."""


def compose_status(known: Known, previous: Json, now: str) -> Json:
    """The status. `previous` is the last one, for times of transition; `now` is RFC 3339 in UTC."""
    entries = entries_of(known)
    served = [p for p, entry in enumerate(entries) if is_served(p, entry, known)]
    existing = [pod for pod in known.pods if not pod.failed]
    ready = [pod for pod in existing if pod.ready and not pod.terminating]
    findings = [
        _ready(known, entries, served, ready),
        progressing(known, entries),
        _degraded(known, entries),
        _up_to_date(known),
        _paused(known),
    ]
    loss, told = data_loss(known.lost, known.loss_seen, previous)
    findings += [told] if told is not None else []
    status: Json = {
        "observedGeneration": known.generation,
        "message": _message(known, findings[0], findings[1]),
        "nodes": len(existing),
        "readyNodes": len(ready),
        "nodesReady": f"{len(ready)}/{wanted_nodes(known)}",
        "partitionsServed": f"{len(served)}/{len(entries)}",
        "selector": known.selector,
        "members": member_rows(entries, known),
        "conditions": [condition(finding, known.generation, previous, now) for finding in findings],
    }
    if loss is not None:
        status["dataLoss"] = loss
    if known.effect is not None:
        status["memory"] = memory_row(known.effect, entries, known)
    return status


def min_available(spec: CacheClusterSpec, snapshot: ClusterSnapshot | None) -> int:
    """How many pods must stay ready while others are evicted: all but one of those that are wanted, or that stay where
    those are more. `NO_EVICTION` while a partition has fewer than two in-sync copies on pods that report (of RF >= 2),
    or elects, and while a pod is being emptied or ends: its copies are to be elsewhere first."""
    if snapshot is None:
        return NO_EVICTION
    ring = snapshot.map
    going = leaving_pods(ring) | {pod.uid for pod in snapshot.pods if pod.terminating}
    gone = {pod.uid for pod in snapshot.pods if is_gone(pod, snapshot.agents.get(pod.uid), ring)}
    reporting = {uid for uid, agent in snapshot.agents.items() if agent.reporting}

    def is_safe(entry: Entry) -> bool:
        return entry.state is not State.ELECTING and sum(copy.pod in reporting for copy in entry.isr) >= 2

    safe = spec.replication_factor < 2 or (ring is not None and all(map(is_safe, ring.entries)))
    if going - gone or not safe:
        return NO_EVICTION
    return max(spec.nodes, sum(not pod.terminating and not pod.failed for pod in snapshot.pods)) - 1


# -- conditions --------------------------------------------------------------------------------------------------------


def _ready(known: Known, entries: Sequence[Entry], served: list[int], ready: list[Pod]) -> Finding:
    def no(reason: str, message: str) -> Finding:
        return Finding("Ready", False, reason, message)

    if known.effect is None:
        return no("InvalidSpec", _problem_text(known))
    if known.trouble and len(served) < len(entries):
        return no("ChildrenNotApplied", known.trouble)
    if known.snapshot is None or known.snapshot.map is None:
        return no("Creating", "the first pods are being started")
    unserved = [p for p in range(len(entries)) if p not in served]
    if unserved:
        return no("PartitionsNotServed", f"not served: {partitions_text(unserved)}")
    if len(ready) < wanted_nodes(known):
        return no("NodesNotReady", f"{len(ready)} of {wanted_nodes(known)} pods are ready; every partition is served")
    return Finding("Ready", True, "Serving", f"every partition is served by {len(ready)} nodes")


def _degraded(known: Known, entries: Sequence[Entry]) -> Finding:
    if known.effect is None or not entries:
        return Finding("Degraded", False, "NoData", "there are no copies yet")
    wanted = known.effect.spec.replication_factor
    short = [p for p, entry in enumerate(entries) if len(entry.isr) < wanted]
    if short:
        return Finding(
            "Degraded", True, "CopiesMissing", f"fewer than {wanted} in-sync copies: {partitions_text(short)}"
        )
    return Finding("Degraded", False, "CopiesInSync", f"every partition has {wanted} in-sync copies")


def _up_to_date(known: Known) -> Finding:
    if known.problems:
        return Finding("UpToDate", False, "InvalidSpec", _problem_text(known))
    if known.trouble:
        return Finding("UpToDate", False, "ChildrenNotApplied", known.trouble)
    if known.effect is not None and known.effect.pending:
        text = "; ".join(pending.message for pending in known.effect.pending)
        return Finding("UpToDate", False, known.effect.pending[0].reason, text)
    if troubles := users_troubles(known):
        return Finding("UpToDate", False, "UsersNotInEffect", "; ".join(troubles))
    work = known.progress.work
    if work.outdated:
        names = ", ".join(pod.name for pod in work.outdated)
        return Finding("UpToDate", False, "PodsOutdated", f"made from another template: {names}")
    if known.effect is not None and len(work.staying) > known.effect.desired.nodes:
        return Finding("UpToDate", False, "NodesToRemove", f"{known.effect.desired.nodes} nodes are wanted")
    return Finding("UpToDate", True, "SpecInEffect", f"all of the spec is in effect{_uneven_text(known)}")


def _uneven_text(known: Known) -> str:
    """What people may wonder at: pods that hold more copies than others for good."""
    ring = known.snapshot.map if known.snapshot is not None else None
    most = set(places_of(ring).values()) if ring is not None else set()
    if len(most) < 2:
        return ""
    return f"; zones have different numbers of nodes, so a node holds {min(most)} to {max(most)} copies"


def _paused(known: Known) -> Finding:
    """Held back is what is planned; fail-over and repair on the pods that are there go on."""
    if known.pause.problem:
        return Finding("Paused", True, "InvalidValue", known.pause.problem)
    if not known.pause.paused:
        return Finding("Paused", False, "NotPaused", "planned changes are made")
    held_back = "; ".join(held_back_texts(known))
    return Finding(
        "Paused", True, "Paused", f"held back: {held_back}" if held_back else "there is nothing to hold back"
    )


def _message(known: Known, ready: Finding, doing: Finding) -> str:
    """What the cluster waits for, or what is wrong with its spec; empty when there is nothing to say."""
    parts = [_problem_text(known)] if known.problems else []
    parts += [known.trouble] if known.trouble else []
    parts += () if is_planned(doing) else known.pod_troubles
    parts += [known.pause.problem] if known.pause.problem else []
    parts += users_troubles(known)
    held_back = "; ".join(held_back_texts(known)) if known.pause.paused else ""
    parts += [f"paused; held back: {held_back}"] if held_back else []
    waiting = known.snapshot.waiting_for if known.snapshot is not None else ()
    if is_planned(doing):
        parts.append(doing.message)
    elif waiting:
        parts.append("waiting for " + "; ".join(waiting))
    elif not ready.holds and not parts:
        parts.append(ready.message)
    pending = known.effect.pending if known.effect is not None else ()
    parts += [it.message for it in pending if it.message not in parts]
    return "; ".join(parts)[:MESSAGE_LIMIT]


def _problem_text(known: Known) -> str:
    return "; ".join(str(problem) for problem in known.problems)
