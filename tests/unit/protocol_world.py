"""A small world around the shipped step functions, for the model checker and the simulations.

Everything is a value: a `World` is hashable, `successors` lists every action that may happen next with the world after
it. Agents and operator are the shipped `agent_step`, `remember` and `operator_step`; redis, the API server and the
network are modelled: a redis is a log of writes with the replication rules the design relies on. Time moves in ticks of
one second, and only by the action `tick`. One partition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

from cachecluster_core import agent_step as a
from cachecluster_core import operator_step as o
from cachecluster_core.gate_step import SHUT, may_serve
from cachecluster_core.hashring import CopyId, Entry, HashRing, Settings, State
from cachecluster_core.pod_table import Marks
from cachecluster_core.report import Process, Report

TICK_NS = 1_000_000_000
T = TypeVar("T")
SETTINGS = Settings(authority_s=2.0, lost_after_s=8.0, outage_s=12.0, replication_factor=2, sync=True)
TIMING = o.Timing(seal_wait=1.0, wait_margin=0.5, clock_rate=1.0, repair_delay=4.0, lag_grace=2.0)


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


@dataclass(frozen=True)
class Agent:
    """An agent and its pod table. `cut`: it reaches nobody; `blind`: it reaches only other agents, neither the API
    server nor the operator."""

    map: HashRing | None = None
    confirmed_at: int = 0
    marks: Marks = field(default_factory=Marks)
    gate: a.GateView = field(default_factory=lambda: a.GateView(confirmed=True))
    taken: Entry | None = None
    word: a.HandoverWord | None = None
    asked: a.HandoverMessage | None = None
    news: a.TakenOver | None = None
    promises: tuple[tuple[str, a.Promise], ...] = ()
    cut: bool = False
    blind: bool = False


@dataclass(frozen=True)
class Operator:
    """What one operator process remembers. `known` is False until it has read the map."""

    map: HashRing | None = None
    known: bool = False
    seen_at: int = 0
    reports: tuple[Report | None, ...] = ()
    suspected: frozenset[int] = frozenset()
    memory: o.Memory = field(default_factory=lambda: o.Memory(*(_Frozen() for _ in fields(o.Memory))))


@dataclass(frozen=True)
class Budget:
    """How often each fault may still happen, and the last tick."""

    writes: int = 0
    kills: int = 0
    agent_restarts: int = 0
    cuts: int = 0
    operator_restarts: int = 0
    map_losses: int = 0
    moves: int = 0
    blinds: int = 0
    horizon: int = 6


@dataclass(frozen=True)
class World:
    """All of it. `safe` are writes that every in-sync copy had at some time, `tokens` all tokens that were ever sent,
    `emptied` the pods that are to have no primary, `acked` writes that were answered once every required copy had them
    (none is lost but by Lost); `variant` names a deliberate mistake."""

    redis: tuple[Redis, ...]
    agents: tuple[Agent, ...]
    operators: tuple[Operator, ...]
    map: HashRing | None = None
    version: int = 0
    now: int = 0
    written: int = 0
    safe: frozenset[int] = frozenset()
    tokens: frozenset[a.HandoverMessage] = frozenset()
    emptied: frozenset[int] = frozenset()
    acked: frozenset[int] = frozenset()
    budget: Budget = field(default_factory=Budget)
    variant: str = ""

    def pod(self, index: int) -> str:
        """UID of a pod."""
        return f"pod{index}"

    def index(self, copy: CopyId) -> int:
        """Which pod a copy is on."""
        return int(copy.pod[3:])


def start(pods: int, budget: Budget, operators: int = 1, variant: str = "") -> World:
    """A world before anything was done; pods exist, there is no map."""
    return World(
        redis=(Redis(),) * pods,
        agents=(Agent(),) * pods,
        operators=(Operator(reports=(None,) * pods),) * operators,
        budget=budget,
        variant=variant,
    )


def _swap(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    return (*items[:index], item, *items[index + 1 :])


def is_open(world: World, pod: int) -> bool:
    """Whether a client command would reach the redis of this pod now."""
    gate = world.agents[pod].gate
    return world.redis[pod].up and may_serve(1, 1, gate.gate_epoch, 0, gate.deadline_ns, world.now * TICK_NS)


def copy_view(world: World, pod: int) -> a.CopyView:
    """What the agent observes of its redis; a ping precedes every log, so that no offset is 0."""
    redis = world.redis[pod]
    if not redis.up:
        return a.CopyView(process=Process.DEAD if redis.run else Process.ABSENT)
    source = None if redis.source is None else a.NOWHERE if redis.source < 0 else (f"h{redis.source}", 17000)
    attached = tuple(
        a.Attached(CopyId(world.pod(i), f"r{other.run}") if other.announced else None, True, 1 + len(other.log))
        for i, other in enumerate(world.redis)
        if other.up and other.source == pod and other.linked and not other.syncing and redis.source is None
    )
    return a.CopyView(
        process=Process.UP,
        run_id=f"r{redis.run}",
        source=source,
        link_up=redis.linked and not redis.syncing,
        syncing=redis.syncing,
        has_stream=redis.stream,
        offset=1 + len(redis.log),
        settled_offset=1 + len(redis.log),
        attached=attached,
        announce=f"{world.pod(pod)}.r{redis.run}" if redis.announced else "",
        observed_ns=world.now * TICK_NS,
    )


def agent_view(world: World, pod: int) -> a.AgentView:
    """The input of `agent_step` for this pod."""
    agent = world.agents[pod]
    ring = agent.map
    return a.AgentView(
        pod=world.pod(pod),
        map=ring,
        confirmed_at_ns=agent.confirmed_at * TICK_NS,
        now_ns=world.now * TICK_NS,
        taken={0: agent.taken} if agent.taken else {},
        marks={0: agent.marks} if agent.marks != Marks() else {},
        gates={0: agent.gate},
        copies={0: copy_view(world, pod)},
        words={0: agent.word} if agent.word else {},
        asked={0: agent.asked} if agent.asked else {},
        taken_over={0: agent.news} if agent.news else {},
        promises={0: dict(agent.promises)},
    )


def run_agent(world: World, pod: int, commands: bool = True) -> World:
    """One pass of an agent; without `commands` it is killed after marks and gates were written."""
    view = agent_view(world, pod)
    decision = a.agent_step(view)
    agent = world.agents[pod]
    marks = decision.marks.get(0, agent.marks)
    gate = agent.gate
    for change in decision.gates:
        generation = gate.generation + change.new_generation
        gate = a.GateView(change.gate_epoch, generation, change.deadline_ns, True)
    world = replace(world, agents=_swap(world.agents, pod, replace(agent, marks=marks, gate=gate)))
    tokens = frozenset(message for message in decision.messages if message.token)
    world = replace(world, tokens=world.tokens | tokens)
    for command in decision.commands if commands else ():
        world = replace(world, redis=_swap(world.redis, pod, _apply(world, pod, command)))
    return world


def settle(world: World, pod: int) -> World:
    """Passes of an agent until nothing changes: what others do in between is seen only through the next read."""
    for _ in range(8):
        following = run_agent(world, pod)
        if following == world:
            return world
        world = following
    raise AssertionError(f"the agent of pod {pod} never comes to rest")


def _apply(world: World, pod: int, command: a.Command) -> Redis:
    redis = world.redis[pod]
    match command:
        case a.Start() | a.Restart():
            return Redis(up=True, run=redis.run + 1, source=None if world.variant == "starts as primary" else -1)
        case a.Remove():
            return replace(Redis(), run=redis.run)
        case a.Seal():
            return replace(redis, source=-1, linked=False, stream=redis.stream or redis.source is None)
        case a.Promote():
            return replace(redis, source=None, linked=False, stream=True, syncing=False)
        case a.Follow(host=host):
            stream = redis.stream or redis.source is None
            return replace(redis, source=int(host[1:]), linked=False, announced=True, stream=stream)
        case _:
            return redis


def replicate(world: World, pod: int) -> World | None:
    """One step of replication into this pod's redis, None when nothing can happen."""
    redis = world.redis[pod]
    if not redis.up or redis.source is None or redis.source < 0:
        return None
    source = world.redis[redis.source]
    reachable = source.up and not world.agents[pod].cut and not world.agents[redis.source].cut
    streams = source.source is None or (redis.linked and not redis.syncing)  # what is connected gets the rest
    if not reachable or not streams:  # -NOMASTERLINK
        new = replace(redis, linked=False)
    elif redis.syncing:
        new = replace(redis, syncing=False, log=source.log, linked=True, stream=True)
    elif redis.stream and redis.log == source.log[: len(redis.log)]:
        new = replace(redis, linked=True, log=source.log[: len(redis.log) + 1])
    else:
        new = replace(redis, syncing=True, linked=False, stream=False, log=())
    return None if new == redis else replace(world, redis=_swap(world.redis, pod, new))


def operator_view(world: World, which: int) -> o.OperatorView:
    """The input of `operator_step` for one of the operators."""
    operator = world.operators[which]
    pods = tuple(o.Pod(world.pod(i), f"demo-{i}", f"h{i}", f"z{i}", f"n{i}", True) for i in range(len(world.redis)))
    agents = {
        world.pod(i): o.PodView(
            report=report,
            suspicion=o.Suspicion.CONFIRMED
            if i in operator.suspected
            else o.Suspicion.NONE
            if report is not None
            else o.Suspicion.UNKNOWN,
            unreachable_since=0.0,
        )
        for i, report in enumerate(operator.reports)
    }
    return o.OperatorView(
        name="demo",
        nodes=len(pods),
        partitions=1,
        settings=SETTINGS,
        now=float(world.now),
        wall=0.0,
        map=operator.map,
        map_known=operator.known,
        pods=pods,
        agents=agents,
        seen_at={0: float(operator.seen_at)},
        timing=TIMING if world.variant != "promotes at once" else replace(TIMING, wait_margin=-9.0),
        memory=operator.memory,
    )


def run_operator(world: World, which: int) -> World:
    """One pass of an operator, with its compare-and-swap; a conflict makes it forget what it had read."""
    view = operator_view(world, which)
    view = replace(view, memory=_remember(view))
    decision = o.operator_step(view)
    operator = replace(world.operators[which], memory=view.memory)
    if decision.map is not None:
        current = world.map.version if world.map else ""
        if (operator.map.version if operator.map else "") != current:
            operator = replace(operator, map=None, known=False)
        else:
            ring = replace(decision.map, version=str(world.version + 1))
            changed = operator.map is None or operator.map.entries[0].epoch != ring.entries[0].epoch
            seen_at = world.now if changed else operator.seen_at
            operator = replace(operator, map=ring, seen_at=seen_at)
            world = replace(world, map=ring, version=world.version + 1)
            if ring.entries[0].state is State.LOST:
                world = replace(world, safe=frozenset(), acked=frozenset())
    return replace(world, operators=_swap(world.operators, which, operator))


def read_map(world: World, pod: int) -> World:
    """A quorum read by an agent: atomic here; authority counts from now."""
    agent = world.agents[pod]
    taken = world.map.entries[0] if world.map else agent.taken
    if taken is not None and agent.taken is not None and taken.epoch < agent.taken.epoch:
        taken = agent.taken
    return replace(
        world, agents=_swap(world.agents, pod, replace(agent, map=world.map, confirmed_at=world.now, taken=taken))
    )


def operator_reads(world: World, which: int) -> World:
    """The operator reads the map; what it finds changed counts from now."""
    operator = world.operators[which]
    same = operator.map is not None and world.map is not None and operator.map.entries[0] == world.map.entries[0]
    operator = replace(
        operator, map=world.map, known=True, seen_at=operator.seen_at if same and operator.known else world.now
    )
    return replace(world, operators=_swap(world.operators, which, operator))


def report(world: World, pod: int, which: int) -> World:
    """An agent's report reaches an operator."""
    made = a.agent_step(agent_view(world, pod)).report
    assert made is not None
    operator = world.operators[which]
    operator = replace(
        operator,
        reports=_swap(operator.reports, pod, replace(_frozen(made), draining=pod in world.emptied)),
        suspected=operator.suspected - {pod},
    )
    return replace(world, operators=_swap(world.operators, which, operator))


def ask(world: World, pod: int) -> World | None:
    """A hand-over message of a primary reaches the successor's agent, and the answer comes back; None when there is
    none to send."""
    messages = a.agent_step(agent_view(world, pod)).messages
    if not messages:
        return None
    other = world.index(messages[0].successor)
    if world.agents[pod].cut or world.agents[other].cut:
        return None
    world = hear(world, other, messages[0])
    answer = a.agent_step(agent_view(world, other)).answers.get(0)
    agent = world.agents[pod]
    return replace(world, agents=_swap(world.agents, pod, replace(agent, word=answer or agent.word)))


def hear(world: World, pod: int, message: a.HandoverMessage) -> World:
    """A hand-over message, perhaps an old one, reaches an agent."""
    return replace(world, agents=_swap(world.agents, pod, replace(world.agents[pod], asked=message)))


def tell(world: World, pod: int, other: int) -> World | None:
    """News of a take-over reaches another agent; None when there is none."""
    news = a.agent_step(agent_view(world, pod)).news.get(0)
    if news is None or world.agents[pod].cut or world.agents[other].cut:
        return None
    return replace(world, agents=_swap(world.agents, other, replace(world.agents[other], news=news)))


def promise(world: World, pod: int) -> World | None:
    """This agent cannot read the map and asks all whom it must for promises; None when there is nothing to ask."""
    view = replace(agent_view(world, pod), read_failing=True)
    asks = a.agent_step(view).asks
    if not asks or world.agents[pod].cut:
        return None
    given = dict(world.agents[pod].promises)
    for other, asked in asks.items():
        index = int(other[3:])
        if world.agents[index].cut:
            continue
        theirs = replace(agent_view(world, index), promise_asks={world.pod(pod): asked})
        decision = a.agent_step(theirs)
        marks = decision.marks.get(0, world.agents[index].marks)
        promised = replace(
            world.agents[index].marks, promised_epoch=marks.promised_epoch, promised_until_ns=marks.promised_until_ns
        )
        world = replace(world, agents=_swap(world.agents, index, replace(world.agents[index], marks=promised)))
        if 0 in decision.promised[world.pod(pod)]:
            given[other] = a.Promise(asked[0].epoch, world.now * TICK_NS)
    asker = replace(world.agents[pod], promises=tuple(sorted(given.items(), key=lambda item: item[0])))
    return replace(world, agents=_swap(world.agents, pod, asker))


def acknowledge(world: World, pod: int) -> World | None:
    """A router releases replies: to all writes that every required copy has, by name, through an open gate."""
    agent = world.agents[pod]
    if not is_open(world, pod) or agent.marks.required_epoch != agent.gate.gate_epoch:
        return None
    log = set(world.redis[pod].log)
    for copy in agent.marks.required:
        other = world.redis[world.index(copy)]
        follows = world.index(copy) == pod or (other.linked and other.source == pod and not other.syncing)
        if not other.up or f"r{other.run}" != copy.run_id or not follows:
            return None
        log &= set(other.log)
    return replace(world, acked=world.acked | log) if not log <= world.acked else None


class _Frozen(dict):  # type: ignore[type-arg]
    """A mapping that can stand in a hashable value; nothing changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _frozen(made: Report) -> Report:
    return replace(made, authority_s=0.0, routers=1, copies=_Frozen(made.copies), entries=_Frozen(made.entries))


def _remember(view: o.OperatorView) -> o.Memory:
    memory = o.remember(view)
    return o.Memory(*(_Frozen(getattr(memory, f.name)) for f in fields(memory)))


def write(world: World, pod: int) -> World:
    """A client's write through an open gate."""
    redis = world.redis[pod]
    new = replace(redis, log=(*redis.log, world.written))
    return replace(world, redis=_swap(world.redis, pod, new), written=world.written + 1)


def mark_safe(world: World) -> World:
    """Note the writes that every in-sync copy of the map has now (they must never be missing again, but for Lost)."""
    entry = world.map.entries[0] if world.map else None
    if entry is None or not entry.isr:
        return world
    logs = []
    for copy in entry.isr:
        redis = world.redis[world.index(copy)]
        if not redis.up or f"r{redis.run}" != copy.run_id:
            return world
        logs.append(set(redis.log))
    return replace(world, safe=world.safe | set.intersection(*logs))


def _handovers(world: World, i: int) -> Iterator[tuple[str, World]]:
    """What may happen next about a hand-over from, to or beside this pod."""
    asked = ask(world, i)
    if asked is not None:
        yield f"ask{i}", asked
    for token in world.tokens:
        if token.successor.pod == world.pod(i) and world.agents[i].asked != token and not world.agents[i].cut:
            yield f"token e{token.epoch}->{i}", hear(world, i, token)
    for other in range(len(world.redis)):
        told = tell(world, i, other) if other != i else None
        if told is not None:
            yield f"news{i}->{other}", told
    if world.budget.moves:
        spent = replace(world.budget, moves=world.budget.moves - 1)
        yield f"empty{i}", replace(world, emptied=world.emptied ^ {i}, budget=spent)


def successors(world: World) -> Iterator[tuple[str, World]]:
    """Every action that may happen next."""
    budget = world.budget
    for i, redis in enumerate(world.redis):
        agent = world.agents[i]
        if not agent.cut and not agent.blind:
            if agent.map != world.map or agent.confirmed_at != world.now:
                yield f"read{i}", read_map(world, i)
            for which in range(len(world.operators)):
                yield f"report{i}->{which}", report(world, i, which)
        yield f"agent{i}", settle(world, i)
        yield from _handovers(world, i)
        promised = promise(world, i)
        if promised is not None:
            yield f"promise{i}", promised
        acked = acknowledge(world, i)
        if acked is not None:
            yield f"ack{i}", acked
        copied = replicate(world, i)
        if copied is not None:
            yield f"replicate{i}", copied
        if is_open(world, i) and world.written < budget.writes and redis.source is None:
            yield f"write{i}", write(world, i)
        if budget.kills and redis.up:
            killed = replace(world, redis=_swap(world.redis, i, Redis(run=redis.run)))
            yield f"kill{i}", replace(killed, budget=replace(budget, kills=budget.kills - 1))
        if budget.agent_restarts:
            half = run_agent(world, i, commands=False)
            fresh = replace(half.agents[i], map=None, confirmed_at=0, word=None, asked=None, news=None, promises=())
            spent = replace(budget, agent_restarts=budget.agent_restarts - 1)
            yield f"agent{i} restarts", replace(half, agents=_swap(half.agents, i, fresh), budget=spent)
        if budget.cuts and not agent.cut:
            spent = replace(budget, cuts=budget.cuts - 1)
            yield f"cut{i}", replace(world, agents=_swap(world.agents, i, replace(agent, cut=True)), budget=spent)
        if budget.blinds and not agent.blind:
            spent = replace(budget, blinds=budget.blinds - 1)
            yield f"blind{i}", replace(world, agents=_swap(world.agents, i, replace(agent, blind=True)), budget=spent)
        if agent.cut or agent.blind:
            for which, operator in enumerate(world.operators):
                if i not in operator.suspected and operator.reports[i] is not None:
                    suspect = replace(operator, suspected=operator.suspected | {i})
                    yield f"suspect{i}", replace(world, operators=_swap(world.operators, which, suspect))
            yield f"heal{i}", replace(world, agents=_swap(world.agents, i, replace(agent, cut=False, blind=False)))
    for which, operator in enumerate(world.operators):
        if operator.map != world.map or not operator.known:
            yield f"operator{which} reads", operator_reads(world, which)
        yield f"operator{which}", run_operator(world, which)
        if budget.operator_restarts:
            fresh_operator = Operator(reports=(None,) * len(world.redis))
            spent = replace(budget, operator_restarts=budget.operator_restarts - 1)
            yield (
                f"operator{which} restarts",
                replace(world, operators=_swap(world.operators, which, fresh_operator), budget=spent),
            )
    if budget.map_losses and world.map is not None:
        yield "map deleted", replace(world, map=None, budget=replace(budget, map_losses=budget.map_losses - 1))
    if world.now < budget.horizon:
        yield "tick", replace(world, now=world.now + 1)


def violation(world: World) -> str | None:
    """Which invariant this world breaks, None when it is good."""
    open_gates = [i for i in range(len(world.redis)) if is_open(world, i)]
    if len(open_gates) > 1:
        return f"I2: two open gates: {open_gates}"
    for i in open_gates:
        redis, agent = world.redis[i], world.agents[i]
        if redis.source is None and f"r{redis.run}" == agent.marks.run_id and not world.safe <= set(redis.log):
            return f"a replicated write is missing at the open gate of pod {i}: {world.safe} {redis.log}"
        if redis.source is None and f"r{redis.run}" == agent.marks.run_id and not world.acked <= set(redis.log):
            return f"I1: an acknowledged write is missing at the open gate of pod {i}: {world.acked} {redis.log}"
    for token in world.tokens:
        heir = world.index(token.successor)
        agent, former = world.agents[heir], world.redis[world.index(token.primary)]
        took_over = is_open(world, heir) and agent.gate.gate_epoch == agent.marks.taken_over_epoch == token.epoch
        if took_over and len(world.redis[heir].log) < token.offset - 1:
            return f"I8: pod {heir} took over without all that pod {token.primary.pod} had: {former.log}"
    for i, redis in enumerate(world.redis):
        if (
            redis.up
            and redis.source is None
            and world.agents[i].gate.gate_epoch == SHUT
            and redis.run
            and not redis.stream
        ):
            return f"I5: a process started as primary on pod {i}"
    return None
