"""How one partition's entry changes when its primary, its copies or its gate fail: rules O1-O5 for one entry. Pure.

Every function answers with the next entry and the reason, or with nothing; none looks at more than one partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .hashring import CopyId, Entry, Settings, State
from .operator_view import OperatorView, Pod, PodView, Suspicion
from .report import CopyReport, Process

NO_AGENT = PodView()


@dataclass(slots=True)
class Facts:
    """One partition's entry together with all that is known about it; `wakes` collects when to look again."""

    view: OperatorView
    partition: int
    entry: Entry
    pods: dict[str, Pod]
    wakes: list[float] = field(default_factory=list)

    def agent(self, pod: str) -> PodView:
        """What is known of a pod's agent; nothing is a value too."""
        return self.view.agents.get(pod, NO_AGENT)

    def copy(self, pod: str) -> CopyReport | None:
        """The latest report about this partition's copy on a pod, while the pod reports."""
        agent = self.agent(pod)
        if not agent.reporting or agent.report is None:
            return None
        return agent.report.copies.get(self.partition)

    def since_entry(self) -> float:
        """Seconds since this operator knew the entry; 0 when it was never told."""
        return self.view.now - self.view.seen_at.get(self.partition, self.view.now)

    def passed(self, since: float | None, seconds: float) -> bool:
        """Whether so many seconds have passed since then; when not, the step is to be woken at that time."""
        if since is None:
            return False
        left = since + seconds - self.view.now
        if left > 0:
            self.wakes.append(left)
        return left <= 0

    def entry_older_than(self, seconds: float) -> bool:
        """Whether this operator has known the entry for so long."""
        return self.passed(self.view.seen_at.get(self.partition, self.view.now), seconds)

    def usable(self, pod: str) -> bool:
        """A pod that exists, is not ending, and reports."""
        return self.stays(pod) and self.agent(pod).reporting

    def stays(self, pod: str) -> bool:
        """A pod that exists and is not ending."""
        known = self.pods.get(pod)
        return known is not None and not known.terminating and not known.failed

    def has_router(self, pod: str) -> bool:
        """At least one router of the pod knows its gates: clients could be served there."""
        report = self.agent(pod).report
        return report is not None and report.routers > 0

    def can_serve(self, pod: str) -> bool:
        """Clients would be served by a primary there, and its agent learns of every change."""
        return self.has_router(pod) and not self.is_blind(pod)

    def is_blind(self, pod: str) -> bool:
        """Its agent says that it cannot read the map."""
        report = self.agent(pod).report
        return report is not None and report.blind

    def may_report(self, pod: str) -> bool:
        """An unsuspected agent: one that reports, or that this operator gives time for its first report."""
        return self.agent(pod).suspicion in (Suspicion.NONE, Suspicion.UNKNOWN)

    def ending(self, pod: str) -> bool:
        """A pod being deleted, by its object or by its agent's word; an object that is gone proves nothing."""
        known, report = self.pods.get(pod), self.agent(pod).report
        return (known is not None and known.terminating) or (report is not None and report.draining)

    @property
    def ungated_since(self) -> float | None:
        """Since when there is no evidence that the primary of this term serves."""
        return self.view.memory.ungated.get((self.partition, self.entry.term))

    @property
    def silence_after(self) -> float:
        """Seconds after which no agent can act on an older map: D * 1.1 + 0.5 s."""
        timing = self.view.timing
        ring = self.view.map
        authority = max(self.view.settings.authority_s, ring.settings.authority_s if ring else 0.0)
        return authority * timing.clock_rate + timing.wait_margin

    @property
    def lost_after(self) -> float:
        """Seconds after which an unreachable copy no longer counts as one that may come back (O4): none of the entry's
        copies can have authority any more."""
        return lost_after(self.view, 1 if self._knows_it_is_alone() else 2)

    def _knows_it_is_alone(self) -> bool:
        """The former primary is the only in-sync copy, and has said that it had read so. Otherwise it may still act on
        an entry with others, and they may promise."""
        if len(self.entry.isr) != 1 or self.entry.isr[0] not in self.entry.former:
            return False
        sole = self.entry.isr[0]
        report = self.agent(sole.pod).report
        copy = report.copies.get(self.partition) if report is not None else None
        return copy is not None and copy.run_id == sole.run_id and copy.epoch >= self.entry.epoch - 1


def lost_after(view: OperatorView, copies: int) -> float:
    """Seconds after which nobody has authority any more for a partition with so many in-sync copies: a sole one needs
    no promise, several may have promised each other (A8)."""
    longest = max(
        settings.lost_after_s if copies < 2 else max(settings.lost_after_s, settings.outage_s)
        for settings in _settings(view)
    )
    return longest * view.timing.clock_rate + view.timing.wait_margin


def _settings(view: OperatorView) -> tuple[Settings, ...]:
    """Those that are wanted, and those that agents may still act on."""
    return (view.settings, view.map.settings) if view.map is not None else (view.settings,)


def is_dead(facts: Facts, copy: CopyId) -> bool:
    """Its own agent says so: no such process, another one, or one that is new (A4). Silence proves nothing.

    Only a report made at or above the entry's epoch counts: an older one may describe the time before the copy joined.
    """
    report = facts.copy(copy.pod)
    if report is None:
        return False
    if report.epoch < facts.entry.epoch:
        return False
    if report.process in (Process.DEAD, Process.ABSENT, Process.STARTING):
        return True
    if report.run_id not in ("", copy.run_id):
        return True
    return report.process is Process.UP and not report.intact and copy != facts.entry.primary


def can_lead(facts: Facts, copy: CopyId) -> bool:
    """Its agent reports now that exactly this copy answers and holds the partition's history."""
    report = facts.copy(copy.pod)
    return report is not None and report.run_id == copy.run_id and report.process is Process.UP and report.intact


def has_open_gate(facts: Facts, primary: CopyId) -> bool:
    """Evidence that the primary serves: an open gate, a router that knows it, and a redis that answers."""
    report = facts.copy(primary.pod)
    if not facts.has_router(primary.pod):
        return False
    silent = report is not None and report.process is Process.SILENT
    return report is not None and report.gate_epoch != 0 and report.run_id == primary.run_id and not silent


def elect_reason(facts: Facts) -> str | None:
    """Why a Stable entry must become Electing now, None when it must not (O1)."""
    entry = facts.entry
    primary = entry.primary
    assert primary is not None
    others = [copy for copy in entry.isr if copy != primary]
    name = pod_name(facts, primary.pod)
    trouble = _trouble(facts, primary, name)
    if trouble is None:
        return None
    if any(can_lead(facts, copy) and not facts.ending(copy.pod) for copy in others):
        return trouble
    if all(is_dead(facts, copy) for copy in entry.isr):
        return trouble
    return trouble if facts.passed(facts.ungated_since, facts.view.timing.repair_delay) else None


def _trouble(facts: Facts, primary: CopyId, name: str) -> str | None:
    """What is wrong with a primary, whether or not anything can be done about it."""
    if is_dead(facts, primary):
        return f"the redis process on {name} ended"
    if facts.agent(primary.pod).suspicion is Suspicion.CONFIRMED:
        return f"{name} does not answer"
    unheard = facts.agent(primary.pod).suspicion is Suspicion.UNKNOWN  # by an operator that has just started
    if facts.ending(primary.pod) and not unheard and not has_open_gate(facts, primary):
        return f"{name} is being deleted"
    authority = facts.view.settings.authority_s * facts.view.timing.clock_rate
    if facts.agent(primary.pod).reporting and facts.passed(facts.ungated_since, authority):
        return f"{name} cannot open the gate, or its router or redis is silent"
    if facts.view.settings.sync and facts.view.is_blind(facts.entry) and _waits_for_others(facts):
        return f"{name} cannot read the map, and its writes wait for a copy that does not follow"
    return None


def _waits_for_others(facts: Facts) -> bool:
    """An in-sync member should leave, and another copy, that can read the map, could lead without it."""
    leaving = dict(left(facts))
    gone = [copy for copy in facts.entry.isr if copy in leaving]
    others = [copy for copy in facts.entry.isr if copy != facts.entry.primary and copy not in leaving]
    return bool(gone) and any(can_lead(facts, copy) and not facts.is_blind(copy.pod) for copy in others)


def pod_name(facts: Facts, pod: str) -> str:
    """The pod's name for people, its UID when nothing else is known."""
    known = facts.pods.get(pod)
    member = facts.view.map.member(pod) if facts.view.map else None
    return known.name if known else member.name if member else pod


def electing(facts: Facts, reason: str) -> Entry:
    """The Electing entry that follows a Stable one."""
    return facts.entry.changed(
        state=State.ELECTING,
        primary=None,
        successor=None,
        former=tuple(copy for copy in (facts.entry.primary, facts.entry.successor) if copy is not None),
        reason=reason,
        since=facts.view.wall,
    )


def is_silent(facts: Facts) -> bool:
    """No gate below this Electing entry can be open any more (O3)."""
    former = facts.entry.former
    return (former != () and all(_gate_is_silent(facts, copy) for copy in former)) or facts.entry_older_than(
        facts.silence_after
    )


def _gate_is_silent(facts: Facts, copy: CopyId) -> bool:
    """Proof, gathered after the Electing entry was written, that this copy's gate is shut."""
    report = facts.copy(copy.pod)
    if report is not None and report.shut_epoch >= facts.entry.epoch:
        return True
    refused_at, seen_at = facts.agent(copy.pod).refused_at, facts.view.seen_at.get(facts.partition)
    refused = refused_at is not None and seen_at is not None and refused_at > seen_at
    if facts.view.trust_connection_refused and refused:
        return True
    return _terminated(facts, copy.pod)


def _terminated(facts: Facts, pod: str) -> bool:
    known = facts.pods.get(pod)
    return facts.agent(pod).terminated or (known is not None and known.terminated)


def sealed(facts: Facts) -> list[tuple[CopyId, CopyReport]]:
    """The in-sync copies that are sealed at exactly this entry, by their agents' reports."""
    found = []
    for copy in facts.entry.isr:
        report = facts.copy(copy.pod)
        if (
            report is not None
            and report.sealed_epoch == facts.entry.epoch
            and report.run_id == copy.run_id
            and report.intact
        ):
            found.append((copy, report))
    return found


def promoted(facts: Facts, first_choice: Callable[[], str]) -> Entry | None:
    """The Stable entry that ends an election, None while it cannot end (O2, O3).

    Of the sealed copies the one with the highest rank leads; of equal ranks one on a pod that is not ending, then the
    one that the placement prefers.
    """
    candidates = sealed(facts)
    missing = [
        copy
        for copy in facts.entry.isr
        if copy not in {c for c, _ in candidates} and facts.may_report(copy.pod) and not is_dead(facts, copy)
    ]
    if not candidates or (missing and not facts.entry_older_than(facts.view.timing.seal_wait)):
        return None
    if not is_silent(facts):
        return None
    staying = [item for item in candidates if not facts.ending(item[0].pod)] or candidates
    highest = max((report.term, report.offset) for _, report in staying)
    equal = [item for item in staying if (item[1].term, item[1].offset) == highest]
    preferred = first_choice() if len(equal) > 1 else ""
    best, report = max(equal, key=lambda item: (item[0].pod == preferred, item[0]))
    isr = tuple(sorted(copy for copy, _ in candidates))
    assert best in facts.entry.isr and report.sealed_epoch == facts.entry.epoch, "promoted outside the sealed set"
    left = {copy.pod for copy in facts.entry.isr} - {copy.pod for copy in isr}
    learners = set(facts.entry.learners) | {pod for pod in left if facts.usable(pod)}
    return facts.entry.changed(
        state=State.STABLE,
        primary=best,
        former=(),
        isr=isr,
        learners=tuple(sorted(learners)),
        term=facts.entry.epoch + 1,
        reason=f"{pod_name(facts, best.pod)} was elected: {facts.entry.reason}",
        since=facts.view.wall,
    )


def lost(facts: Facts) -> Entry | None:
    """The Lost entry, when no in-sync copy can come back (O4). Every pod that may hold something is a learner."""
    for copy in facts.entry.isr:
        ended = not facts.agent(copy.pod).reporting and _terminated(facts, copy.pod)
        if is_dead(facts, copy) or ended or facts.passed(_unreachable_since(facts, copy), facts.lost_after):
            continue
        return None
    if not is_silent(facts) and not all(is_dead(facts, copy) for copy in facts.entry.isr):
        return None
    left = {copy.pod for copy in facts.entry.isr} | set(facts.entry.learners)
    return facts.entry.changed(
        state=State.LOST,
        former=(),
        isr=(),
        learners=tuple(sorted(filter(facts.stays, left))),
        reason=f"no in-sync copy is left: {facts.entry.reason}",
        since=facts.view.wall,
    )


def _unreachable_since(facts: Facts, copy: CopyId) -> float | None:
    """Since when, but not from before the entry was known, a copy cannot be reached without a break: its agent is
    silent, or tells that its redis is. None: it can be."""
    agent, report, now = facts.agent(copy.pod), facts.copy(copy.pod), facts.view.now
    known = facts.view.seen_at.get(facts.partition, now)
    if agent.reporting:
        if report is None or report.process is not Process.SILENT:
            return None
        return max(known, now - report.silent_s)
    return known if agent.unreachable_since is None else max(known, agent.unreachable_since)


def begun(facts: Facts, first_choice: Callable[[], str]) -> Entry | None:
    """The Stable entry that begins the life of a Vacant or Lost partition, or begins it anew.

    What is left of a Lost one is served: of the learners that held a part of this term's history, the one with most.
    Without any, a fresh, empty copy serves: the placement's first choice, so that primaries are balanced from the
    start. Both are waited for, for some seconds after the learners were placed.
    """
    placed = facts.view.memory.placed.get((facts.partition, facts.entry.learners))
    late = facts.passed(placed, facts.view.timing.first_choice_wait)
    if facts.entry.state is State.LOST:
        held = _held(facts, first_choice)
        able = [it for it in held if facts.can_serve(it.pod)]
        if not late and (any(_may_hold_some(facts, pod) for pod in facts.entry.learners) or held[:1] != able[:1]):
            return None
        if held:
            rest = (able or held)[0]
            name = pod_name(facts, rest.pod)
            return _begun_with(facts, rest, f"{name} begins to serve what it had received before the others ended")
    ready = {pod: report.run_id for pod in facts.entry.learners if (report := _fresh(facts, pod)) is not None}
    if not ready:
        return None
    preferred = first_choice()
    chosen = preferred in facts.entry.learners and facts.usable(preferred)
    if preferred not in ready and chosen and not late:
        return None
    pod = preferred if preferred in ready else min(ready)
    return _begun_with(facts, CopyId(pod, ready[pod]), f"{pod_name(facts, pod)} begins to serve, empty")


def _begun_with(facts: Facts, primary: CopyId, reason: str) -> Entry:
    return facts.entry.changed(
        state=State.STABLE,
        primary=primary,
        isr=(primary,),
        learners=tuple(pod for pod in facts.entry.learners if pod != primary.pod),
        term=facts.entry.epoch + 1,
        reason=reason,
        since=facts.view.wall,
    )


def _fresh(facts: Facts, pod: str) -> CopyReport | None:
    """The report of a copy that began empty at this entry, and can be served."""
    report = facts.copy(pod)
    if report is None or report.process is not Process.UP or not report.run_id:
        return None
    born_here = min(report.epoch, report.born_epoch) >= facts.entry.epoch
    return report if born_here and facts.usable(pod) and facts.can_serve(pod) else None


def _may_hold_some(facts: Facts, pod: str) -> bool:
    """A learner of a Lost partition that has not told yet, or that holds something and is not sealed yet."""
    report = facts.copy(pod)
    if report is None:
        return facts.stays(pod) and facts.agent(pod).suspicion is not Suspicion.CONFIRMED
    answers = report.process in (Process.UP, Process.SILENT)
    return answers and report.term == facts.entry.term > 0 and report.sealed_epoch != facts.entry.epoch


def _held(facts: Facts, first_choice: Callable[[], str]) -> list[CopyId]:
    """The learners of a Lost partition that were linked to its last primary, the one that received most first. What
    they hold was never promised to be there: it is better than nothing."""
    held = []
    for pod in facts.entry.learners:
        report = facts.copy(pod)
        if report is None or report.sealed_epoch != facts.entry.epoch or not facts.usable(pod):
            continue
        if report.intact and report.term == facts.entry.term:
            held.append((report.offset, CopyId(pod, report.run_id)))
    preferred = first_choice() if len(held) > 1 else ""
    return [copy for _, copy in sorted(held, key=lambda it: (-it[0], it[1].pod != preferred, it[1]))]


def left(facts: Facts) -> Iterator[tuple[CopyId, str]]:
    """In-sync members, never the primary, that leave at once: dead, or lagging for longer than the grace (O5).

    So do learners that the primary requires already: a higher epoch lets them go, or with sync its writes would wait
    for them for ever.
    """
    for copy in (*facts.entry.isr, *_lagging_learners(facts)):
        if copy == facts.entry.primary:
            continue
        if is_dead(facts, copy):
            yield copy, f"the replica on {pod_name(facts, copy.pod)} ended or began anew"
        elif facts.passed(facts.view.memory.lagging.get((facts.partition, copy)), _lag_grace(facts)):
            yield copy, f"the replica on {pod_name(facts, copy.pod)} is not in sync"


def _lagging_learners(facts: Facts) -> tuple[CopyId, ...]:
    """Learners that the primary requires at this entry's epoch and that do not follow it."""
    primary, entry = facts.entry.primary, facts.entry
    report = facts.copy(primary.pod) if primary is not None else None
    if report is None or report.epoch != entry.epoch:
        return ()
    return tuple(copy for copy in report.lagging if copy not in entry.isr and copy.pod in entry.learners)


def _lag_grace(facts: Facts) -> float:
    """With sync every write waits for a member that lags."""
    timing = facts.view.timing
    return timing.lag_grace_sync if facts.view.settings.sync else timing.lag_grace


def joined(facts: Facts) -> list[CopyId]:
    """Learners that the primary requires, by a report made at exactly this entry's epoch (O5, A7).

    Exactly the process that the learner's own agent reports, and reports as whole: the primary may have begun to
    require one that has ended since, and its successor too; and a replica is online to it before it has loaded all.
    """
    primary = facts.entry.primary
    report = facts.copy(primary.pod) if primary is not None else None
    if primary is None or report is None or report.run_id != primary.run_id:
        return []
    if not report.epoch == report.required_epoch == report.gate_epoch == facts.entry.epoch:
        return []
    learners = [copy for copy in report.required if copy not in facts.entry.isr and copy.pod in facts.entry.learners]
    return [copy for copy in learners if can_lead(facts, copy)]
