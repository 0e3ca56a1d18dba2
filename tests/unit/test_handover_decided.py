"""`agent_step` on single views of a hand-over: what the primary and the successor record, say, and never do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachecluster_core.agent_step import (
    NOWHERE,
    AgentDecision,
    AgentView,
    CopyView,
    Follow,
    GateView,
    HandoverMessage,
    HandoverWord,
    Promote,
    Seal,
    TakenOver,
    agent_step,
)
from cachecluster_core.gate_step import SHUT
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_core.pod_table import HandOver, Marks, decode_marks, encode_marks
from cachecluster_core.report import Process

pytestmark = pytest.mark.t0

P, S, R = (CopyId(f"uid-{x}", f"r{x}") for x in "psr")
MEMBERS = tuple((f"uid-{x}", Member(f"demo-{x}", f"h{x}")) for x in "prs")
ENTRY = Entry(epoch=6, state=State.MOVING, primary=P, successor=S, isr=(P, R, S), term=5)
SECOND = 10**9
NOW = 100 * SECOND
MARKS = Marks(seen_epoch=6, rank_term=5, required=(P, R, S), required_epoch=6)
READY = HandoverWord(S, 6, offset=90, following=True, taken_over_epoch=0)
SERVES = CopyView(Process.UP, "rp", offset=100, replid="h")
SEALED = replace(SERVES, source=NOWHERE, has_stream=True)
FOLLOWS = CopyView(Process.UP, "rs", ("hp", 17000), True, has_stream=True, offset=100, replid="h", announce=str(S))
OPEN = GateView(6, 3, NOW + SECOND, confirmed=True)
CLOSED = GateView(SHUT, 4, NOW + SECOND, confirmed=True)
TOKEN = HandoverMessage(0, 6, P, S, 100, "h", token=True, required=(P, R, S))


def step(copy: CopyId, seen: CopyView, gate: GateView, marks: Marks = MARKS, **more: object) -> AgentDecision:
    """One pass of the agent of this copy, by `ENTRY` or by the `entry` given."""
    ring = HashRing("demo", MEMBERS, (more.pop("entry", ENTRY),), version="7")  # type: ignore[arg-type]
    known = {0: replace(marks, run_id=copy.run_id)}
    view = AgentView(copy.pod, ring, NOW - SECOND, NOW, {}, known, {0: gate}, {0: seen})
    return agent_step(replace(view, **more))  # type: ignore[arg-type]


def begun(age_s: float = 0.05, **changes: object) -> Marks:
    """The marks of a primary that shut its gate for the hand-over so long ago."""
    mark = HandOver(6, NOW - SECOND, NOW - round(age_s * SECOND))
    return replace(MARKS, hand_over=replace(mark, **changes))  # type: ignore[arg-type]


def test_the_primary_serves_and_asks_until_the_successor_is_ready() -> None:
    decision = step(P, SERVES, OPEN)
    assert decision.messages == (HandoverMessage(0, 6, P, S),) and not decision.commands
    for word in (replace(READY, following=False), replace(READY, epoch=5), replace(READY, copy=R)):
        assert not any(change.gate_epoch == SHUT for change in step(P, SERVES, OPEN, words={0: word}).gates)
    ready = step(P, SERVES, OPEN, words={0: READY})
    assert ready.marks[0].hand_over.shut_ns == NOW
    assert [(change.gate_epoch, change.patient) for change in ready.gates] == [(SHUT, True)]


def test_the_primary_demotes_itself_only_once_every_router_has_confirmed_the_shut_gate() -> None:
    assert not step(P, SERVES, replace(CLOSED, confirmed=False), begun(), words={0: READY}).commands
    assert step(P, SERVES, CLOSED, begun(), words={0: READY}).commands == (Seal(0),)


def test_the_token_is_recorded_before_it_is_sent_and_only_when_the_successor_has_everything() -> None:
    waiting = step(P, SEALED, CLOSED, begun(), words={0: READY})
    assert waiting.messages == (HandoverMessage(0, 6, P, S, 100, "h"),)
    decision = step(P, SEALED, CLOSED, begun(), words={0: replace(READY, offset=100)})
    assert decision.marks[0].hand_over.token_offset == 100 and decision.messages == (TOKEN,)
    assert decode_marks(encode_marks(decision.marks[0], 1)) == (1, decision.marks[0])


def test_the_primary_gives_up_in_time_and_serves_again_at_the_same_epoch() -> None:
    late = step(P, SEALED, CLOSED, begun(0.3), words={0: READY})
    assert late.marks[0].hand_over.gave_up and late.commands == (Promote(0),) and not late.messages
    again = step(P, SERVES, CLOSED, begun(0.3, gave_up=True), words={0: replace(READY, offset=100)})
    assert [change.gate_epoch for change in again.gates] == [6] and not again.messages
    assert again.report is not None and again.report.copies[0].gave_up_epoch == 6
    unready = step(P, SERVES, OPEN, replace(MARKS, hand_over=HandOver(6, NOW - 3 * SECOND)))
    assert unready.marks[0].hand_over.gave_up


def test_after_the_token_nothing_makes_the_old_primary_serve_again() -> None:
    sent = begun(60.0, token_offset=100)
    for seen in (SEALED, SERVES):
        decision = step(P, seen, CLOSED, sent)
        assert not decision.gates and Promote(0) not in decision.commands
        assert decision.messages == (TOKEN,)
    follows = (Follow(0, "hs", 17000, str(P)),)
    assert step(P, SEALED, CLOSED, sent, taken_over={0: TakenOver(6, S)}).commands == follows
    word = replace(READY, taken_over_epoch=6)
    decision = step(P, SEALED, CLOSED, sent, words={0: word})
    assert decision.commands == follows and not decision.messages


def test_the_successor_takes_over_on_exactly_its_token_once_it_has_everything() -> None:
    strangers = [
        replace(TOKEN, epoch=5),
        replace(TOKEN, token=False),
        replace(TOKEN, successor=replace(S, run_id="other")),
        replace(TOKEN, offset=101),
        replace(TOKEN, replid="another history"),
        replace(TOKEN, primary=R),
    ]
    for message in strangers:
        decision = step(S, FOLLOWS, CLOSED, asked={0: message})
        assert not decision.commands and all(not marks.taken_over_epoch for marks in decision.marks.values()), message
    decision = step(S, FOLLOWS, CLOSED, asked={0: TOKEN})
    assert decision.marks[0].taken_over_epoch == 6 and decision.marks[0].required == (P, R, S)
    assert decision.commands == (Promote(0),) and not decision.news


def test_the_successor_does_not_take_over_without_authority() -> None:
    decision = step(S, FOLLOWS, CLOSED, asked={0: TOKEN}, confirmed_at_ns=NOW - 4 * SECOND)
    assert not decision.commands and not any(marks.taken_over_epoch for marks in decision.marks.values())


def test_the_successor_serves_at_the_epoch_of_the_token_and_then_tells_everybody() -> None:
    taken = replace(MARKS, taken_over_epoch=6)
    master = replace(FOLLOWS, source=None, link_up=False)
    opened = step(S, master, CLOSED, taken)
    assert [change.gate_epoch for change in opened.gates] == [6] and not opened.news
    serving = step(S, master, OPEN, taken, asked={0: TOKEN})
    assert serving.news == {0: TakenOver(6, S)} and serving.answers[0].taken_over_epoch == 6
    assert serving.report is not None and serving.report.copies[0].taken_over_epoch == 6


def test_the_other_members_follow_the_successor_as_soon_as_they_hear_of_it() -> None:
    follows = replace(FOLLOWS, run_id="rr", announce=str(R))
    assert not step(R, follows, CLOSED).commands
    assert step(R, follows, CLOSED, taken_over={0: TakenOver(5, S)}).commands == ()
    assert step(R, follows, CLOSED, taken_over={0: TakenOver(6, S)}).commands == (Follow(0, "hs", 17000, str(R)),)


def test_an_election_ends_a_hand_over_on_both_sides() -> None:
    electing = Entry(epoch=7, state=State.ELECTING, isr=(P, R, S), former=(P, S), term=5)
    assert step(P, SEALED, CLOSED, begun(), entry=electing).messages == ()
    master = replace(FOLLOWS, source=None, link_up=False)
    decision = step(S, master, OPEN, replace(MARKS, taken_over_epoch=6), entry=electing, asked={0: TOKEN})
    assert [change.gate_epoch for change in decision.gates] == [SHUT] and not decision.news


def test_a_replica_that_was_refused_by_a_primary_not_yet_promoted_asks_again() -> None:
    stable = Entry(epoch=6, state=State.STABLE, primary=P, isr=(P, R, S), term=6)
    refused = replace(FOLLOWS, link_up=False)
    assert not step(S, refused, CLOSED, entry=stable).commands
    again = step(S, replace(refused, ask_again=True), CLOSED, entry=stable)
    assert again.commands == (Follow(0, "hp", 17000, str(S), anew=True),)
    empty = replace(refused, ask_again=True, has_stream=False)
    assert not step(S, empty, CLOSED, entry=stable).commands
