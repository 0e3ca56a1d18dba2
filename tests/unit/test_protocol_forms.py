"""What the model checker leaves out of its worlds makes no difference to anybody: agents with and without it act alike.

Along random walks agents are given marks, messages and news from below their floor; the canonical form drops
them, and the shipped step function decides as if they were not there.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import protocol_values as v
import protocol_world as p
from modelcheck import random_step
from protocol_actions import answered, successors
from protocol_forms import agent_form, longest, older, report_form
from protocol_scenarios import COMPLETE, everything, timeless
from protocol_values import NOW_NS, Agent, Budget

from cachecluster_core import agent_step
from cachecluster_core import agent_step as a
from cachecluster_core.gate_step import SHUT
from cachecluster_core.hashring import CopyId, HashRing
from cachecluster_core.pod_table import HandOver

pytestmark = pytest.mark.t0


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    v.forget()
    yield
    v.forget()


def with_stale_things(agent: Agent, pod: int, chance: random.Random, current: HashRing | None) -> Agent:
    """The agent with a map, marks, messages and news from below its floor, a process born at any epoch, and, at a shut
    gate, a confirmation."""
    marks = agent.marks
    old = marks.seen_epoch - 1 - chance.randrange(2)
    here, there = CopyId(f"pod{pod}", marks.run_id), CopyId(f"pod{1 - pod}", "r1")
    if chance.random() < 0.5 and marks.hand_over == HandOver():
        offset, gave_up = chance.choice([(-1, False), (-1, True), (2, False)])
        marks = replace(marks, hand_over=HandOver(old, NOW_NS - 5, NOW_NS - 3, offset, gave_up))
    if chance.random() < 0.5 and not marks.taken_over_epoch:
        marks = replace(marks, taken_over_epoch=old)
    if chance.random() < 0.5:
        marks = replace(marks, born_epoch=marks.seen_epoch - chance.randrange(3))
    if agent.gate.gate_epoch == SHUT:
        if chance.random() < 0.5 and not marks.required_epoch:
            marks = replace(marks, required_epoch=old, required=(here, there))
        if chance.random() < 0.5:
            marks = replace(marks, required_since_ns=NOW_NS - 7, required_offset=1)
    if chance.random() < 0.5 and agent.map is None and current is not None and old > 0:
        entry = replace(current.entries[0], epoch=old, term=min(old, current.entries[0].term))
        agent = replace(agent, map=replace(current, entries=(entry,)), confirmed_at=v.CLOCK)
    asked = a.HandoverMessage(0, old, there, here, 1, token=True, required=(here, there))
    return replace(
        agent,
        marks=marks,
        asked=agent.asked or (asked if chance.random() < 0.5 else None),
        news=agent.news or (a.TakenOver(old, there) if chance.random() < 0.5 else None),
    )


def told(world: v.World, pod: int) -> a.Report:
    """What the agent would report."""
    made = p.decide(world, pod).report
    assert made is not None
    return made


def compare_along_a_walk(seed: int) -> int:
    """How many agents were compared with the same ones that know stale things. AssertionError: they differ."""
    chance = random.Random(seed)
    start = timeless(2, Budget(writes=2, kills=1, agent_restarts=2), 12, to_rest=seed % 2 == 0)
    world, compared = start, 0
    for _ in range(300):
        step = random_step(world, chance)
        world = step[1] if step is not None else start
        for pod, agent in enumerate(world.agents):
            stale = with_stale_things(agent, pod, chance, world.map)
            if stale == agent:
                continue
            compared += 1
            assert agent_form(stale, world.rules) == agent
            other = v.put(world, agents=v.swap(world.agents, pod, stale))
            for late in (False, True):
                one, two = (p.run_agent(it, pod, late=late) for it in (world, other))
                assert agent_form(two.agents[pod], world.rules) == one.agents[pod]
                assert (two.redis, two.tokens) == (one.redis, one.tokens)
            reports = [report_form(r, world.entry, world.rules) for r in map(told, (world, other), (pod, pod))]
            assert reports[0] == reports[1]
    return compared


@pytest.mark.parametrize("seed", range(4))
def test_what_is_below_the_floor_makes_no_difference(seed: int) -> None:
    assert compare_along_a_walk(seed) > 150


def test_a_token_from_below_the_floor_that_is_taken_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_epoch(view: a.AgentView, partition: int, *_: object) -> a.HandoverMessage | None:
        asked = view.asked.get(partition)
        return asked if asked is not None and asked.token else None

    monkeypatch.setattr(agent_step, "token_for", any_epoch)
    with pytest.raises(AssertionError):
        for seed in range(4):
            compare_along_a_walk(seed)


def test_all_sealed_copies_of_the_in_sync_set_have_the_same_rank_term() -> None:
    """So that without time only whether there is one is kept: offsets alone rank them."""
    compared = 0
    for seed in range(24):
        chance, world = random.Random(seed), everything()
        if seed % 2:  # a map that is lost takes long to be rebuilt
            world = v.put(world, budget=replace(world.budget, map_losses=0))
        for _ in range(300):
            step = random_step(world, chance)
            if step is None:
                break
            world, entry = step[1], step[1].entry
            if entry is None:
                continue
            copies = [told(world, pod).copies.get(0) for pod in range(len(world.redis))]
            names = [CopyId(world.pod(pod), copy.run_id if copy else "") for pod, copy in enumerate(copies)]
            terms = [
                copy.term
                for name, copy in zip(names, copies, strict=True)
                if copy is not None and name in entry.isr and copy.sealed_epoch == entry.epoch and copy.intact
            ]
            compared += len(terms) > 1
            assert len(set(terms)) < 2, (entry, copies)
    assert compared > 10


@pytest.mark.parametrize("seed", range(2))
def test_a_world_in_which_nobody_acts_comes_to_rest(seed: int) -> None:
    """Otherwise the worlds of a scenario without an end of time would never be all met."""
    begun, chance = COMPLETE["promises without an end of time"](), random.Random(seed)
    for _ in range(150):
        world = begun
        for _ in range(chance.randrange(60)):
            following = [raw for _, raw in successors(world) if raw is not world]
            if not following:
                break
            world = answered(p.mark_safe(chance.choice(following)))
        for _ in range(2 * longest(world.rules)):
            world = answered(p.mark_safe(older(world)))
        assert answered(p.mark_safe(older(world))) == world
