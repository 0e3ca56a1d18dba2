"""`CacheCluster.status` from what is known of a cluster: pure. The conditions are here, the figures beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cachecluster_core.hashring import Entry, State
from cachecluster_core.operator_view import Pod
from cachecluster_core.spec import CacheClusterSpec

from .snapshot import ClusterSnapshot
from .status_figures import Known, entries_of, is_served, member_rows, memory_row, wanted_nodes

Json = dict[str, Any]

MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class _Finding:
    type: str
    holds: bool
    reason: str
    message: str


def compose_status(known: Known, previous: Json, now: str) -> Json:
    """The status. `previous` is the last one, for times of transition; `now` is RFC 3339 in UTC."""
    entries = entries_of(known)
    served = [p for p, entry in enumerate(entries) if is_served(p, entry, known)]
    existing = [pod for pod in known.pods if not pod.failed]
    ready = [pod for pod in existing if pod.ready and not pod.terminating]
    findings = [
        _ready(known, entries, served, ready),
        _progressing(known, entries),
        _degraded(known, entries),
        _up_to_date(known),
    ]
    if known.lost or any(condition["type"] == "DataLoss" for condition in previous.get("conditions") or ()):
        findings.append(_data_loss(known, previous))
    status: Json = {
        "observedGeneration": known.generation,
        "message": _message(known, findings[0]),
        "nodes": len(existing),
        "readyNodes": len(ready),
        "nodesReady": f"{len(ready)}/{wanted_nodes(known)}",
        "partitionsServed": f"{len(served)}/{len(entries)}",
        "selector": known.selector,
        "members": member_rows(entries, known),
        "conditions": [_condition(finding, known.generation, previous, now) for finding in findings],
    }
    if known.effect is not None:
        status["memory"] = memory_row(known.effect, entries, known)
    return status


def max_unavailable(spec: CacheClusterSpec, snapshot: ClusterSnapshot | None) -> int:
    """How many pods may be evicted at once: none while a partition has fewer than two in-sync copies (of RF >= 2)."""
    if spec.replication_factor < 2:
        return 1
    ring = snapshot.map if snapshot is not None else None
    return 1 if ring is not None and all(len(entry.isr) >= 2 for entry in ring.entries) else 0


# -- conditions --------------------------------------------------------------------------------------------------------


def _ready(known: Known, entries: Sequence[Entry], served: list[int], ready: list[Pod]) -> _Finding:
    def no(reason: str, message: str) -> _Finding:
        return _Finding("Ready", False, reason, message)

    if known.effect is None:
        return no("InvalidSpec", _problem_text(known))
    if known.trouble and len(served) < len(entries):
        return no("ChildrenNotApplied", known.trouble)
    if known.snapshot is None or known.snapshot.map is None:
        return no("Creating", "the first pods are being started")
    unserved = [p for p in range(len(entries)) if p not in served]
    if unserved:
        return no("PartitionsNotServed", f"not served: {_partitions(unserved)}")
    if len(ready) < wanted_nodes(known):
        return no("NodesNotReady", f"{len(ready)} of {wanted_nodes(known)} pods are ready; every partition is served")
    return _Finding("Ready", True, "Serving", f"every partition is served by {len(ready)} nodes")


def _progressing(known: Known, entries: Sequence[Entry]) -> _Finding:
    def yes(reason: str, message: str) -> _Finding:
        return _Finding("Progressing", True, reason, message)

    if known.effect is None:
        return _Finding("Progressing", False, "InvalidSpec", _problem_text(known))
    if known.snapshot is None or known.snapshot.map is None:
        return yes("Creating", "the cluster is being created")
    electing = [p for p, entry in enumerate(entries) if entry.state in (State.ELECTING, State.MOVING)]
    if electing:
        return yes("Electing", f"new primaries: {_partitions(electing)}")
    starting = [p for p, entry in enumerate(entries) if entry.state in (State.VACANT, State.LOST)]
    if starting:
        return yes("Starting", f"waiting for a first copy: {_partitions(starting)}")
    if len([pod for pod in known.pods if not pod.terminating and not pod.failed]) < wanted_nodes(known):
        return yes("AddingNodes", f"{wanted_nodes(known)} nodes are wanted")
    syncing = [p for p, entry in enumerate(entries) if entry.learners]
    if syncing:
        return yes("Syncing", f"copies are being filled: {_partitions(syncing)}")
    return _Finding("Progressing", False, "Settled", "nothing is being changed")


def _degraded(known: Known, entries: Sequence[Entry]) -> _Finding:
    if known.effect is None or not entries:
        return _Finding("Degraded", False, "NoData", "there are no copies yet")
    wanted = known.effect.spec.replication_factor
    short = [p for p, entry in enumerate(entries) if len(entry.isr) < wanted]
    if short:
        return _Finding("Degraded", True, "CopiesMissing", f"fewer than {wanted} in-sync copies: {_partitions(short)}")
    return _Finding("Degraded", False, "CopiesInSync", f"every partition has {wanted} in-sync copies")


def _up_to_date(known: Known) -> _Finding:
    if known.problems:
        return _Finding("UpToDate", False, "InvalidSpec", _problem_text(known))
    if known.trouble:
        return _Finding("UpToDate", False, "ChildrenNotApplied", known.trouble)
    if known.effect is not None and known.effect.pending:
        text = "; ".join(pending.message for pending in known.effect.pending)
        return _Finding("UpToDate", False, known.effect.pending[0].reason, text)
    return _Finding("UpToDate", True, "SpecInEffect", "all of the spec is in effect")


def _data_loss(known: Known, previous: Json) -> _Finding:
    """Once true it stays, for people who look later; the partitions are those of the last time."""
    if known.lost:
        text = f"no copy could come back, and what they held is lost: {_partitions(sorted(known.lost))}"
        return _Finding("DataLoss", True, "NoCopyLeft", text)
    before = next(condition for condition in previous["conditions"] if condition["type"] == "DataLoss")
    return _Finding("DataLoss", before["status"] == "True", before["reason"], before["message"])


def _condition(finding: _Finding, generation: int, previous: Json, now: str) -> Json:
    status = "True" if finding.holds else "False"
    before = next((c for c in previous.get("conditions") or () if c["type"] == finding.type), None)
    unchanged = before is not None and before["status"] == status
    return {
        "type": finding.type,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before is not None and unchanged else now,
        "reason": finding.reason,
        "message": finding.message[:MESSAGE_LIMIT],
    }


def _message(known: Known, ready: _Finding) -> str:
    """What the cluster waits for, or what is wrong with its spec; empty when there is nothing to say."""
    parts = [_problem_text(known)] if known.problems else []
    parts += [known.trouble] if known.trouble else []
    parts += known.pod_troubles
    waiting = known.snapshot.waiting_for if known.snapshot is not None else ()
    if waiting:
        parts.append("waiting for " + "; ".join(waiting))
    elif not ready.holds and not parts:
        parts.append(ready.message)
    parts += [pending.message for pending in known.effect.pending] if known.effect is not None else []
    return "; ".join(parts)[:MESSAGE_LIMIT]


def _problem_text(known: Known) -> str:
    return "; ".join(str(problem) for problem in known.problems)


def _partitions(numbers: Sequence[int]) -> str:
    """ "partition 3", "partitions 0-3, 7": runs are joined."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:16])
    more = ", ..." if len(runs) > 16 else ""
    return f"partition{'s' if len(numbers) > 1 else ''} {text}{more}"
