"""The named scenarios of the model checker.

`COMPLETE` are explored to their end: every order of everything that may happen within the faults and epochs they name.
Those without time ask what the epochs, marks, names and required sets guarantee however slow or fast anybody is; those
with time, and no end of it, ask whether authority ever outlives the operator's wait. `BOUNDED` mix both, with operators
that keep reports, and are too large to be finished: they are explored breadth first to a bound, and walked at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from modelcheck import moving, served
from protocol_forms import agent_form, map_form
from protocol_values import SETTINGS, Budget, Rules, World, put, start
from protocol_world import read_map, settle

from cachecluster_core import operator_step as o
from cachecluster_core.hashring import Settings

NEVER = 1e9
TIMELESS = Rules(
    settings=Settings(authority_s=1e6, lost_after_s=NEVER, outage_s=NEVER, replication_factor=2, sync=True),
    timing=o.Timing(seal_wait=0.0, wait_margin=-2e6, clock_rate=1.0, repair_delay=0.0, lag_grace=0.0),
    timeless=True,
    to_rest=True,
)
"""Every wait of the operator is over at once, or not at all; authority never lapses."""

TIMED = Rules(
    settings=Settings(authority_s=2.0, lost_after_s=NEVER, outage_s=NEVER, replication_factor=2, sync=True),
    timing=o.Timing(
        seal_wait=0.5,
        wait_margin=0.5,
        clock_rate=1.0,
        repair_delay=2.0,
        move_limit=2.0,
        balance_delay=2.0,
        lag_grace=1.0,
        first_choice_wait=1.0,
        first_placement_wait=2.0,
    ),
    to_rest=True,
)
"""As short as the waits can be: nothing but their order matters."""


def timeless(pods: int, budget: Budget, epochs: int, to_rest: bool = True, hand_overs: bool = True) -> World:
    """A served partition whose epoch may still grow so often; `to_rest`: agents act until they have nothing to do."""
    world = served(pods, budget, rules=replace(TIMELESS, to_rest=to_rest, hand_overs=hand_overs))
    return _until(put(world, agents=tuple(agent_form(it, world.rules) for it in world.agents)), epochs)


def timed(epochs: int, sole_s: float = NEVER, **faults: int) -> World:
    """Two copies, or one and a learner (`sole_s`: how long a sole copy serves), the primary's reads and promises
    delayed, and no end of time."""
    settings = replace(TIMED.settings, lost_after_s=sole_s)
    world = served(2, Budget(ticks=-1, **faults), rules=replace(TIMED, settings=settings))
    assert world.entry is not None and world.entry.primary is not None
    delayed = frozenset({world.index(world.entry.primary)})
    return _until(put(world, rules=replace(world.rules, delayed=delayed)), epochs)


def one_in_sync(world: World) -> World:
    """The same with the primary as the only in-sync copy, and the others as learners whose link to it is broken."""
    assert world.map is not None and world.entry is not None and world.entry.primary is not None
    primary = world.entry.primary
    learners = tuple(copy.pod for copy in world.entry.isr if copy != primary)
    entry = world.entry.changed(isr=(primary,), learners=learners)
    world = put(world, map=map_form(replace(world.map, entries=(entry,))))
    world = put(world, redis=tuple(replace(redis, linked=False) for redis in world.redis))
    for pod in range(len(world.redis)):
        world = settle(read_map(world, pod), pod)
    return world


def _until(world: World, epochs: int) -> World:
    assert world.entry is not None
    return put(world, rules=replace(world.rules, last_epoch=world.entry.epoch + epochs))


COMPLETE: dict[str, Callable[[], World]] = {
    "elections and hand-overs, 4 epochs": lambda: timeless(2, Budget(writes=1), 3),
    "elections and hand-overs, pass by pass, 3 epochs": lambda: timeless(2, Budget(writes=1), 2, to_rest=False),
    "an agent restarts, 3 epochs": lambda: timeless(2, Budget(writes=1, agent_restarts=1), 2),
    "an agent restarts, 4 epochs": lambda: timeless(2, Budget(writes=1, agent_restarts=1), 3),
    "a process is killed, 3 epochs": lambda: timeless(2, Budget(writes=1, kills=1), 2),
    "a process is killed, 4 epochs": lambda: timeless(2, Budget(writes=1, kills=1), 3),
    "grow then shrink, two copies on three pods, 3 epochs": lambda: timeless(3, Budget(writes=1), 2),
    "grow then shrink, two copies on three pods, 4 epochs": lambda: timeless(3, Budget(writes=1), 3),
    "an agent restarts, two copies on three pods, 4 epochs": lambda: timeless(3, Budget(writes=1, agent_restarts=1), 3),
    "a process is killed, two copies on three pods, 4 epochs": lambda: timeless(3, Budget(writes=1, kills=1), 3),
    "a process is killed without hand-overs, two copies on three pods, 4 epochs": lambda: timeless(
        3, Budget(writes=1, kills=1), 3, hand_overs=False
    ),
    "an agent restarts beside a learner, 4 epochs": lambda: _until(
        one_in_sync(timeless(2, Budget(writes=1, agent_restarts=1), 0)), 3
    ),
    "promises without an end of time": lambda: timed(2, suspicions=1),
}


WHOLE = Rules(whole_reports=True)


def everything() -> World:
    """Two operators, three pods, and all faults: for walks."""
    faults = Budget(
        writes=6, kills=3, agent_restarts=3, cuts=3, operator_restarts=2, map_losses=1, moves=6, blinds=6, ticks=60
    )
    return served(3, faults, operators=2, rules=WHOLE)


BOUNDED: dict[str, Callable[[], World]] = {
    "bootstrap of one pod": lambda: start(1, Budget(ticks=2)),
    "bootstrap of two pods": lambda: start(2, Budget()),
    "an agent restarts between its marks and its commands": lambda: served(
        2, Budget(writes=1, agent_restarts=2, ticks=2)
    ),
    "a redis process is killed": lambda: served(2, Budget(writes=1, kills=1, ticks=1)),
    "a pod is cut off and comes back": lambda: served(2, Budget(writes=1, cuts=1, ticks=5)),
    "the operator restarts while a pod is cut off": lambda: served(
        2, Budget(writes=1, cuts=1, operator_restarts=1, ticks=5)
    ),
    "two operators at once while a pod is cut off": lambda: served(2, Budget(cuts=1, ticks=5), operators=2),
    "the map is deleted": lambda: served(2, Budget(writes=1, map_losses=1, ticks=3), rules=WHOLE),
    "a primary hands over": lambda: moving(2, Budget(writes=2, ticks=2)),
    "a primary hands over while agents restart": lambda: moving(2, Budget(writes=1, agent_restarts=2, ticks=1)),
    "a primary hands over while a process is killed": lambda: moving(2, Budget(writes=1, kills=1, ticks=1)),
    "a primary hands over while a pod is cut off": lambda: moving(2, Budget(writes=1, cuts=1, ticks=6)),
    "a primary hands over while the operator restarts": lambda: moving(
        2, Budget(writes=1, operator_restarts=1, ticks=6)
    ),
    "a primary hands over and back": lambda: served(2, Budget(writes=1, moves=2, ticks=2)),
    "a primary hands over beside a third copy": lambda: moving(3, Budget(writes=2, kills=1, ticks=3)),
    "a primary lives by promises": lambda: served(2, Budget(writes=1, blinds=1, ticks=6)),
    "a primary and its replica live by promises": lambda: served(2, Budget(writes=1, blinds=2, ticks=6)),
    "a primary lives by promises while agents restart": lambda: served(2, Budget(blinds=1, agent_restarts=2, ticks=5)),
    "a primary is blind, a member is killed, and a third can lead": lambda: served(
        3, Budget(writes=1, kills=1, blinds=1, ticks=6), rules=Rules(settings=replace(SETTINGS, replication_factor=3))
    ),
    "a sole copy is killed beside a learner": lambda: one_in_sync(served(2, Budget(writes=2, kills=1, ticks=6))),
    "a replica is killed, leaves and joins again": lambda: served(2, Budget(writes=2, kills=1, ticks=2)),
    "a process is killed and an agent restarts, two copies on three pods, 4 epochs": lambda: timeless(
        3, Budget(writes=1, kills=1, agent_restarts=1), 3
    ),
    "everything at once": everything,
}
