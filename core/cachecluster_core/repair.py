"""Which pods hold learners: first placement, repair of missing copies, and moves for balance (O5). Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from .engines import Engines
from .hashring import Entry, State
from .leaving import leaving_pods
from .operator_view import OperatorView, Pod, PodView, Suspicion
from .placement import Holding, Place, place
from .report import Process

EMPTY = (State.VACANT, State.LOST)


def holding_pods(view: OperatorView) -> tuple[Pod, ...]:
    """Pods that count as places of copies: existing, neither ending nor leaving, reporting or silent for less than the
    repair delay.

    One that this operator has not heard of yet counts if it has copies: an operator that starts must not take pods
    that have had no time to report for pods without copies.
    """
    leaving = leaving_pods(view.map)
    return tuple(pod for pod in _alive(view) if pod.uid not in leaving)


def keeping_pods(view: OperatorView) -> frozenset[str]:
    """The same and those that are leaving: their copies are not missing as long as they are there. What replaces a pod
    may take its time, and may never come, as with an image that cannot be pulled."""
    return frozenset(pod.uid for pod in _alive(view))


def _alive(view: OperatorView) -> tuple[Pod, ...]:
    named = {uid for entry in view.map.entries for uid in entry.pods()} if view.map is not None else frozenset()
    usable = (pod for pod in view.pods if pod.host and not pod.terminating and not pod.failed)
    return tuple(pod for pod in usable if _counts(view, pod, pod.uid in named))


def _counts(view: OperatorView, pod: Pod, has_copies: bool) -> bool:
    agent = view.agents.get(pod.uid, PodView())
    if agent.reporting:
        return True
    if agent.report is None and agent.suspicion is Suspicion.UNKNOWN:
        return has_copies
    since = agent.unreachable_since
    return since is not None and view.now - since < view.timing.repair_delay


def targets(view: OperatorView, entries: tuple[Entry, ...]) -> tuple[tuple[str, ...], ...]:
    """Where the copies of each partition belong: pods, the preferred primary first; fewer than `replicationFactor`
    where pods are missing or cannot be filled."""
    places = tuple(
        Place(pod.uid, pod.name, pod.zone, pod.node) for pod in sorted(holding_pods(view), key=lambda p: p.uid)
    )
    engines, pods = Engines(view.agents, view.pods), [it.pod for it in places]
    copies = min(view.settings.replication_factor, len(pods))
    stuck = _Stuck(view)
    current = tuple(
        _holding(entry, engines, engines.barred(entry, pods, copies), stuck.of(partition), stuck.pods)
        for partition, entry in enumerate(entries)
    )
    return place(places, view.settings.replication_factor, current, view.nodes)


def _holding(
    entry: Entry, engines: Engines, barred: frozenset[str], stuck: frozenset[str], sick: frozenset[str]
) -> Holding:
    learners = sorted(set(entry.learners) - engines.hopeless(entry, entry.learners) - stuck)
    in_sync = sorted(copy.pod for copy in entry.isr if copy != entry.primary)
    primary = entry.primary.pod if entry.primary else None
    return Holding((*((primary,) if primary else ()), *in_sync, *learners), primary, barred | stuck | sick)


def complete(view: OperatorView) -> bool:
    """All pods that the spec asks for are there and report."""
    reporting = [pod for pod in holding_pods(view) if view.agents.get(pod.uid, PodView()).reporting]
    return len(reporting) >= view.nodes


def repair(view: OperatorView, entries: tuple[Entry, ...], wanted: tuple[tuple[str, ...], ...]) -> tuple[Entry, ...]:
    """The same entries with learners added and surplus copies dropped, within the limits of concurrent syncs. `wanted`
    are the `targets`."""
    whole = complete(view)
    present = frozenset(pod.uid for pod in holding_pods(view))
    keeping, factor = keeping_pods(view), min(view.settings.replication_factor, len(present))
    result = list(entries)
    stuck, engines = _Stuck(view), Engines(view.agents, view.pods)
    syncs = _Syncs(view, entries, stuck)
    for partition, entry in enumerate(entries):
        if entry.state in EMPTY:
            if whole or entry.state is State.LOST or _all_pods_had_time(view, partition):
                choose = _learners_of_lost if entry.state is State.LOST else _first_learners
                result[partition] = choose(view, entry, wanted[partition], present)
        elif entry.state is State.STABLE and not view.is_blind(entry):
            short = len((entry.pods() & keeping) - stuck.of(partition)) < factor
            fill = whole or (short and _waited(view, view.memory.short.get(partition)))
            can_stay = present - engines.hopeless(entry, entry.learners)
            result[partition] = _repair_one(view, entry, wanted[partition], can_stay, fill, syncs)
    return tuple(result)


def _all_pods_had_time(view: OperatorView, partition: int) -> bool:
    """A new cluster is placed on all its pods at once; those that do not come are not waited for for ever."""
    since = view.seen_at.get(partition)
    return since is not None and view.now - since >= view.timing.first_placement_wait


def _waited(view: OperatorView, since: float | None) -> bool:
    return since is not None and view.now - since >= view.timing.repair_delay


def _learners_of_lost(view: OperatorView, entry: Entry, wanted: tuple[str, ...], present: frozenset[str]) -> Entry:
    """Every learner whose pod is there stays, wherever the ring wants it: it may hold what is left."""
    staying = {pod.uid for pod in view.pods if not pod.terminating and not pod.failed} & set(entry.learners)
    lacking = max(0, len(wanted) - len(staying & present))
    missing = [pod for pod in wanted if pod not in staying][:lacking]
    return replace(entry, learners=tuple(sorted((*staying, *missing))))


def _first_learners(view: OperatorView, entry: Entry, wanted: tuple[str, ...], present: frozenset[str]) -> Entry:
    """Learners of a partition that never had data: they stay while they can, so that they are not chosen anew."""
    if entry.learners and set(entry.learners) <= present and len(entry.learners) >= len(wanted):
        return entry
    return replace(entry, learners=tuple(sorted(wanted)))


def down_learners(view: OperatorView) -> frozenset[tuple[int, str]]:
    """Partition and pod of learners whose process does not answer, by the word of their own agents."""
    entries = enumerate(view.map.entries) if view.map is not None else ()
    return frozenset(
        (partition, pod)
        for partition, entry in entries
        for pod in entry.learners
        if entry.state not in EMPTY and _is_down(view.agents.get(pod, PodView()), partition)
    )


def _is_down(agent: PodView, partition: int) -> bool:
    copy = agent.report.copies.get(partition) if agent.reporting and agent.report is not None else None
    return copy is not None and copy.process is not Process.UP


class _Stuck:
    """Learners whose process has not answered for the repair delay, as where the redis container ends again and again:
    they are no copies to wait for. `pods` are those of them on which no other process answers either: they get none."""

    def __init__(self, view: OperatorView) -> None:
        found = {learner for learner, since in view.memory.down.items() if _waited(view, since)}
        self._pods: dict[int, frozenset[str]] = {}
        for partition, pod in found:
            self._pods[partition] = self.of(partition) | {pod}
        self.pods = frozenset(pod for _, pod in found if not _has_process(view.agents.get(pod, PodView())))

    def of(self, partition: int) -> frozenset[str]:
        """The pods of a partition's stuck learners."""
        return self._pods.get(partition, frozenset())


def _has_process(agent: PodView) -> bool:
    return agent.report is not None and any(copy.process is Process.UP for copy in agent.report.copies.values())


class _Syncs:
    """Counts full syncs that may be under way: learners of serving partitions on pods that report, unless stuck."""

    def __init__(self, view: OperatorView, entries: tuple[Entry, ...], stuck: _Stuck) -> None:
        self.timing = view.timing
        alive = {uid for uid, agent in view.agents.items() if agent.reporting}
        learners = [
            pod
            for partition, entry in enumerate(entries)
            if entry.state is State.STABLE
            for pod in entry.learners
            if pod in alive and pod not in stuck.of(partition)
        ]
        self.by_pod = Counter(learners)
        self.total = len(learners)

    def start(self, pod: str) -> bool:
        """Take one more sync to this pod if the limits allow it."""
        if self.total >= self.timing.max_concurrent_syncs or self.by_pod[pod] >= self.timing.max_syncs_per_pod:
            return False
        self.total += 1
        self.by_pod[pod] += 1
        return True


def _repair_one(
    view: OperatorView,
    entry: Entry,
    wanted: tuple[str, ...],
    can_stay: frozenset[str],
    fill: bool,
    syncs: _Syncs,
) -> Entry:
    """One change at most: first learners that are gone or cannot be filled, then (`fill`) what is missing, then what is
    too much."""
    staying = tuple(pod for pod in entry.learners if pod in can_stay)
    if staying != entry.learners:
        return entry.changed(learners=staying)  # the primary may require it already: only a higher epoch lets it go
    have = entry.pods()
    missing = [pod for pod in wanted if pod not in have]
    if missing and fill:
        reporting = [pod for pod in missing if view.agents.get(pod, PodView()).reporting]
        for pod in reporting:
            if syncs.start(pod):
                return replace(entry, learners=tuple(sorted((*entry.learners, pod))))
    return _drop_surplus(view, entry, wanted)


def _drop_surplus(view: OperatorView, entry: Entry, wanted: tuple[str, ...]) -> Entry:
    """Drop a copy that is no longer wanted once all wanted ones are in sync; never the primary, and never one of the
    last `replicationFactor`: while pods are missing, fewer are wanted, and that is no reason to give up a copy."""
    in_sync = {copy.pod for copy in entry.isr}
    if len(wanted) < view.settings.replication_factor or not set(wanted) <= in_sync:
        return entry
    learners = tuple(pod for pod in entry.learners if pod in wanted)
    if learners != entry.learners:
        return entry.changed(learners=learners)  # see _repair_one
    surplus = [copy for copy in entry.isr if copy.pod not in wanted and copy != entry.primary]
    if not surplus:
        return entry
    isr = tuple(copy for copy in entry.isr if copy != surplus[0])
    return entry.changed(isr=isr, reason="a copy moved to its place on the ring", since=view.wall)


def short_partitions(view: OperatorView) -> frozenset[int]:
    """Partitions that have fewer copies on existing pods than asked for."""
    if view.map is None:
        return frozenset()
    keeping, stuck = keeping_pods(view), _Stuck(view)
    factor = view.settings.replication_factor
    return frozenset(
        partition
        for partition, entry in enumerate(view.map.entries)
        if len((entry.pods() & keeping) - stuck.of(partition)) < factor
    )
