"""Hand-over by token, the agents' half (A5, A6): one pure decision each for the primary and for its successor.

    Moving e: P serves and asks S whether it is ready   -> S has confirmed e and follows
    P shuts its gate, all routers confirm               -> nothing is in flight
    P demotes itself (REPLICAOF 127.0.0.1 1)            -> its offset X is final; connected replicas still get the rest
    S has reached X                                     -> P records the token, then sends it until it is answered
    S records the take-over, REPLICAOF NO ONE           -> S serves at e; P and the others follow it

Until the token is recorded P may give up, once and for all for this epoch, and serve again. Marks in the pod table
carry all of it over a restart of the agent.
"""

from __future__ import annotations

from dataclasses import replace

from .agent_view import AgentView, CopyView, HandoverMessage, HandoverWord
from .hashring import CopyId, Entry
from .pod_table import HandOver, Marks

START_S = 2.0
"""Seconds that a primary waits for a successor that is not ready before it gives the hand-over up."""


def is_shutting(mark: HandOver, epoch: int) -> bool:
    """The primary has begun to shut its gate for the hand-over of this epoch, and has neither sent a token nor given
    up."""
    return mark.epoch == epoch and mark.shut_ns > 0 and not mark.gave_up and not is_sent(mark, epoch)


def is_sent(mark: HandOver, epoch: int) -> bool:
    """A token of this epoch may be on its way: who recorded it is no primary any more."""
    return mark.epoch == epoch and mark.token_offset >= 0


def primary_step(
    view: AgentView, partition: int, entry: Entry, marks: Marks, copy: CopyView, gate_open: bool, sealed: bool
) -> tuple[HandOver, HandoverMessage | None]:
    """The mark to record and the message to send by the primary of a `Moving` entry.

    `gate_open`: every router serves at this epoch. `sealed`: every router has confirmed the gate shut, and redis
    follows nobody, so that its offset is final.
    """
    assert entry.primary is not None and entry.successor is not None and view.map is not None
    mark, epoch, now = marks.hand_over, entry.epoch, view.now_ns
    if mark.epoch != epoch:
        mark = HandOver(epoch, since_ns=now)
    word = _word(view, partition, entry)
    message = HandoverMessage(partition, epoch, entry.primary, entry.successor)
    if not mark.gave_up and mark.shut_ns == 0:
        if not 0 <= now - mark.since_ns < START_S * 1e9:
            return replace(mark, gave_up=True), None
        max_lag = view.map.settings.isr_max_lag_bytes
        if gate_open and word is not None and word.following and copy.offset - word.offset <= max_lag:
            return replace(mark, shut_ns=now), None
        return mark, message
    if is_shutting(mark, epoch):
        if sealed and word is not None and _has_all(copy, word):
            mark = replace(mark, token_offset=copy.offset)
        elif not 0 <= now - mark.shut_ns < view.map.settings.handover_timeout_s * 1e9:
            return replace(mark, gave_up=True), None
        else:
            return mark, replace(message, offset=copy.offset, replid=copy.replid) if sealed else None
    if is_sent(mark, epoch) and not has_taken_over(view, partition, entry):
        required = marks.required if marks.required_epoch == epoch else entry.isr
        return mark, replace(message, offset=mark.token_offset, replid=copy.replid, token=True, required=required)
    return mark, None


def _has_all(copy: CopyView, word: HandoverWord) -> bool:
    """The successor has everything that the demoted primary has."""
    return word.offset >= copy.offset


def token_for(
    view: AgentView, partition: int, entry: Entry, identity: CopyId, copy: CopyView
) -> HandoverMessage | None:
    """The token of exactly this epoch for exactly this copy, once the copy has reached its offset in its history."""
    asked = view.asked.get(partition)
    if asked is None or not asked.token or asked.epoch != entry.epoch or asked.primary != entry.primary:
        return None
    if not asked.successor == entry.successor == identity:
        return None
    return asked if copy.offset >= asked.offset >= 0 and copy.replid == asked.replid else None


def has_taken_over(view: AgentView, partition: int, entry: Entry) -> bool:
    """The successor of this `Moving` entry serves: it said so itself, in its answer or as news."""
    news = view.taken_over.get(partition)
    if news is not None and news.epoch == entry.epoch and news.copy == entry.successor:
        return True
    word = _word(view, partition, entry)
    return word is not None and word.taken_over_epoch == entry.epoch


def _word(view: AgentView, partition: int, entry: Entry) -> HandoverWord | None:
    word = view.words.get(partition)
    return word if word is not None and word.copy == entry.successor and word.epoch == entry.epoch else None
