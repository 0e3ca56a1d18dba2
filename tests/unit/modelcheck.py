"""Explores a model world exhaustively (breadth first, up to a bound) or by a seeded random walk."""

from __future__ import annotations

import gc
import random
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import protocol_values as v
import protocol_world as p
from protocol_actions import answered, groups, successors, violation
from protocol_forms import older, without_stale_tokens
from protocol_handovers import ask

from cachecluster_core.hashring import State

PROGRESS = 50_000
Progress = Callable[[int, int], None]


class Violation(AssertionError):
    """An invariant was broken; the message is the shortest trace found."""


@dataclass(frozen=True)
class Explored:
    """How much was seen: distinct states (or steps of a walk), and whether there was nothing left to see."""

    states: int
    complete: bool
    transitions: int = 0


def is_whole(world: v.World) -> bool:
    """The partition is served and has all its copies in sync."""
    entry = world.entry
    if entry is None or entry.state is not State.STABLE or entry.learners or entry.primary is None:
        return False
    copies = min(world.rules.settings.replication_factor, len(world.redis))
    return len(entry.isr) == copies and p.is_open(world, world.index(entry.primary))


def _round(world: v.World) -> v.World:
    """Everybody acts once, the operators first."""
    for which in range(len(world.operators)):
        world = p.run_operator(p.operator_reads(world, which), which)
    for pod in range(len(world.redis)):
        world = p.settle(p.read_map(world, pod), pod)
        world = p.replicate(world, pod) or world
        world = ask(world, pod) or world
        for which in range(len(world.operators)):
            world = p.report(world, pod, which)
    return p.mark_safe(world)


def served(pods: int, budget: v.Budget, operators: int = 1, rules: v.Rules = v.RULES) -> v.World:
    """A world in which the partition is served and every copy is in sync, for long and confirmed just now."""
    v.forget()
    patient = replace(rules, timeless=False, last_epoch=0, delayed=frozenset(), variant="")
    world = v.start(pods, v.Budget(), operators, patient)
    for step in range(200):
        world = _round(world)
        if is_whole(world):
            for _ in range(20):
                world = _round(older(world))
            assert is_whole(world)
            return v.put(world, budget=budget, rules=rules, **({"operators": ()} if rules.timeless else {}))
        if step % 3 == 2:
            world = older(world)
    raise AssertionError("the world never came to serve")


def moving(pods: int, budget: v.Budget, rules: v.Rules = v.RULES) -> v.World:
    """A world like `served` in which the operator has just written that the primary hands over."""
    world = served(pods, budget, rules=rules)
    assert world.entry is not None and world.entry.primary is not None
    primary = world.index(world.entry.primary)
    world = p.report(v.put(world, emptied=frozenset({primary})), primary, 0)
    world = p.run_operator(world, 0)
    assert world.entry is not None and world.entry.state is State.MOVING
    return world


class _Seen:
    """The set of worlds met, with how each was reached. Parts of worlds are numbered: equal parts, equal numbers.

    A world in which fewer faults may still happen than in one that was met and is else the same is met as well.
    """

    def __init__(self) -> None:
        self._number_of_part: dict[object, int] = {}
        self._number_of_object: dict[int, tuple[int, object]] = {}
        self._labels: dict[str, int] = {}
        self._index: dict[bytes, int] = {}
        self._parent, self._label = array("I"), array("I")
        self._budget = list[v.Budget]()

    def __len__(self) -> int:
        return len(self._parent)

    def _number(self, part: object) -> int:
        """An equal number for an equal part; parts are mostly the very same objects, so that few are hashed."""
        known = self._number_of_object.get(id(part))
        if known is None:
            number = self._number_of_part.setdefault(part, len(self._number_of_part))
            known = self._number_of_object[id(part)] = (number, part)
        return known[0]

    def key(self, world: v.World) -> bytes:
        """A short value that is equal exactly for worlds that are equal but for their budgets."""
        parts = (
            *world.agents,
            *world.operators,
            *world.redis,
            world.safe,
            world.acked,
            world.emptied,
            world.tokens,
            world.map,
            *world.past,
        )
        return array("I", [world.written, *map(self._number, parts)]).tobytes()

    def add(self, world: v.World, parent: int, label: str) -> int | None:
        """Its index, None when it was met before."""
        key = self.key(world)
        known = self._index.get(key)
        if known is not None and self._budget[known].covers(world.budget):
            return None
        index = self._index[key] = len(self._parent)
        self._budget.append(world.budget)
        self._parent.append(parent)
        self._label.append(self._labels.setdefault(label, len(self._labels)))
        return index

    def trace(self, index: int) -> str:
        """The actions that led to a world."""
        names, labels = list(self._labels), []
        while index:
            labels.append(names[self._label[index]])
            index = self._parent[index]
        return " ; ".join(reversed(labels))


def explore(world: v.World, max_states: int, progress: Progress | None = None) -> Explored:
    """Breadth first from `world`. Raises Violation with a shortest trace. `progress` is told now and then how many
    states were met, and how many of them are still to be looked at."""
    v.forget()
    gc.freeze()  # nothing made here is garbage before the end
    gc.disable()
    try:
        return _explore(world, max_states, progress or (lambda met, waiting: None))
    finally:
        gc.enable()
        gc.unfreeze()
        v.forget()


def _explore(world: v.World, max_states: int, progress: Progress) -> Explored:
    seen, transitions = _Seen(), 0
    seen.add(world, 0, "")
    queue = deque([(world, 0)])
    while queue:
        state, index = queue.popleft()
        if index % PROGRESS == 0:
            progress(len(seen), len(queue))
        try:
            for label, raw in successors(state):
                if raw is state:
                    continue
                transitions += 1
                following = answered(without_stale_tokens(p.mark_safe(raw)))
                reached = seen.add(following, index, label)
                if reached is None:
                    continue
                broken = violation(following)
                if broken:
                    raise Violation(f"{broken}\n  {seen.trace(reached)}")
                queue.append((following, reached))
        except AssertionError as error:
            if isinstance(error, Violation):
                raise
            raise Violation(f"asserted: {error}\n  {seen.trace(index)}") from error
        if len(seen) >= max_states:
            return Explored(len(seen), False, transitions)
    return Explored(len(seen), True, transitions)


def recover(world: v.World, rounds: int = 200) -> int:
    """Heal everything, let everybody act in turn, and count the rounds until the partition is whole again."""
    for pod in range(len(world.agents)):
        world = v.put_agent(world, pod, cut=False, blind=False)
    world = v.put(world, emptied=frozenset())
    for count in range(rounds):
        if is_whole(world):
            return count
        world = _round(world)
        if count % 3 == 2:
            world = older(world)
        broken = violation(world)
        if broken:
            raise Violation(broken)
    raise Violation(f"not whole after {rounds} rounds: {world.map}")


def walk(world: v.World, steps: int, seed: int, recoveries: int = 0, length: int = 400) -> Explored:
    """A random walk that begins anew after `length` steps, or where nothing is left to do. Raises Violation with its
    trace.

    With `recoveries` it is checked every so many steps that from here the partition becomes whole once faults end.
    """
    random_ = random.Random(seed)
    state, trace = world, list[str]()
    for step in range(steps):
        if step % 20_000 == 0:
            v.forget()
        try:
            taken = random_step(state, random_)
            if taken is None or len(trace) >= length:
                state, trace = world, []
                continue
            trace.append(taken[0])
            state = answered(without_stale_tokens(p.mark_safe(taken[1])))
            broken = violation(state)
            if broken:
                raise Violation(broken)
            if recoveries and step % recoveries == 0:
                recover(state)
        except AssertionError as error:
            raise Violation(f"{error} (seed {seed})\n  " + " ; ".join(trace)) from error
    v.forget()
    return Explored(steps, complete=False)


def random_step(world: v.World, random_: random.Random) -> tuple[str, v.World] | None:
    """Some action that changes something: of somebody by chance, and of theirs by chance."""
    left = groups(world)
    while left:
        chosen = random_.choices(range(len(left)), [weight for weight, _ in left])[0]
        changing = [(label, following) for label, following in left.pop(chosen)[1]() if following is not world]
        if changing:
            return random_.choice(changing)
    return None
