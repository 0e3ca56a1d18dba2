"""What an agent tells others of the copy on its pod: the operator by its report, agents by words and news. Pure.

Of the marks only what is already in the pod table is told.
"""

from __future__ import annotations

from .agent_view import HandoverWord, TakenOver
from .copy_state import CopyState
from .gate_step import SHUT
from .hashring import CopyId, State
from .report import CopyReport, Process


def worth_reporting(state: CopyState) -> bool:
    """A partition of which this pod has nothing is left out, unless a gate of it may be open."""
    return state.copy.process is not Process.ABSENT or not state.shut or state.named


def report_of(state: CopyState) -> CopyReport:
    """The copy as the view shows it."""
    copy, marks, gate, entry = state.copy, state.marks, state.gate, state.entry
    open_now = gate.gate_epoch != SHUT and state.view.now_ns < gate.deadline_ns
    asked = entry is not None and entry.state in (State.ELECTING, State.LOST) and entry.epoch == marks.seen_epoch
    sealed = asked and entry is not None and state.sealed and not state.is_promised(entry, marks)
    confirmed = open_now and gate.confirmed and marks.required_epoch == gate.gate_epoch
    return CopyReport(
        process=copy.process,
        run_id=copy.run_id,
        epoch=marks.seen_epoch,
        born_epoch=marks.born_epoch if state.adopted else 0,
        intact=state.intact,
        role="master" if copy.source is None and copy.process is Process.UP else "slave",
        gate_epoch=gate.gate_epoch if open_now else SHUT,
        shut_epoch=marks.seen_epoch if state.shut else 0,
        sealed_epoch=marks.seen_epoch if sealed else 0,
        term=marks.rank_term if state.adopted else 0,
        offset=copy.offset,
        link_up=copy.link_up,
        syncing=copy.syncing,
        lagging=_lagging(state) if open_now else (),
        required_epoch=marks.required_epoch if confirmed else 0,
        required=_held(state) if confirmed else (),
        taken_over_epoch=marks.taken_over_epoch if state.adopted else 0,
        gave_up_epoch=marks.hand_over.epoch if state.adopted and marks.hand_over.gave_up else 0,
        used_memory=copy.used_memory,
        keys=copy.keys,
        silent_s=copy.silent_s,
    )


def news_of(state: CopyState) -> TakenOver | None:
    """That this copy serves by a token: what every agent should know without waiting for the map."""
    entry = state.entry
    if entry is None or entry.state is not State.MOVING or entry.successor != state.identity:
        return None
    serves = state.marks.taken_over_epoch == state.gate.gate_epoch == entry.epoch
    return TakenOver(entry.epoch, state.identity) if serves and state.copy.source is None else None


def word_of(state: CopyState) -> HandoverWord:
    """The answer to a hand-over message, from what is already so."""
    assert state.entry is not None
    copy = state.copy
    linked = state.intact and copy.link_up and not copy.busy
    return HandoverWord(
        copy=state.identity,
        epoch=state.marks.seen_epoch,
        offset=copy.offset,
        following=linked and copy.source == state.address(state.entry.primary),
        taken_over_epoch=state.marks.taken_over_epoch if news_of(state) is not None else 0,
    )


def _held(state: CopyState) -> tuple[CopyId, ...]:
    """The required copies; with sync, those that hold everything that was answered before they were required. An agent
    without a map knows neither whether that matters nor who is in sync: it vouches for no more than has caught up."""
    if state.view.map is not None and not state.view.map.settings.sync:
        return state.marks.required
    isr = state.entry.isr if state.entry is not None else ()
    known = state.marks.required_offset
    caught_up = {it.copy for it in state.copy.attached if it.online and it.offset >= known >= 0}
    return tuple(copy for copy in state.marks.required if copy in isr or copy in caught_up)


def _lagging(state: CopyState) -> tuple[CopyId, ...]:
    """In-sync members, and those that are required beside them, that are not attached, or behind by more than
    `isrMaxLagBytes`: with sync, writes wait for each of them. A primary that has just taken over gives them time to
    attach: one that is let go at once is missing when the primary fails a moment later."""
    entry, marks = state.entry, state.marks
    if entry is None or entry.primary != state.identity or state.copy.settled_offset < 0:
        return ()
    required = marks.required if marks.required_epoch == entry.epoch else ()
    return tuple(sorted({*entry.isr, *required} - {state.identity} - state.in_step()))
