"""`agent_step`: what an agent does next about the copies of its pod. Pure, level-triggered, callable at any moment.

Implements A0-A8 (docs/protocol.md); routers do the waiting for acknowledgements of A7. The shell around it observes,
calls this, and carries the decision out in the order marks, gates, commands; then it observes and calls again. The
step never assumes that an earlier decision was carried out: it looks at what is. At most one command per copy a step.
"""

from __future__ import annotations

from dataclasses import replace

from .agent_view import (
    NOWHERE,
    AgentDecision,
    AgentView,
    Attached,
    Command,
    Configure,
    CopyView,
    Follow,
    GateChange,
    GateView,
    HandoverMessage,
    HandoverWord,
    Promise,
    PromiseAsk,
    Promote,
    Remove,
    Restart,
    Seal,
    Start,
    TakenOver,
)
from .copy_report import news_of, report_of, word_of, worth_reporting
from .copy_state import CopyState
from .gate_step import SHUT
from .handover import has_taken_over, is_sent, is_shutting, primary_step, token_for
from .hashring import CopyId, Entry, State
from .pod_table import Marks
from .promises import asks, authority_until, may_promise, promise_until
from .report import Process, Report

__all__ = [
    "NOWHERE",
    "AgentDecision",
    "AgentView",
    "Attached",
    "Command",
    "Configure",
    "CopyView",
    "Follow",
    "GateChange",
    "GateView",
    "HandoverMessage",
    "HandoverWord",
    "Promise",
    "PromiseAsk",
    "Promote",
    "Remove",
    "Restart",
    "Seal",
    "Start",
    "TakenOver",
    "agent_step",
]

HUNG_S = 10.0
"""Seconds of silence after which a redis process outside the in-sync set is replaced: it may never wake."""


def agent_step(view: AgentView) -> AgentDecision:
    """The next marks, gate changes and commands, and the report that describes `view`: of all partitions, or `only` of
    those that it names."""
    steps = [_CopyStep(view, partition) for partition in sorted(_concerned(view))]
    for step in steps:
        step.decide()
    return AgentDecision(
        marks={step.partition: step.new_marks for step in steps if step.new_marks != step.marks},
        gates=tuple(step.gate_change for step in steps if step.gate_change is not None),
        commands=tuple(step.command for step in steps if step.command is not None),
        report=_report(view, steps),
        messages=tuple(step.message for step in steps if step.message is not None),
        news={step.partition: news for step in steps if (news := news_of(step)) is not None},
        answers={step.partition: word_of(step) for step in steps if step.partition in view.asked and step.entry},
        asks=_asks(steps),
        promised={
            pod: frozenset(step.partition for step in steps if pod in step.promised) for pod in view.promise_asks
        },
    )


def _concerned(view: AgentView) -> set[int]:
    """The partitions of which this pod has something, or should, or is asked for."""
    if view.only is not None:
        return set(view.only)
    partitions = set(view.copies) | set(view.marks) | set(view.gates)
    if view.map is not None:
        partitions |= {p for p, entry in enumerate(view.map.entries) if view.pod in entry.pods()}
    return partitions | {p for asked in view.promise_asks.values() for p in asked}


def _asks(steps: list[_CopyStep]) -> dict[str, dict[int, PromiseAsk]]:
    """By pod and partition, instead of the other way round."""
    by_pod: dict[str, dict[int, PromiseAsk]] = {}
    for step in steps:
        for pod, ask in step.asks.items():
            by_pod.setdefault(pod, {})[step.partition] = ask
    return by_pod


def _report(view: AgentView, steps: list[_CopyStep]) -> Report:
    behind = view.map is None or any(step.entry is None for step in steps)
    return Report(
        pod=view.pod,
        incarnation="",
        version="" if view.map is None else view.map.version,
        authority_s=(_deadline_ns(view) - view.now_ns) / 1e9,
        copies={step.partition: report_of(step) for step in steps if worth_reporting(step)},
        entries=view.taken if behind else {},
        blind=view.read_failing,
    )


def _deadline_ns(view: AgentView) -> int:
    """Until when the last quorum read gives authority; in the past when there is no map."""
    if view.map is None:
        return 0
    return view.confirmed_at_ns + round(view.map.settings.authority_s * 1e9)


class _CopyStep(CopyState):
    """The decision about one partition's copy on this pod."""

    def __init__(self, view: AgentView, partition: int) -> None:
        super().__init__(view, partition)
        self.new_marks = self.marks
        self.gate_change: GateChange | None = None
        self.command: Command | None = None
        self.message: HandoverMessage | None = None
        self.asks: dict[str, PromiseAsk] = {}
        self.promised: set[str] = set()

    def decide(self) -> None:
        """Fill `new_marks`, `gate_change`, `command`, and what is to be said."""
        if self.entry is not None:
            self._obey(self.entry)
        self._promise()

    def _obey(self, entry: Entry) -> None:
        """Bring the copy and its gate to what the map says."""
        assert entry.epoch >= self.marks.seen_epoch, "acted below the floor"
        if entry.epoch != self.marks.seen_epoch:
            self.new_marks = replace(self.marks, seen_epoch=entry.epoch)
        self._recognise_process()
        if self.new_marks.run_id == self.copy.run_id != "" and self.identity in entry.isr:
            # The map's word that this term's primary had it in sync, even if its link was never seen up here.
            self._raise_term(entry.term)
        if entry.state is State.MOVING:
            self._hand_over(entry)
        if self._may_open(entry):
            self._open(entry)
        else:
            self._shut()
        if not self.copy.busy:
            self.command = self._command(entry)

    def _promise(self) -> None:
        """Answer those who ask not to be superseded while the API server is away (A8)."""
        serving = not self.shut or (self.gate_change is not None and self.gate_change.gate_epoch != SHUT)
        for pod, asked in self.view.promise_asks.items():
            ask = asked.get(self.partition)
            if ask is not None and may_promise(self.view, self.new_marks, ask, serving):
                until = promise_until(self.new_marks, ask, self.view.now_ns)
                self.new_marks = replace(self.new_marks, promised_epoch=ask.epoch, promised_until_ns=until)
                self.promised.add(pod)

    def _raise_term(self, term: int) -> None:
        if term > self.new_marks.rank_term:
            self.new_marks = replace(self.new_marks, rank_term=term)

    def _recognise_process(self) -> None:
        """A process with a run_id that the marks do not know is a copy without history."""
        run_id = self.copy.run_id
        if self.copy.process is not Process.UP or run_id in ("", self.marks.run_id):
            return
        started_by_us = self.marks.run_id == ""
        self.new_marks = replace(
            self.new_marks,
            run_id=run_id,
            rank_term=0,
            born_epoch=self.marks.born_epoch if started_by_us else 0,
            required=(),
            required_epoch=0,
        )

    def _hand_over(self, entry: Entry) -> None:
        """Record and say what the primary (A5) or the successor (A6) of a `Moving` entry has to."""
        if entry.primary == self.identity:
            gate_open = self.gate.gate_epoch == entry.epoch and self.gate.confirmed
            at_rest = self.copy.process is Process.UP and not self.copy.busy
            sealed = at_rest and self.shut and self.copy.source == NOWHERE
            mark, self.message = primary_step(
                self.view, self.partition, entry, self.new_marks, self.copy, gate_open, sealed
            )
            self.new_marks = replace(self.new_marks, hand_over=mark)
        elif self.intact and self.shut and not self.copy.busy and self.view.now_ns < _deadline_ns(self.view):
            token = token_for(self.view, self.partition, entry, self.identity, self.copy)
            if token is not None:
                self.new_marks = replace(
                    self.new_marks,
                    taken_over_epoch=entry.epoch,
                    required=tuple(sorted({*token.required, *entry.isr})),
                    required_epoch=entry.epoch,
                )

    def _leads(self, entry: Entry) -> bool:
        """The copy that runs here is the one that may serve by this entry."""
        if entry.state is State.STABLE:
            return entry.primary == self.identity
        if entry.state is not State.MOVING:
            return False
        if entry.primary == self.identity:
            mark = self.new_marks.hand_over
            return not is_shutting(mark, entry.epoch) and not is_sent(mark, entry.epoch)
        return entry.successor == self.identity and self.new_marks.taken_over_epoch == entry.epoch

    def _may_open(self, entry: Entry) -> bool:
        """A2, and only for a redis that already is a master; an open gate stays open while redis is busy or silent."""
        is_open = self.gate.gate_epoch != SHUT
        answers = (Process.UP, Process.SILENT) if is_open else (Process.UP,)
        return (
            self._leads(entry)
            and self.copy.process in answers
            and self.copy.source is None
            and (is_open or not self.copy.busy)
        )

    def _open(self, entry: Entry) -> None:
        """Open the gate, or keep it open at this epoch and authority; record what the primary requires (A7)."""
        gate, is_open = self.gate, self.gate.gate_epoch != SHUT
        required = self._required(entry)
        unchanged = is_open and (required, gate.gate_epoch) == (self.marks.required, self.marks.required_epoch)
        deadline = authority_until(self.view, self.partition, entry, required)
        if unchanged and gate.gate_epoch == entry.epoch:
            deadline = max(gate.deadline_ns, deadline)
        marks = self.new_marks
        if (marks.rank_term, marks.required, marks.required_epoch) != (entry.term, required, entry.epoch):
            self.new_marks = replace(marks, rank_term=entry.term, required=required, required_epoch=entry.epoch)
        self._note_confirmation(unchanged)
        self.asks = asks(self.view, entry, required)
        if unchanged and gate.gate_epoch == entry.epoch and gate.deadline_ns == deadline:
            return
        assert gate.gate_epoch <= entry.epoch, "a gate was open above the map"
        self.gate_change = GateChange(self.partition, entry.epoch, entry.epoch, deadline, not unchanged)

    def _note_confirmation(self, unchanged: bool) -> None:
        """Since when every router requires this set, and an offset of the primary from after that."""
        marks = self.new_marks
        if not unchanged:
            self.new_marks = replace(marks, required_since_ns=0, required_offset=-1)
        elif self.gate.confirmed and not marks.required_since_ns:
            self.new_marks = replace(marks, required_since_ns=self.view.now_ns)
        elif marks.required_since_ns and marks.required_offset < 0 and self.copy.observed_ns >= marks.required_since_ns:
            self.new_marks = replace(marks, required_offset=self.copy.offset)

    def _required(self, entry: Entry) -> tuple[CopyId, ...]:
        """The map's in-sync set and the learners that have caught up; at the same epoch it only grows, but for
        processes whose successor on the same pod is attached: they have ended.

        A learner that is called online has loaded everything, but the stream begins only some time later, up to a
        second: until then nothing that is written reaches it, and what is required of it would wait. While the map
        cannot be read no other pod is added: it could not join, and authority would depend on its promises.
        """
        streaming = {replica.copy for replica in self.copy.attached if replica.streams}
        ready = {copy for copy in self.in_step() & streaming if copy is not None and copy.pod in entry.learners}
        already = set(self.marks.required) if self.marks.required_epoch == entry.epoch else set()
        if self.view.read_failing:
            ready = {copy for copy in ready if copy.pod in {it.pod for it in already}}
        replaced = {copy.pod for copy in ready}
        already = {copy for copy in already if copy.pod not in replaced}
        return tuple(sorted(set(entry.isr) | ready | already))

    def _shut(self) -> None:
        """Shut an open gate. Its deadline stays: what is in flight may still be answered until then."""
        if self.gate.gate_epoch != SHUT:
            epoch = self.new_marks.seen_epoch
            patient = is_shutting(self.new_marks.hand_over, epoch)
            self.gate_change = GateChange(self.partition, epoch, SHUT, self.gate.deadline_ns, True, patient)

    def _command(self, entry: Entry) -> Command | None:
        copy = self.copy
        if self.view.pod not in entry.pods():
            return self._remove()
        if not self.shut and not (entry.primary == self.identity and copy.process is Process.UP):
            return None
        if copy.process in (Process.ABSENT, Process.DEAD):
            return self._start(entry)
        if copy.process is Process.SILENT and copy.silent_s >= HUNG_S and entry.copy_on(self.view.pod) is None:
            return self._restart(entry, f"it has not answered for {HUNG_S:.0f} s, and no data is lost with it")
        if copy.process is not Process.UP:
            return None
        return self._replicate(entry) or self._configure()

    def _remove(self) -> Command | None:
        if self.copy.process is Process.ABSENT or not self.shut:
            return None
        self.new_marks = Marks(seen_epoch=self.new_marks.seen_epoch)
        return Remove(self.partition)

    def _start(self, entry: Entry) -> Command:
        self._forget_process(entry)
        return Start(self.partition)

    def _restart(self, entry: Entry, reason: str) -> Command:
        self._forget_process(entry)
        return Restart(self.partition, reason)

    def _forget_process(self, entry: Entry) -> None:
        """The next process is another copy, born at this epoch and without history."""
        self.new_marks = replace(
            self.new_marks, run_id="", rank_term=0, born_epoch=entry.epoch, required=(), required_epoch=0
        )

    def _replicate(self, entry: Entry) -> Command | None:
        """Bring the process to the role that the map gives it."""
        match entry.state:
            case State.VACANT | State.LOST:
                if self.new_marks.born_epoch >= entry.epoch:
                    return None
                if self.intact and self.new_marks.rank_term == entry.term:
                    return self._seal(entry)  # nobody may hold more
                return self._restart(entry, f"left over from before the partition was {entry.state}")
            case State.ELECTING:
                return self._seal(entry)
            case State.STABLE | State.MOVING:
                if self._leads(entry):
                    return Promote(self.partition) if self.copy.source is not None else None
                if entry.state is State.MOVING:
                    return self._hand_over_or_follow(entry)
                return self._follow(entry, entry.primary)

    def _seal(self, entry: Entry) -> Command | None:
        settled = self.copy.source == NOWHERE or self.copy.syncing or self.is_promised(entry, self.new_marks)
        return None if settled else Seal(self.partition)

    def _hand_over_or_follow(self, entry: Entry) -> Command | None:
        """The former primary demotes itself and waits; everybody follows whoever serves."""
        taken_over = has_taken_over(self.view, self.partition, entry)
        if entry.primary == self.identity and not taken_over:
            return Seal(self.partition) if self.shut and self.copy.source is None else None
        return self._follow(entry, entry.successor if taken_over else entry.primary)

    def _follow(self, entry: Entry, leader: CopyId | None) -> Command | None:
        """A3. A process that held data and must take a full resync is started empty first: it is a new copy then."""
        assert leader is not None
        source = self.address(leader)
        if source is None or leader.pod == self.view.pod:
            return None
        if self.copy.syncing and self.marks.rank_term > 0 and self.adopted:
            return self._restart(entry, "a full resync began in a copy that held data")
        if self.copy.source != source or self.copy.announce != str(self.identity):
            return Follow(self.partition, *source, announce=str(self.identity))
        if self.copy.ask_again and self.copy.has_stream:
            return Follow(self.partition, *source, announce=str(self.identity), anew=True)
        if self.copy.link_up and not self.copy.syncing and self.new_marks.run_id == self.copy.run_id:
            self._raise_term(entry.term)
        return None

    def _configure(self) -> Command | None:
        assert self.view.map is not None
        if self.copy.syncing:
            return None
        have = dict(self.copy.config)
        wanted = tuple(item for item in self.view.map.settings.engine_config if have.get(item[0]) != item[1])
        return Configure(self.partition, wanted) if wanted else None
