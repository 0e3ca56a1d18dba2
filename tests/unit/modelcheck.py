"""Explores a `protocol_world` exhaustively (breadth first, up to a bound) or by a seeded random walk."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace

import protocol_world as p

from cachecluster_core.hashring import State


class Violation(AssertionError):
    """An invariant was broken; the message is the shortest trace found."""


@dataclass(frozen=True)
class Explored:
    """How much was seen: distinct states (or steps of a walk), and whether there was nothing left to see."""

    states: int
    complete: bool


def is_whole(world: p.World) -> bool:
    """The partition is served and has all its copies in sync."""
    entry = world.map.entries[0] if world.map else None
    if entry is None or entry.state is not State.STABLE or entry.learners or entry.primary is None:
        return False
    return len(entry.isr) == min(2, len(world.redis)) and p.is_open(world, world.index(entry.primary))


def served(pods: int, budget: p.Budget, operators: int = 1, variant: str = "") -> p.World:
    """A world in which the partition is served and every copy is in sync, with its clock back at 0."""
    world = p.start(pods, p.Budget(), operators)
    for step in range(200):
        for which in range(operators):
            world = p.run_operator(p.operator_reads(world, which), which)
        for pod in range(pods):
            world = p.run_agent(p.read_map(world, pod), pod)
            world = p.replicate(world, pod) or world
            for which in range(operators):
                world = p.report(world, pod, which)
        if is_whole(world):
            if world.now == 0:
                return replace(world, budget=budget, variant=variant)
            operators_ = tuple(replace(operator, seen_at=0) for operator in world.operators)
            world = replace(world, now=0, operators=operators_)
        elif step % 3 == 2:
            world = replace(world, now=world.now + 1)
    raise AssertionError("the world never came to serve")


def moving(pods: int, budget: p.Budget) -> p.World:
    """A world like `served` in which the operator has just written that the primary hands over; its clock is at 2."""
    world = replace(served(pods, replace(budget, horizon=budget.horizon + 2)), now=2)
    for pod in range(pods):
        world = p.report(p.run_agent(p.read_map(world, pod), pod), pod, 0)
    entry = world.map.entries[0] if world.map else None
    assert entry is not None and entry.primary is not None
    primary = world.index(entry.primary)
    world = p.run_operator(p.report(replace(world, emptied=frozenset({primary})), primary, 0), 0)
    assert world.map is not None and world.map.entries[0].state is State.MOVING
    return world


class _Seen:
    """The set of worlds met, with how each was reached. Parts of worlds are interned: only what changed is hashed."""

    def __init__(self) -> None:
        self._number_of_part: dict[object, int] = {}
        self._number_of_object: dict[int, tuple[object, int]] = {}
        self.reached: dict[tuple[object, ...], tuple[tuple[object, ...], str] | None] = {}

    def _intern(self, part: object) -> int:
        known = self._number_of_object.get(id(part))
        if known is None:
            number = self._number_of_part.setdefault(part, len(self._number_of_part))
            known = self._number_of_object[id(part)] = (part, number)
        return known[1]

    def key(self, world: p.World) -> tuple[object, ...]:
        """A short value that is equal exactly for equal worlds."""
        parts = (
            *world.agents,
            *world.operators,
            world.map,
            world.budget,
            world.redis,
            world.safe,
            world.tokens,
            world.emptied,
            world.acked,
        )
        return (world.now, world.version, world.written, *map(self._intern, parts))

    def trace(self, key: tuple[object, ...]) -> str:
        """The actions that led to a world."""
        labels = []
        while (step := self.reached[key]) is not None:
            key, label = step
            labels.append(label)
        return " ; ".join(reversed(labels))


def explore(world: p.World, max_states: int) -> Explored:
    """Breadth first from `world`. Raises Violation with a shortest trace."""
    seen = _Seen()
    first = seen.key(world)
    seen.reached[first] = None
    queue = deque([(world, first)])
    while queue:
        state, key = queue.popleft()
        try:
            choices = list(p.successors(state))
        except AssertionError as error:
            raise Violation(f"asserted: {error}\n  {seen.trace(key)}") from error
        for label, raw in choices:
            following = p.mark_safe(raw)
            reached = seen.key(following)
            if reached in seen.reached:
                continue
            seen.reached[reached] = (key, label)
            broken = p.violation(following)
            if broken:
                raise Violation(f"{broken}\n  {seen.trace(reached)}")
            queue.append((following, reached))
        if len(seen.reached) >= max_states:
            return Explored(len(seen.reached), complete=False)
    return Explored(len(seen.reached), complete=True)


def recover(world: p.World, rounds: int = 200) -> int:
    """Heal everything, let everybody act in turn, and count the rounds until the partition is whole again."""
    agents = tuple(replace(agent, cut=False, blind=False) for agent in world.agents)
    world = replace(world, agents=agents, emptied=frozenset())
    for count in range(rounds):
        if is_whole(world):
            return count
        for which in range(len(world.operators)):
            world = p.run_operator(p.operator_reads(world, which), which)
        for pod in range(len(world.redis)):
            world = p.settle(p.read_map(world, pod), pod)
            world = p.replicate(world, pod) or world
            world = p.ask(world, pod) or world
            for which in range(len(world.operators)):
                world = p.report(world, pod, which)
        world = p.mark_safe(replace(world, now=world.now + (count % 3 == 2)))
        broken = p.violation(world)
        if broken:
            raise Violation(broken)
    raise Violation(f"not whole after {rounds} rounds: {world.map}")


def walk(world: p.World, steps: int, seed: int, recoveries: bool = False) -> Explored:
    """A random walk that begins anew where nothing is left to do. Raises Violation with its trace.

    With `recoveries` it is checked now and then that from here the partition becomes whole once faults end.
    """
    random_ = random.Random(seed)
    state, trace = world, list[str]()
    for _ in range(steps):
        try:
            choices = list(p.successors(state))
        except AssertionError as error:
            raise Violation(f"asserted (seed {seed}): {error}\n  " + " ; ".join(trace)) from error
        changing = [(label, following) for label, following in choices if following != state]
        if not changing or len(trace) > 400:
            state, trace = world, []
            continue
        label, state = random_.choice(changing)
        state = p.mark_safe(state)
        trace.append(label)
        broken = p.violation(state)
        if broken:
            raise Violation(f"{broken} (seed {seed})\n  " + " ; ".join(trace))
        if recoveries and len(trace) % 50 == 0:
            try:
                recover(state)
            except Violation as error:
                raise Violation(f"{error} (seed {seed})\n  " + " ; ".join(trace)) from error
    return Explored(steps, complete=False)
