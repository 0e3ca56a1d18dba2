"""The condition Progressing: what is being done, how far it is, and what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cachecluster_core.hashring import Entry, State
from cachecluster_core.operator_view import Pod

from .change_track import Change, Progress
from .findings import Finding, partitions_text
from .in_effect import EVICTING
from .status_figures import Known, wanted_nodes

NAMES_SHOWN = 8
MB = 1_000_000


def progressing(known: Known, entries: Sequence[Entry]) -> Finding:
    """What is most urgent of what is being done."""
    if known.effect is None:
        return Finding("Progressing", False, "InvalidSpec", "; ".join(map(str, known.problems)))
    if known.snapshot is None or known.snapshot.map is None:
        return _yes("Creating", "; ".join(["the cluster is being created", *_held_up(known)]))
    electing = [p for p, entry in enumerate(entries) if entry.state is State.ELECTING]
    if electing:
        return _yes("Electing", f"new primaries: {partitions_text(electing)}")
    starting = [p for p, entry in enumerate(entries) if entry.state in (State.VACANT, State.LOST)]
    if starting:
        return _yes("Starting", "; ".join([f"waiting for a first copy: {partitions_text(starting)}", *_held_up(known)]))
    held_back = tuple(held_back_texts(known))
    if held_back and (known.pause.paused or known.effect.desired.paused):
        reason = "Paused" if known.pause.paused else "InvalidSpec"
        return Finding("Progressing", False, reason, f"held back: {'; '.join(held_back)}")
    return _planned(known) or _not_planned(known, entries) or _idle(known)


def is_planned(finding: Finding) -> bool:
    """Whether the condition tells of a planned change, or of copies that move for balance."""
    return finding.holds and finding.reason in (*Change, "Rebalancing", "Repairing")


def held_back_texts(known: Known) -> Iterator[str]:
    """What would be done now if the cluster were not paused."""
    if known.effect is None or known.snapshot is None:
        return
    work, desired = known.progress.work, known.effect.desired
    if work.outdated:
        yield f"replacing {_names(work.outdated)}"
    if len(work.staying) > desired.nodes:
        yield f"removing {len(work.staying) - desired.nodes} of {len(work.staying)} nodes"
    if len(work.staying) < desired.nodes:
        yield f"making {desired.nodes - len(work.staying)} of {desired.nodes} pods"
    leaving = [pod for pod, _ in work.leaving if not pod.terminating]
    if leaving:
        yield f"emptying {_names(leaving)}"
    ring = known.snapshot.map
    if ring is not None and ring.settings != desired.settings:
        yield "changed settings of engines and routers"


def _yes(reason: str, message: str) -> Finding:
    return Finding("Progressing", True, reason, message)


def _planned(known: Known) -> Finding | None:
    progress = known.progress
    work, nodes = progress.work, wanted_nodes(known)
    match progress.change:
        case Change.ROLLING:
            new = sum(pod.ready and not pod.outdated for pod in work.staying)
            parts = [f"{min(new, nodes)} of {nodes} pods are made from the new template"]
        case Change.SCALING_IN:
            parts = [f"{nodes} nodes are wanted, {len(work.staying) + len(work.leaving)} are there"]
        case Change.SCALING_OUT:
            parts = [f"{nodes} nodes are wanted, {len(work.staying)} are there"]
        case _:
            return None
    parts += [*_emptying(progress), *_waiting(known), *_copying(progress), *_blocked(known)]
    return _yes(str(progress.change), "; ".join(parts))


def _not_planned(known: Known, entries: Sequence[Entry]) -> Finding | None:
    """Copies and pods that are missing, and moves for balance."""
    work = known.progress.work
    missing = wanted_nodes(known) - len(work.staying)
    assert known.effect is not None
    factor = known.effect.desired.settings.replication_factor
    short = [p for p, entry in enumerate(entries) if len(entry.isr) < factor]
    details = [*_emptying(known.progress), *_copying(known.progress), *_blocked(known)]
    if missing > 0:
        return _yes("Repairing", "; ".join([f"{missing} of {wanted_nodes(known)} pods are missing", *details]))
    if short:
        return _yes("Repairing", "; ".join([f"copies are being filled: {partitions_text(short)}", *details]))
    if work.moving or work.filling or work.leaving:
        return _yes("Rebalancing", "; ".join(details) or "copies go to their places")
    return None


def _idle(known: Known) -> Finding:
    evicting = [it for it in known.effect.pending if it.reason == EVICTING] if known.effect is not None else []
    if evicting:
        return _yes(str(Change.SCALING_IN), evicting[0].message)
    refused = [pending for pending in known.effect.pending if pending.refused] if known.effect is not None else []
    if refused:
        return Finding("Progressing", False, refused[0].reason, "; ".join(pending.message for pending in refused))
    return Finding("Progressing", False, "Complete", "nothing is being changed")


def _emptying(progress: Progress) -> Iterator[str]:
    """ "moved 7 of 16 partitions off demo-4"."""
    for pod, held in progress.work.leaving[:NAMES_SHOWN]:
        total = max(held, progress.taken_off.get(pod.uid, held))
        if pod.terminating:
            yield f"{pod.name} is ending"
        elif total:
            yield f"moved {total - held} of {total} partitions off {pod.name}"
    if progress.work.moving:
        yield f"handing over {partitions_text(progress.work.moving)}"


def _waiting(known: Known) -> Iterator[str]:
    """Pods whose turn has not come."""
    work, nodes = known.progress.work, wanted_nodes(known)
    begun = {pod.uid for pod, _ in work.leaving}
    later = [pod for pod in work.outdated if pod.uid not in begun and not pod.terminating]
    if later:
        yield f"{_names(later)} wait{'s' if len(later) == 1 else ''}"
    elif len(work.staying) > nodes:
        yield f"{len(work.staying) - nodes} more will go"


def _copying(progress: Progress) -> Iterator[str]:
    """ "120 of 400 MB copied, about 20 s left": a guess from the rate of late, or no guess."""
    work = progress.work
    if not work.copies_left:
        return
    yield "1 copy is to be filled" if work.copies_left == 1 else f"{work.copies_left} copies are to be filled"
    total = progress.copied + work.bytes_left
    if total >= MB:
        left = progress.seconds_left
        guess = f", about {_duration(left)} left" if left is not None else ""
        yield f"{progress.copied // MB} of {total // MB} MB copied{guess}"


def _blocked(known: Known) -> Iterator[str]:
    """What pods wait for, by the word of others, or else by the operator's own."""
    if known.pod_troubles:
        yield from _held_up(known)
        return
    begun = known.progress.work.leaving or known.progress.work.moving or known.progress.work.filling
    if not begun and known.snapshot is not None and known.snapshot.waiting_for:
        yield "waiting for " + "; ".join(known.snapshot.waiting_for[:NAMES_SHOWN])


def _held_up(known: Known) -> Iterator[str]:
    """By the word of the API server, the scheduler and the kubelet."""
    if known.pod_troubles:
        yield "held up: " + "; ".join(known.pod_troubles[:NAMES_SHOWN])


def _names(pods: Sequence[Pod]) -> str:
    names = [pod.name for pod in pods[:NAMES_SHOWN]]
    return ", ".join(names) + (", ..." if len(pods) > NAMES_SHOWN else "")


def _duration(seconds: float) -> str:
    """Two digits are more than is known."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 90:
        return f"{round(seconds, -1):.0f} s"
    return f"{round(seconds / 60)} min"
