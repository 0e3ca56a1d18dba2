"""The shipped step functions, explored: named scenarios to their end or to a bound, and random walks over all faults.

Each deliberate mistake below must be found: a checker that finds nothing in a broken protocol proves nothing.
`python tests/unit/test_protocol_model.py --states N --steps N` explores every scenario further than the tests do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import protocol_handovers as h
import protocol_values as v
import protocol_world as p
from modelcheck import Violation, explore, moving, served, walk
from protocol_forms import older
from protocol_scenarios import BOUNDED, COMPLETE, everything, timeless
from protocol_values import Budget

from cachecluster_core import agent_step, copy_report, copy_state, election, handover, operator_step, promises
from cachecluster_core.hashring import Entry, State

pytestmark = [pytest.mark.t0, pytest.mark.timeout(600)]

BOUND, PART = 3_000, 50_000
SCENARIOS = COMPLETE | BOUNDED


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> Iterator[None]:
    v.forget()
    yield
    v.forget()


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_reachable_state_breaks_an_invariant(name: str) -> None:
    bound = BOUND * 3 if name in COMPLETE else BOUND
    explored = explore(SCENARIOS[name](), bound)
    assert explored.complete or explored.states >= bound


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_over_all_faults_breaks_no_invariant_and_recovers(seed: int) -> None:
    walk(everything(), 3000, seed, recoveries=100)


def cut_off() -> v.World:
    """The primary is cut off from everybody, and the operator is about to notice."""
    world = served(2, Budget(ticks=5))
    assert world.entry is not None and world.entry.primary is not None
    primary = world.index(world.entry.primary)
    return v.put_operator(
        v.put_agent(world, primary, cut=True), 0, replace(world.operators[0], suspected=frozenset({primary}))
    )


def test_promotion_before_the_old_gate_is_silent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "is_silent", lambda facts: True)
    with pytest.raises(Violation, match="two open gates"):
        explore(cut_off(), 200_000)


def test_authority_that_lasts_longer_than_the_operator_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = promises.authority_until
    monkeypatch.setattr(agent_step, "authority_until", lambda *given: real(*given) + 3 * v.TICK_NS)
    with pytest.raises(Violation, match="two open gates"):
        explore(cut_off(), 200_000)


def test_a_process_that_starts_as_primary_is_found() -> None:
    with pytest.raises(Violation, match="I5"):
        explore(v.start(1, Budget(ticks=2), rules=v.Rules(variant="starts as primary")), 200_000)


def test_an_agent_that_forgets_its_floor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        copy_state, "_entry_above_floor", lambda ring, partition, marks: ring and ring.entries[partition]
    )
    world = served(2, Budget(ticks=2))
    old = world.map
    assert old is not None
    entry = replace(old.entries[0], epoch=old.entries[0].epoch - 1, term=0)
    agents = tuple(replace(agent, map=replace(old, entries=(entry,))) for agent in world.agents)
    with pytest.raises(Violation, match="below the floor"):
        explore(v.put(world, agents=agents), 1000)


def test_promotion_of_a_copy_that_lost_its_data_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = served(2, Budget(writes=1, kills=1, ticks=1))

    def anyone(facts: election.Facts) -> list[object]:
        return [(copy, facts.copy(copy.pod)) for copy in facts.entry.isr if facts.copy(copy.pod) is not None]

    monkeypatch.setattr(election, "sealed", anyone)
    monkeypatch.setattr(election, "is_dead", lambda facts, copy: copy == facts.entry.primary)
    with pytest.raises(Violation):
        explore(world, 200_000)


def test_a_primary_that_serves_again_after_its_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_step, "is_sent", lambda mark, epoch: False)
    with pytest.raises(Violation, match=r"two open gates|I8"):
        explore(moving(2, Budget(writes=2, ticks=2)), 200_000)


def test_a_token_that_is_sent_before_the_successor_has_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = handover.token_for

    def hasty(view: agent_step.AgentView, *rest: object) -> object:
        asked = view.asked.get(0)
        early = {0: replace(asked, offset=0)} if asked is not None else {}
        return real(replace(view, asked=early), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(agent_step, "token_for", hasty)
    monkeypatch.setattr(handover, "_has_all", lambda copy, word: True)
    with pytest.raises(Violation, match="I8"):
        explore(moving(2, Budget(writes=2, ticks=2)), 200_000)


def test_a_token_that_is_taken_at_any_epoch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_epoch(view: agent_step.AgentView, partition: int, entry: Entry, *_: object) -> object:
        asked = view.asked.get(partition)
        return asked if asked is not None and asked.token and asked.successor == entry.successor else None

    monkeypatch.setattr(agent_step, "token_for", any_epoch)
    world = moving(2, Budget(writes=1, agent_restarts=1, ticks=2))
    assert world.map is not None
    entry = world.map.entries[0]
    assert entry.primary is not None and entry.successor is not None
    old = agent_step.HandoverMessage(0, entry.epoch - 2, entry.primary, entry.successor, 0, token=True)
    with pytest.raises(Violation, match="two open gates"):
        explore(v.put(world, tokens=frozenset({old})), 200_000)


def test_an_operator_that_names_the_old_primary_without_its_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def names_it(facts: election.Facts) -> Entry:
        entry = facts.entry
        return entry.changed(state=State.STABLE, successor=None) if facts.entry_older_than(1.0) else entry

    monkeypatch.setattr(operator_step, "next_moving", names_it)
    world = moving(2, Budget(ticks=3))
    for _ in range(4):
        for pod in range(2):
            world = p.settle(p.read_map(world, pod), pod)
            world = h.ask(world, pod) or world
    assert world.tokens and any(agent.marks.taken_over_epoch for agent in world.agents)
    with pytest.raises(Violation, match="two open gates"):
        explore(world, 200_000)


def test_a_copy_that_is_sealed_although_it_has_promised_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_state, "is_promised", lambda *_: False)
    with pytest.raises(Violation, match="two open gates"):
        explore(promised_late(), 200_000)


def promised_late() -> v.World:
    """A primary cut off from the API server: an election has begun two seconds ago, and its replica, which has not
    heard of it, has promised just now."""
    world = served(2, Budget(ticks=3))
    assert world.entry is not None and world.entry.primary is not None
    primary = world.index(world.entry.primary)
    world = v.put_agent(world, primary, blind=True)
    world = v.put_operator(world, 0, replace(world.operators[0], suspected=frozenset({primary})))
    world = p.run_operator(world, 0)
    assert world.entry is not None and world.entry.state is State.ELECTING
    for _ in range(2):
        world = older(world)
        world = p.settle(h.promise(world, primary) or world, primary)
    assert p.is_open(world, primary)
    return world


def test_a_set_that_grows_and_keeps_the_authority_of_a_sole_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_if_alone(view: agent_step.AgentView, partition: int, entry: Entry, required: object) -> int:
        return promises.authority_until(view, partition, entry, (entry.primary,) if entry.primary else ())

    monkeypatch.setattr(agent_step, "authority_until", as_if_alone)
    with pytest.raises(Violation, match="two open gates"):
        explore(promised_late(), 200_000)


def test_an_agent_that_forgets_its_marks_with_its_process_is_found() -> None:
    world = timeless(2, Budget(writes=1, agent_restarts=1), 1)
    with pytest.raises(Violation, match=r"above the map|two open gates"):
        explore(v.put(world, rules=replace(world.rules, variant="forgets marks")), 200_000)


def test_a_primary_that_requires_nobody_to_have_what_it_answers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = timeless(2, Budget(writes=1), 2)
    monkeypatch.setattr(agent_step._CopyStep, "_required", lambda step, entry: (step.identity,))
    with pytest.raises(Violation, match="I1"):
        explore(world, 200_000)


def test_an_agent_that_vouches_for_learners_before_it_has_read_a_map_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = copy_report._held
    monkeypatch.setattr(
        copy_report, "_held", lambda state: real(state) if state.view.map is not None else state.marks.required
    )
    with pytest.raises(Violation, match="I1"):
        explore(COMPLETE["an agent restarts beside a learner, 4 epochs"](), 200_000)


def _say(met: int, waiting: int) -> None:
    sys.stderr.write(f"  {met} states, {waiting} to look at\n")


def main() -> int:
    """Explore every scenario to its end or to a bound, saying how far it came, then walk at random."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--states", type=int, default=300_000, help="states per scenario")
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the random walk")
    parser.add_argument("--only", default="", help="part of the names of the scenarios to explore")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first walk")
    arguments = parser.parse_args()
    for name, world in SCENARIOS.items():
        if arguments.only in name:
            began = time.monotonic()
            result = explore(world(), arguments.states, _say)
            how = "complete" if result.complete else "bound reached"
            seconds = time.monotonic() - began
            sys.stdout.write(f"{name}: {result.states} states, {result.transitions} steps, {how}, {seconds:.0f} s\n")
            sys.stdout.flush()
    began = time.monotonic()
    for part, done in enumerate(range(0, arguments.steps, PART)):
        walk(everything(), min(PART, arguments.steps - done), seed=arguments.seed + part, recoveries=500)
    seconds = time.monotonic() - began
    sys.stdout.write(f"random walk: {arguments.steps} steps from seed {arguments.seed}, {seconds:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
