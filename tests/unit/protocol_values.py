"""What the model checker's world is made of: small values, hashable, and remembered so that they are hashed once.

Time is relative: it is always `CLOCK`, and a tick makes everything that was noted a second older (`protocol_forms`).
One partition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from cachecluster_core import agent_step as a
from cachecluster_core import operator_step as o
from cachecluster_core.hashring import CopyId, Entry, HashRing, Settings
from cachecluster_core.pod_table import Marks
from cachecluster_core.report import Report

CLOCK = 100
"""The time, always; seconds."""
TICK_NS = 1_000_000_000
NOW_NS = CLOCK * TICK_NS
T = TypeVar("T")
SETTINGS = Settings(authority_s=2.0, lost_after_s=8.0, outage_s=12.0, replication_factor=2, sync=True)
TIMING = o.Timing(
    seal_wait=1.0, wait_margin=0.5, clock_rate=1.0, repair_delay=4.0, lag_grace=2.0, first_placement_wait=12.0
)

_memory: dict[Any, Any] = {}


def forget() -> None:
    """Forget what was decided before: the functions that decide are others now."""
    _memory.clear()


def remembered(key: tuple[Any, ...], make: Callable[[], T]) -> T:
    """`make()`, or what it answered before for this key: it must be pure."""
    try:
        return _memory[key]  # type: ignore[no-any-return]
    except KeyError:
        made = _memory[key] = make()
        return made


def hashed_once(cls: type[T]) -> type[T]:
    """A class decorator: instances keep their hash."""
    plain = cls.__hash__

    def once(self: Any) -> int:
        try:
            return self.__dict__["_hash"]  # type: ignore[no-any-return]
        except KeyError:
            value = self.__dict__["_hash"] = plain(self)
            return value

    cls.__hash__ = once  # type: ignore[method-assign, assignment]
    return cls


class Frozen(dict):  # type: ignore[type-arg]
    """A mapping that can stand in a hashable value; nothing changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@hashed_once
@dataclass(frozen=True)
class Redis:
    """A redis process. `source` is a pod's index, -1 for a sealed copy, None for a master. `stream`: it has, or had and
    still caches, the stream of a primary. `run` counts the processes of this pod; 0 means that none was started."""

    up: bool = False
    run: int = 0
    source: int | None = -1
    log: tuple[int, ...] = ()
    stream: bool = False
    linked: bool = False
    syncing: bool = False
    announced: bool = False


@hashed_once
@dataclass(frozen=True)
class Agent:
    """An agent and its pod table. `cut`: it reaches nobody; `blind`: it cannot read the map, and may be suspected,
    but its reports may come through. `read` is the answer to a quorum read that is on its way, with the time at which
    the read was sent; `given` are promises on their way."""

    map: HashRing | None = None
    confirmed_at: int = 0
    marks: Marks = field(default_factory=Marks)
    gate: a.GateView = field(default_factory=lambda: a.GateView(confirmed=True))
    taken: Entry | None = None
    word: a.HandoverWord | None = None
    asked: a.HandoverMessage | None = None
    news: a.TakenOver | None = None
    promises: tuple[tuple[str, a.Promise], ...] = ()
    given: tuple[tuple[str, a.Promise], ...] = ()
    read: tuple[int, HashRing | None] | None = None
    cut: bool = False
    blind: bool = False


@hashed_once
@dataclass(frozen=True)
class Operator:
    """What one operator process remembers. `known` is False until it has read the map. `heard`: when each pod's report
    came last, or the process started, where the map may be lost (else nothing asks for it)."""

    map: HashRing | None = None
    known: bool = False
    seen_at: int = CLOCK
    reports: tuple[Report | None, ...] = ()
    suspected: frozenset[int] = frozenset()
    heard: tuple[int, ...] = ()
    memory: o.Memory = field(default_factory=lambda: o.Memory(*(Frozen() for _ in fields(o.Memory))))


@hashed_once
@dataclass(frozen=True)
class Budget:
    """How often each fault may still happen, and how many seconds may still pass (-1: no end)."""

    writes: int = 0
    kills: int = 0
    agent_restarts: int = 0
    cuts: int = 0
    operator_restarts: int = 0
    map_losses: int = 0
    moves: int = 0
    blinds: int = 0
    suspicions: int = 0
    ticks: int = 0

    def covers(self, other: Budget) -> bool:
        """Whether everything that may happen within the other one may happen within this one."""
        if self is other:
            return True

        def each() -> bool:
            both = ((getattr(self, it.name), getattr(other, it.name)) for it in fields(Budget))
            return all(mine == others or mine > others >= 0 for mine, others in both)

        return remembered(("covers", self, other), each)

    def spend(self, name: str) -> Budget:
        """One less of one of them."""
        return remembered((self, name), lambda: replace(self, **{name: getattr(self, name) - 1}))


@dataclass(frozen=True)
class Rules:
    """What stays the same in a world. `last_epoch`: what would raise the epoch above it does not happen (0: no bound).
    `timeless`: see `protocol_actions`. `to_rest`: an agent acts on what it learns, until it has nothing more to do.
    `hand_overs`: an operator without time may hand a primary over. `delayed` are pods whose reads, and promises to
    whom, take their time. `whole_reports`: the map may be lost, so that everything in a report matters. `variant` names
    a deliberate mistake."""

    settings: Settings = SETTINGS
    timing: o.Timing = TIMING
    timeless: bool = False
    to_rest: bool = False
    last_epoch: int = 0
    hand_overs: bool = True
    delayed: frozenset[int] = frozenset()
    whole_reports: bool = False
    variant: str = ""


RULES = Rules()


@dataclass(frozen=True)
class World:
    """All of it. `past` are maps that were there before and that some agent may still read (only without time);
    `safe` are writes that every in-sync copy had at some time, `tokens` all tokens that were ever sent, `emptied` the
    pods that are to have no primary, `acked` writes that were answered once every required copy had them (none is lost
    but by Lost)."""

    redis: tuple[Redis, ...]
    agents: tuple[Agent, ...]
    operators: tuple[Operator, ...]
    map: HashRing | None = None
    past: tuple[HashRing, ...] = ()
    written: int = 0
    safe: frozenset[int] = frozenset()
    tokens: frozenset[a.HandoverMessage] = frozenset()
    emptied: frozenset[int] = frozenset()
    acked: frozenset[int] = frozenset()
    budget: Budget = field(default_factory=Budget)
    rules: Rules = field(default_factory=Rules)

    def pod(self, index: int) -> str:
        """UID of a pod."""
        return f"pod{index}"

    def index(self, copy: CopyId) -> int:
        """Which pod a copy is on."""
        return int(copy.pod[3:])

    @property
    def entry(self) -> Entry | None:
        """The map's only entry."""
        return self.map.entries[0] if self.map is not None else None


def put(world: World, **changes: Any) -> World:
    """A world with some fields changed; `dataclasses.replace` takes five times as long."""
    new = object.__new__(World)
    new.__dict__.update(world.__dict__)
    new.__dict__.update(changes)
    return new


def swap(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """The same tuple but for one item."""
    return (*items[:index], item, *items[index + 1 :])


def put_agent(world: World, pod: int, **changes: Any) -> World:
    """A world in which something is otherwise at one agent."""
    agent = world.agents[pod]
    if "marks" in changes or "map" in changes:  # large to hash: remembered by whoever changes them
        new = replace(agent, **changes)
    else:
        new = remembered((agent, *changes.items()), lambda: replace(agent, **changes))
    return put(world, agents=swap(world.agents, pod, new))


def put_redis(world: World, pod: int, redis: Redis) -> World:
    """A world with another redis on a pod."""
    return put(world, redis=swap(world.redis, pod, redis))


def put_operator(world: World, which: int, operator: Operator) -> World:
    """A world in which an operator knows something else."""
    return put(world, operators=swap(world.operators, which, operator))


def spend(world: World, name: str) -> World:
    """A world in which one of the faults was used up."""
    return put(world, budget=world.budget.spend(name))


def new_operator(pods: int, rules: Rules) -> Operator:
    """An operator process that has just started."""
    return Operator(reports=(None,) * pods, heard=(CLOCK,) * pods if rules.whole_reports else ())


def start(pods: int, budget: Budget, operators: int = 1, rules: Rules = RULES) -> World:
    """A world before anything was done; pods exist, there is no map."""
    return World(
        redis=(Redis(),) * pods,
        agents=(Agent(),) * pods,
        operators=(new_operator(pods, rules),) * operators,
        budget=budget,
        rules=rules,
    )
