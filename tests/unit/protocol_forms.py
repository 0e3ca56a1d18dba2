"""Canonical forms: worlds that no step function can tell apart, now or later, become one.

* Times are kept relative to now, and no older than `longest`: beyond that every comparison has the same outcome.
* Deadlines in the past are all the same, those that never come are, and so are the times of a hand-over whose outcome
  is recorded.
* A gate's generation only counts: routers confirm at once here. The deadline of a shut gate lets nothing in.
* Of a report only what the operator's rules can still read is kept: what it says of epochs below the map's entry is
  only ever compared for equality with it, or for being at least as high, and fails either way; offsets and terms are
  read of sealed copies only. Where the map may be lost (`Rules.whole_reports`) reports are kept as they are.
* Of marks, and without time of messages and news, only what is of the highest epoch seen, or above it, is kept: nothing
  below that floor is acted on (checked in `test_protocol_forms`). A shut gate remembers the set that it required, but
  no confirmation of it. When a process was born matters only to a partition that begins anew, which is never so
  without time. Of a rank term only whether there is one: all sealed copies of an in-sync set have that of the entry.
* What is for people (reasons) is left out; a map's version is its epoch and its learners, which never come again.

What else keeps the number of worlds small stands in `protocol_actions`. Pods are not interchangeable: the placement
tells them apart by their names.
"""

from __future__ import annotations

from dataclasses import fields, replace
from math import ceil

from protocol_values import CLOCK, NOW_NS, TICK_NS, Agent, Frozen, Operator, Rules, World, put, remembered

from cachecluster_core import agent_step as a
from cachecluster_core import operator_step as o
from cachecluster_core.gate_step import SHUT
from cachecluster_core.hashring import Entry, HashRing, State
from cachecluster_core.pod_table import HandOver, Marks
from cachecluster_core.report import CopyReport, Report

NEVER_S = 100_000.0
"""Settings from here on mean: never."""


def longest(rules: Rules) -> int:
    """Seconds after which the age of anything makes no difference any more."""
    settings, timing = rules.settings, rules.timing
    waits = [getattr(timing, it.name) for it in fields(timing) if isinstance(getattr(timing, it.name), float)]
    waits += [settings.authority_s, settings.lost_after_s, settings.outage_s]
    finite = max(wait for wait in waits if wait < NEVER_S)
    return ceil(finite * timing.clock_rate + max(0.0, timing.wait_margin)) + 1


def longest_of_agents(rules: Rules) -> int:
    """The same for what agents remember of reads: nothing depends on more than their authority."""
    settings = rules.settings
    waits = (settings.lost_after_s, settings.outage_s)
    return ceil(max([settings.authority_s, *(wait for wait in waits if wait < NEVER_S)]))


def agent_form(agent: Agent, rules: Rules) -> Agent:
    """An agent without what can make no difference."""
    marks, gate, ring = agent.marks, agent.gate, agent.map
    authority = round(rules.settings.authority_s)
    if rules.timeless and ring is not None and ring.entries[0].epoch < marks.seen_epoch:
        agent = replace(agent, map=None, confirmed_at=0)
    return replace(
        agent,
        confirmed_at=max(agent.confirmed_at, CLOCK - longest_of_agents(rules)) if agent.confirmed_at else 0,
        marks=_marks_form(marks, gate.gate_epoch == SHUT, rules.timeless),
        gate=replace(gate, generation=0, deadline_ns=_deadline_form(gate)),
        taken=agent.taken if rules.whole_reports else None,
        word=agent.word if agent.word is not None and agent.word.epoch >= marks.seen_epoch else None,
        asked=None if rules.timeless and agent.asked and agent.asked.epoch < marks.seen_epoch else agent.asked,
        news=None if rules.timeless and agent.news and agent.news.epoch < marks.seen_epoch else agent.news,
        promises=tuple(it for it in agent.promises if it[1].asked_at_ns > NOW_NS - authority * TICK_NS),
        given=tuple(it for it in agent.given if it[1].asked_at_ns > NOW_NS - authority * TICK_NS),
    )


def _deadline_form(gate: a.GateView) -> int:
    """One that never comes stays as far away."""
    never = NOW_NS + round(NEVER_S) * TICK_NS
    if gate.gate_epoch == SHUT:
        return 0
    return never if gate.deadline_ns > (NOW_NS + never) // 2 else max(gate.deadline_ns, NOW_NS)


def _marks_form(marks: Marks, shut: bool, timeless: bool) -> Marks:
    floor, requires = marks.seen_epoch, marks.required_epoch
    confirmable = requires >= floor and not shut
    promised = marks.promised_until_ns > NOW_NS
    return replace(
        marks,
        rank_term=min(1, marks.rank_term) if timeless else marks.rank_term,
        born_epoch=marks.born_epoch if marks.born_epoch >= floor and not timeless else 0,
        required_epoch=requires if requires >= floor else 0,
        required=marks.required if requires >= floor else (),
        required_since_ns=min(1, marks.required_since_ns) if confirmable else 0,
        required_offset=marks.required_offset if confirmable else -1,
        promised_epoch=marks.promised_epoch if promised or marks.promised_epoch > floor else 0,
        promised_until_ns=marks.promised_until_ns if promised else 0,
        hand_over=_hand_over_form(marks.hand_over) if marks.hand_over.epoch >= floor else HandOver(),
        taken_over_epoch=marks.taken_over_epoch if marks.taken_over_epoch >= floor else 0,
    )


def _hand_over_form(hand: HandOver) -> HandOver:
    if hand.gave_up or hand.token_offset >= 0:
        return replace(hand, since_ns=1, shut_ns=1)
    since, shut = (max(ns, NOW_NS - 3 * TICK_NS) if ns else 0 for ns in (hand.since_ns, hand.shut_ns))
    return replace(hand, since_ns=min(since, NOW_NS), shut_ns=min(shut, NOW_NS))


def without_stale_tokens(world: World) -> World:
    """Without time: none of the tokens that nobody will ever take, because the copy has ended, or its agent has seen a
    higher epoch. With time they are kept: that no old token is taken is for the explorations to show."""
    if not world.tokens or not world.rules.timeless:
        return world
    live = frozenset(token for token in world.tokens if _may_be_taken(world, token))
    return world if live == world.tokens else put(world, tokens=live)


def _may_be_taken(world: World, token: a.HandoverMessage) -> bool:
    heir = world.index(token.successor)
    redis, marks = world.redis[heir], world.agents[heir].marks
    return redis.up and token.successor.run_id == f"r{redis.run}" and token.epoch >= marks.seen_epoch


def older_agent(agent: Agent, rules: Rules) -> Agent:
    """An agent a second later."""

    def make() -> Agent:
        marks, hand = agent.marks, agent.marks.hand_over
        older = replace(
            agent,
            confirmed_at=agent.confirmed_at - 1 if agent.confirmed_at else 0,
            marks=replace(
                marks,
                promised_until_ns=marks.promised_until_ns - TICK_NS,
                hand_over=replace(
                    hand,
                    since_ns=hand.since_ns - TICK_NS if hand.since_ns > 1 else hand.since_ns,
                    shut_ns=hand.shut_ns - TICK_NS if hand.shut_ns > 1 else hand.shut_ns,
                ),
            ),
            gate=replace(agent.gate, deadline_ns=agent.gate.deadline_ns - TICK_NS),
            promises=tuple((pod, replace(it, asked_at_ns=it.asked_at_ns - TICK_NS)) for pod, it in agent.promises),
            given=tuple((pod, replace(it, asked_at_ns=it.asked_at_ns - TICK_NS)) for pod, it in agent.given),
            read=(max(agent.read[0] - 1, CLOCK - longest_of_agents(rules)), agent.read[1]) if agent.read else None,
        )
        return agent_form(older, rules)

    return remembered(("older", agent), make)


def older_operator(operator: Operator, rules: Rules) -> Operator:
    """An operator a second later."""

    def make() -> Operator:
        oldest = CLOCK - longest(rules)
        memory = o.Memory(
            *(
                Frozen({key: max(since - 1, oldest) for key, since in getattr(operator.memory, it.name).items()})
                for it in fields(o.Memory)
            )
        )
        heard = tuple(max(since - 1, oldest) for since in operator.heard)
        return replace(operator, seen_at=max(operator.seen_at - 1, oldest), memory=memory, heard=heard)

    return remembered(("older", operator), make)


def older(world: World) -> World:
    """Everything a second later."""
    return put(
        world,
        agents=tuple(older_agent(agent, world.rules) for agent in world.agents),
        operators=tuple(older_operator(operator, world.rules) for operator in world.operators),
    )


def report_form(report: Report, entry: Entry | None, rules: Rules) -> Report:
    """A report without what no rule of the operator reads of it (any more)."""
    report = replace(report, authority_s=0.0, routers=1)
    if rules.whole_reports or entry is None:
        return replace(report, copies=Frozen(report.copies), entries=Frozen(report.entries))
    copies = Frozen({partition: _copy_form(copy, entry, rules.timeless) for partition, copy in report.copies.items()})
    return replace(report, copies=copies, entries=Frozen(), version="")


def _copy_form(copy: CopyReport, entry: Entry, timeless: bool) -> CopyReport:
    def current(epoch: int) -> int:
        return epoch if epoch >= entry.epoch else 0

    sealed, requires = current(copy.sealed_epoch), current(copy.required_epoch)
    return replace(
        copy,
        epoch=current(copy.epoch),
        born_epoch=0 if timeless else current(copy.born_epoch),
        role="",
        gate_epoch=copy.gate_epoch if copy.gate_epoch >= entry.epoch else min(copy.gate_epoch, 1),
        shut_epoch=current(copy.shut_epoch),
        sealed_epoch=sealed,
        term=copy.term if sealed or entry.state is State.LOST else 0,
        offset=copy.offset if sealed else 0,
        required_epoch=requires,
        required=copy.required if requires else (),
        taken_over_epoch=current(copy.taken_over_epoch),
        gave_up_epoch=current(copy.gave_up_epoch),
    )


def operator_form(operator: Operator, rules: Rules) -> Operator:
    """An operator whose reports are in their forms for the map that it knows."""

    def make() -> Operator:
        entry = operator.map.entries[0] if operator.map is not None else None
        reports = tuple(it and report_form(it, entry, rules) for it in operator.reports)
        return replace(operator, reports=reports)

    return remembered(("form", operator), make)


def map_form(ring: HashRing) -> HashRing:
    """A map as it is written here: equal maps are the same object."""
    entries = tuple(replace(entry, reason="", since=0.0) for entry in ring.entries)
    formed = replace(ring, entries=entries, version=f"{entries[0].epoch}.{len(entries[0].learners)}")
    return remembered(("map", formed), lambda: formed)


def gate_is_open(gate: a.GateView) -> bool:
    """The gate lets commands in now."""
    return gate.gate_epoch != SHUT and gate.deadline_ns > NOW_NS
