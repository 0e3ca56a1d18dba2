"""Views of small clusters for `operator_step`, with what healthy agents report; tests change what they are about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, Settings, State
from cachecluster_core.operator_step import (
    OperatorDecision,
    OperatorView,
    Pod,
    PodView,
    Suspicion,
    operator_step,
    remember,
)
from cachecluster_core.report import CopyReport, Process, Report

NOW = 1000.0
A, B, C, D = (CopyId(f"uid-{x}", f"r{x}") for x in "abcd")
PODS = tuple(Pod(f"uid-{x}", f"demo-{i}", f"h{i}", f"z{i}", f"n{i}", ready=True) for i, x in enumerate("abcd"))
UNHEARD = PodView(suspicion=Suspicion.UNKNOWN, unreachable_since=NOW)
STABLE = Entry(epoch=5, state=State.STABLE, primary=A, isr=(A, B), term=5)
MOVING = Entry(epoch=6, state=State.MOVING, primary=A, successor=B, isr=(A, B), term=5)
ELECTING = Entry(epoch=6, state=State.ELECTING, isr=(A, B), former=(A,), term=5)


def copy_report(entry: Entry, pod: str, **changes: Any) -> CopyReport:
    """What a healthy agent reports about its in-sync copy by this entry."""
    mine = entry.copy_on(pod)
    assert mine is not None
    report = CopyReport(Process.UP, mine.run_id, entry.epoch, intact=True, term=entry.term, offset=100)
    if entry.state is State.ELECTING:
        report = replace(report, shut_epoch=entry.epoch, sealed_epoch=entry.epoch)
    elif mine == entry.primary:
        report = replace(report, gate_epoch=entry.epoch)
    else:
        report = replace(report, shut_epoch=entry.epoch, link_up=True)
    return replace(report, **changes)


def heard(pod: str, copy: CopyReport | None = None, entries: dict[int, Entry] | None = None, **said: Any) -> PodView:
    """An agent that reports now, about partition 0 if about any."""
    copies = {} if copy is None else {0: copy}
    return PodView(Report(pod, "i", "7", 2.0, copies, entries or {}, routers=1, **said), NOW, Suspicion.NONE)


def agents(entries: tuple[Entry, ...], pods: tuple[Pod, ...] = PODS[:3], **engines: str) -> dict[str, PodView]:
    """All agents report, each what the entries give it, and the engine named by the last letter of its UID."""
    views = {}
    for pod in pods:
        held = {p: copy_report(entry, pod.uid) for p, entry in enumerate(entries) if entry.copy_on(pod.uid)}
        report = Report(pod.uid, "i", "7", 2.0, held, routers=1, engine=engines.get(pod.uid[-1], ""))
        views[pod.uid] = PodView(report, NOW, Suspicion.NONE)
    return views


def with_copy(known: dict[str, PodView], pod: str, copy: CopyReport) -> dict[str, PodView]:
    """The same agents, one of which reports this about partition 0."""
    report = known[pod].report
    assert report is not None
    return known | {pod: replace(known[pod], report=replace(report, copies={**report.copies, 0: copy}))}


def view(
    entries: tuple[Entry, ...],
    known: dict[str, PodView] | None = None,
    pods: tuple[Pod, ...] = PODS[:3],
    nodes: int = 3,
    known_for: float = 60.0,
    leaving: tuple[str, ...] = (),
    **changes: Any,
) -> OperatorView:
    """A cluster whose entries the operator has known for so many seconds; all its agents report, unless `known` says
    otherwise. Further words are fields of the view."""
    members = {p.uid: Member(p.name, p.host, p.zone, p.node, p.uid in leaving) for p in pods}
    settings = changes.pop("settings", Settings())
    ring = HashRing("demo", tuple(sorted(members.items())), entries, settings, version="7", uid="u")
    seen = dict.fromkeys(range(len(entries)), NOW - known_for)
    known = agents(entries, pods) if known is None else known
    seen_view = OperatorView("demo", nodes, len(entries), settings, NOW, 0.0, ring, True, pods, known, seen)
    return replace(seen_view, **changes)


def decide(seen: OperatorView) -> OperatorDecision:
    """One pass; what the view remembers already stays."""
    return operator_step(replace(seen, memory=remember(seen)))


def ring_after(seen: OperatorView) -> HashRing:
    """The map after one pass."""
    ring = decide(seen).map or seen.map
    assert ring is not None
    return ring


def entries_after(seen: OperatorView) -> tuple[Entry, ...]:
    """The entries after one pass."""
    return ring_after(seen).entries


def entry_after(seen: OperatorView) -> Entry:
    """The only partition's entry after one pass."""
    (entry,) = entries_after(seen)
    return entry


def leaving_after(seen: OperatorView) -> set[str]:
    """Names of the pods that the map calls leaving after one pass."""
    return {member.name for _, member in ring_after(seen).members if member.leaving}
