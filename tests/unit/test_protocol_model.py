"""The shipped step functions, explored: named scenarios exhaustively or to a bound, and random walks over all faults.

Each deliberate mistake below must be found: a checker that finds nothing in a broken protocol proves nothing.
`python tests/unit/test_protocol_model.py --states N` explores every scenario further than the tests do.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import protocol_world as p
from modelcheck import Violation, explore, moving, served, walk

from cachecluster_core import agent_step, election, handover, operator_step, promises
from cachecluster_core.hashring import Entry, State

pytestmark = [pytest.mark.t0, pytest.mark.timeout(600)]

SCENARIOS: dict[str, p.World] = {
    "bootstrap of one pod": p.start(1, p.Budget(horizon=2)),
    "bootstrap of two pods": p.start(2, p.Budget(horizon=0)),
    "an agent restarts between its marks and its commands": served(2, p.Budget(writes=1, agent_restarts=2, horizon=2)),
    "a redis process is killed": served(2, p.Budget(writes=1, kills=1, horizon=1)),
    "a pod is cut off and comes back": served(2, p.Budget(writes=1, cuts=1, horizon=5)),
    "the operator restarts while a pod is cut off": served(
        2, p.Budget(writes=1, cuts=1, operator_restarts=1, horizon=5)
    ),
    "two operators at once while a pod is cut off": served(2, p.Budget(cuts=1, horizon=5), operators=2),
    "the map is deleted": served(2, p.Budget(writes=1, map_losses=1, horizon=3)),
    "a primary hands over": moving(2, p.Budget(writes=2, horizon=2)),
    "a primary hands over while agents restart": moving(2, p.Budget(writes=1, agent_restarts=2, horizon=1)),
    "a primary hands over while a process is killed": moving(2, p.Budget(writes=1, kills=1, horizon=1)),
    "a primary hands over while a pod is cut off": moving(2, p.Budget(writes=1, cuts=1, horizon=6)),
    "a primary hands over while the operator restarts": moving(2, p.Budget(writes=1, operator_restarts=1, horizon=6)),
    "a primary hands over and back": served(2, p.Budget(writes=1, moves=2, horizon=2)),
    "a primary hands over beside a third copy": moving(3, p.Budget(writes=2, kills=1, horizon=3)),
    "a primary lives by promises": served(2, p.Budget(writes=1, blinds=1, horizon=6)),
    "a primary and its replica live by promises": served(2, p.Budget(writes=1, blinds=2, horizon=6)),
    "a primary lives by promises while agents restart": served(2, p.Budget(blinds=1, agent_restarts=2, horizon=5)),
    "a replica is killed, leaves and joins again": served(2, p.Budget(writes=2, kills=1, horizon=2)),
    "everything at once": served(
        3,
        p.Budget(
            writes=2, kills=2, agent_restarts=1, cuts=1, operator_restarts=1, map_losses=1, moves=2, blinds=1, horizon=8
        ),
        operators=2,
    ),
}
BOUND = 8_000


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_reachable_state_breaks_an_invariant(name: str) -> None:
    assert explore(SCENARIOS[name], BOUND).states > 10


FAULTS = p.Budget(
    writes=6, kills=3, agent_restarts=3, cuts=3, operator_restarts=2, map_losses=1, moves=6, blinds=6, horizon=60
)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_walk_over_all_faults_breaks_no_invariant_and_recovers(seed: int) -> None:
    walk(served(3, FAULTS, operators=2), 2000, seed, recoveries=True)


def test_promotion_before_the_old_gate_is_silent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "is_silent", lambda facts: True)
    with pytest.raises(Violation, match="two open gates"):
        explore(SCENARIOS["a pod is cut off and comes back"], 200_000)


def test_authority_that_lasts_longer_than_the_operator_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_step, "_deadline_ns", lambda view: view.confirmed_at_ns + 9 * p.TICK_NS)
    with pytest.raises(Violation, match="two open gates"):
        explore(served(2, p.Budget(cuts=1, horizon=5)), 200_000)


def test_a_process_that_starts_as_primary_is_found() -> None:
    with pytest.raises(Violation, match="I5"):
        explore(p.start(1, p.Budget(horizon=2), variant="starts as primary"), 200_000)


def test_an_agent_that_forgets_its_floor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        agent_step, "_entry_above_floor", lambda ring, partition, marks: ring and ring.entries[partition]
    )
    world = served(2, p.Budget(horizon=2))
    old = world.map
    assert old is not None
    entry = replace(old.entries[0], epoch=old.entries[0].epoch - 1, term=0)
    agents = tuple(replace(agent, map=replace(old, entries=(entry,))) for agent in world.agents)
    with pytest.raises(Violation, match="below the floor"):
        explore(replace(world, agents=agents), 1000)


def test_promotion_of_a_copy_that_lost_its_data_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def anyone(facts: election.Facts) -> list[object]:
        return [(copy, facts.copy(copy.pod)) for copy in facts.entry.isr if facts.copy(copy.pod) is not None]

    monkeypatch.setattr(election, "sealed", anyone)
    monkeypatch.setattr(election, "is_dead", lambda facts, copy: copy == facts.entry.primary)
    with pytest.raises(Violation):
        explore(SCENARIOS["a redis process is killed"], 200_000)


def test_a_primary_that_serves_again_after_its_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_step, "is_sent", lambda mark, epoch: False)
    with pytest.raises(Violation, match=r"two open gates|I8"):
        explore(SCENARIOS["a primary hands over"], 200_000)


def test_a_token_that_is_sent_before_the_successor_has_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = handover.token_for

    def hasty(view: agent_step.AgentView, *rest: object) -> object:
        asked = view.asked.get(0)
        early = {0: replace(asked, offset=0)} if asked is not None else {}
        return real(replace(view, asked=early), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(agent_step, "token_for", hasty)
    monkeypatch.setattr(handover, "_has_all", lambda copy, word: True)
    with pytest.raises(Violation, match="I8"):
        explore(SCENARIOS["a primary hands over"], 200_000)


def test_a_token_that_is_taken_at_any_epoch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_epoch(view: agent_step.AgentView, partition: int, entry: Entry, *_: object) -> object:
        asked = view.asked.get(partition)
        return asked if asked is not None and asked.token and asked.successor == entry.successor else None

    monkeypatch.setattr(agent_step, "token_for", any_epoch)
    world = moving(2, p.Budget(writes=1, agent_restarts=1, horizon=2))
    assert world.map is not None
    entry = world.map.entries[0]
    assert entry.primary is not None and entry.successor is not None
    old = agent_step.HandoverMessage(0, entry.epoch - 2, entry.primary, entry.successor, 0, token=True)
    with pytest.raises(Violation, match="two open gates"):
        explore(replace(world, tokens=frozenset({old})), 200_000)


def test_an_operator_that_names_the_old_primary_without_its_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def names_it(facts: election.Facts) -> Entry:
        entry = facts.entry
        return entry.changed(state=State.STABLE, successor=None) if facts.entry_older_than(1.0) else entry

    monkeypatch.setattr(operator_step, "next_moving", names_it)
    world = moving(2, p.Budget(horizon=3))
    for _ in range(4):
        for pod in range(2):
            world = p.settle(p.read_map(world, pod), pod)
            world = p.ask(world, pod) or world
    assert world.tokens and any(agent.marks.taken_over_epoch for agent in world.agents)
    with pytest.raises(Violation, match="two open gates"):
        explore(world, 200_000)


def test_a_copy_that_is_sealed_although_it_has_promised_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_step, "is_promised", lambda *_: False)
    with pytest.raises(Violation, match="two open gates"):
        explore(promised_late(), 200_000)


def promised_late() -> p.World:
    """A primary cut off from the API server whose replica promised it a moment before the operator suspects it."""
    world = served(2, p.Budget(blinds=1, horizon=6))
    assert world.map is not None
    entry = world.map.entries[0]
    assert entry.primary is not None
    primary = world.index(entry.primary)
    agents = tuple(replace(agent, blind=i == primary) for i, agent in enumerate(world.agents))
    world = replace(world, agents=agents, now=1)
    world = p.settle(p.promise(world, primary) or world, primary)
    return replace(world, operators=tuple(replace(it, suspected=frozenset({primary})) for it in world.operators))


def test_a_set_that_grows_and_keeps_the_authority_of_a_sole_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_if_alone(view: agent_step.AgentView, partition: int, entry: Entry, required: object) -> int:
        return promises.authority_until(view, partition, entry, (entry.primary,) if entry.primary else ())

    monkeypatch.setattr(agent_step, "authority_until", as_if_alone)
    with pytest.raises(Violation, match="two open gates"):
        explore(promised_late(), 200_000)


def main() -> int:
    """Explore every scenario to a bound, saying how far it came."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--states", type=int, default=300_000, help="states per scenario")
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the random walk")
    arguments = parser.parse_args()
    for name, world in SCENARIOS.items():
        began = time.monotonic()
        result = explore(world, arguments.states)
        how = "complete" if result.complete else "bound reached"
        sys.stdout.write(f"{name}: {result.states} states, {how}, {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
    walk(served(3, FAULTS, operators=2), arguments.steps, seed=int(time.time()), recoveries=True)
    sys.stdout.write(f"random walk: {arguments.steps} steps\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
