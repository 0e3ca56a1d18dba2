"""A small world around the shipped step functions, for the model checker and the simulations: who does what in a step.

Everything is a value (`protocol_values`), in its canonical form (`protocol_forms`). Agents and operator are the shipped
`agent_step`, `remember` and `operator_step`; the same view gives the same decision, so that each is asked once. Redis,
the API server and the network are modelled: a redis is a log of writes with the replication rules the design relies on.
What may happen next is said by `protocol_actions` and `protocol_handovers`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from protocol_forms import agent_form, map_form, operator_form, report_form
from protocol_values import (
    CLOCK,
    NOW_NS,
    TICK_NS,
    Agent,
    Frozen,
    Operator,
    Redis,
    Rules,
    World,
    put,
    put_operator,
    put_redis,
    remembered,
    swap,
)

from cachecluster_core import agent_step as a
from cachecluster_core import operator_step as o
from cachecluster_core.agent_view import NOWHERE
from cachecluster_core.gate_step import SHUT, may_serve
from cachecluster_core.hashring import CopyId, HashRing, State
from cachecluster_core.report import Process

LATE_NS = 3 * TICK_NS
"""By how much an agent's clock is ahead in a step in which its patience with a hand-over is at an end."""


def is_open(world: World, pod: int) -> bool:
    """Whether a client command would reach the redis of this pod now."""
    gate = world.agents[pod].gate
    if gate.gate_epoch == SHUT or not world.redis[pod].up:
        return False
    return may_serve(1, 1, gate.gate_epoch, 0, gate.deadline_ns, NOW_NS)


def copy_view(world: World, pod: int) -> a.CopyView:
    """What the agent observes of its redis; a ping precedes every log, so that no offset is 0."""
    return remembered(("copy", world.redis, pod), lambda: _copy_view(world, pod))


def _copy_view(world: World, pod: int) -> a.CopyView:
    redis = world.redis[pod]
    if not redis.up:
        return a.CopyView(process=Process.DEAD if redis.run else Process.ABSENT)
    source = None if redis.source is None else NOWHERE if redis.source < 0 else (f"h{redis.source}", 17000)
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
        settled_offset=1,  # all of 1.5 s ago may be nothing
        attached=attached,
        announce=f"{world.pod(pod)}.r{redis.run}" if redis.announced else "",
        observed_ns=NOW_NS,
    )


def agent_view(world: World, pod: int) -> a.AgentView:
    """The input of `agent_step` for this pod."""
    agent = world.agents[pod]
    return a.AgentView(
        pod=world.pod(pod),
        map=agent.map,
        confirmed_at_ns=agent.confirmed_at * TICK_NS,
        now_ns=NOW_NS,
        taken={0: agent.taken} if agent.taken else {},
        marks={0: agent.marks},
        gates={0: agent.gate},
        copies={0: copy_view(world, pod)},
        words={0: agent.word} if agent.word else {},
        asked={0: agent.asked} if agent.asked else {},
        taken_over={0: agent.news} if agent.news else {},
        promises={0: dict(agent.promises)},
        read_failing=agent.cut or agent.blind,
    )


def decide(world: World, pod: int) -> a.AgentDecision:
    """What the agent of this pod decides now."""
    key = ("decide", world.agents[pod], pod, id(copy_view(world, pod)))
    return remembered(key, lambda: a.agent_step(agent_view(world, pod)))


@dataclass(frozen=True)
class Passed:
    """What a pass of an agent comes to: itself afterwards, tokens on their way, commands for its redis."""

    agent: Agent
    tokens: frozenset[a.HandoverMessage]
    commands: tuple[a.Command, ...]


def _passed(world: World, pod: int, late: bool) -> Passed:
    agent = world.agents[pod]
    if late:
        view = agent_view(world, pod)
        decision = a.agent_step(replace(view, now_ns=view.now_ns + LATE_NS))
    else:
        decision = decide(world, pod)
    gate = agent.gate
    for change in decision.gates:
        gate = a.GateView(change.gate_epoch, 0, change.deadline_ns, True)
    after = agent_form(replace(agent, marks=decision.marks.get(0, agent.marks), gate=gate), world.rules)
    tokens = frozenset(message for message in decision.messages if message.token)
    return Passed(agent if after == agent else after, tokens, decision.commands)


def run_agent(world: World, pod: int, commands: bool = True, late: bool = False) -> World:
    """One pass of an agent; without `commands` it is killed after marks and gates were written."""
    key = ("pass", world.agents[pod], pod, late, id(copy_view(world, pod)))
    passed = remembered(key, lambda: _passed(world, pod, late))
    if passed.agent is not world.agents[pod]:
        world = put(world, agents=swap(world.agents, pod, passed.agent))
    if not passed.tokens <= world.tokens:
        world = put(world, tokens=world.tokens | passed.tokens)
    for command in passed.commands if commands else ():
        redis = world.redis[pod]
        after = remembered((redis, command), lambda: apply(redis, command, world.rules))  # noqa: B023
        if after != redis:
            world = put_redis(world, pod, after)
    return world


def settle(world: World, pod: int) -> World:
    """Passes of an agent until nothing changes: what others do in between is seen only through the next read."""
    for _ in range(9):
        following = run_agent(world, pod)
        if following is world:
            return world
        world = following
    raise AssertionError(f"the agent of pod {pod} never comes to rest")


def apply(redis: Redis, command: a.Command, rules: Rules) -> Redis:
    """What a command makes of a redis."""
    match command:
        case a.Start() | a.Restart():
            return Redis(up=True, run=redis.run + 1, source=None if rules.variant == "starts as primary" else -1)
        case a.Remove():
            return replace(Redis(), run=redis.run)
        case a.Seal():
            return replace(redis, source=-1, linked=False, announced=False, stream=redis.stream or redis.source is None)
        case a.Promote():
            return replace(redis, source=None, linked=False, announced=False, stream=True, syncing=False)
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
    new = remembered(("replicate", redis, source, reachable), lambda: _replicated(redis, source, reachable))
    return None if new is redis else put_redis(world, pod, new)


def _replicated(redis: Redis, source: Redis, reachable: bool) -> Redis:
    streams = source.source is None or (source.linked and not source.syncing) or (redis.linked and not redis.syncing)
    if not reachable or not streams:  # -NOMASTERLINK; what is connected gets the rest
        new = replace(redis, linked=False)
    elif redis.syncing:
        new = replace(redis, syncing=False, log=source.log, linked=True, stream=True)
    elif redis.stream and redis.log == source.log[: len(redis.log)]:
        new = replace(redis, linked=True, log=source.log[: len(redis.log) + 1])
    else:
        new = replace(redis, syncing=True, linked=False, stream=False, log=())
    return redis if new == redis else new


def operator_view(world: World, which: int) -> o.OperatorView:
    """The input of `operator_step` for one of the operators."""
    operator, rules = world.operators[which], world.rules
    pods = tuple(o.Pod(world.pod(i), f"demo-{i}", f"h{i}", f"z{i}", f"n{i}", True) for i in range(len(world.redis)))
    agents = {
        world.pod(i): o.PodView(
            report=report,
            suspicion=o.Suspicion.CONFIRMED
            if i in operator.suspected
            else o.Suspicion.NONE
            if report is not None
            else o.Suspicion.UNKNOWN,
            unreachable_since=float(operator.heard[i]) if operator.heard else 0.0,
        )
        for i, report in enumerate(operator.reports)
    }
    return o.OperatorView(
        name="demo",
        nodes=len(pods),
        partitions=1,
        settings=rules.settings,
        now=float(CLOCK),
        wall=0.0,
        map=operator.map,
        map_known=operator.known,
        pods=pods,
        agents=agents,
        seen_at={0: float(operator.seen_at)},
        timing=rules.timing if rules.variant != "promotes at once" else replace(rules.timing, wait_margin=-9.0),
        memory=operator.memory,
    )


def _decided(world: World, which: int) -> tuple[Operator, HashRing | None]:
    view = operator_view(world, which)
    memory = o.remember(view)
    view = replace(view, memory=o.Memory(*(Frozen(getattr(memory, it.name)) for it in fields(memory))))
    decision = o.operator_step(view)
    ring = map_form(decision.map) if decision.map is not None else None
    operator = world.operators[which]
    return (operator if view.memory == operator.memory else replace(operator, memory=view.memory)), ring


def run_operator(world: World, which: int) -> World:
    """One pass of an operator, with its compare-and-swap; a conflict makes it forget what it had read."""
    before = world.operators[which]
    key = ("operator", before, len(world.redis))
    operator, ring = remembered(key, lambda: _decided(world, which))
    if ring is None:
        return world if operator is before else put_operator(world, which, operator)
    if before.map is not world.map and before.map != world.map:
        return put_operator(world, which, replace(operator, map=None, known=False))
    if world.rules.last_epoch and ring.entries[0].epoch > world.rules.last_epoch:
        return world if operator is before else put_operator(world, which, operator)
    changed = operator.map is None or operator.map.entries[0].epoch != ring.entries[0].epoch
    written = replace(operator, map=ring, seen_at=CLOCK if changed else operator.seen_at)
    return put_operator(write_map(world, ring), which, operator_form(written, world.rules))


def write_map(world: World, ring: HashRing) -> World:
    """The map that the API server has from now on."""
    lost = ring.entries[0].state is State.LOST
    past = (*world.past, world.map) if world.rules.timeless and world.map is not None else ()
    return put(world, map=ring, past=past, **({"safe": frozenset(), "acked": frozenset()} if lost else {}))


def read_map(world: World, pod: int) -> World:
    """A quorum read by an agent: atomic; authority counts from now."""
    return take_map(world, pod, CLOCK, world.map)


def take_map(world: World, pod: int, sent_at: int, ring: HashRing | None) -> World:
    """The answer to a read that was sent at this time."""
    agent = world.agents[pod]
    if agent.map is ring and agent.confirmed_at == sent_at and agent.read is None:
        return world

    def make() -> Agent:
        taken = ring.entries[0] if ring is not None else agent.taken
        if taken is not None and agent.taken is not None and taken.epoch < agent.taken.epoch:
            taken = agent.taken
        read = replace(agent, map=ring, confirmed_at=max(sent_at, agent.confirmed_at), taken=taken, read=None)
        return agent_form(read, world.rules)

    key = ("take", agent, sent_at, id(ring))
    return put(world, agents=swap(world.agents, pod, remembered(key, lambda: (make(), ring))[0]))


def operator_reads(world: World, which: int) -> World:
    """The operator reads the map; what it finds changed counts from now."""
    operator = world.operators[which]
    same = operator.map is not None and world.map is not None and operator.map.entries[0] == world.map.entries[0]
    seen_at = operator.seen_at if same and operator.known else CLOCK
    after = replace(operator, map=world.map, known=True, seen_at=seen_at)
    return put_operator(world, which, operator_form(after, world.rules))


def report(world: World, pod: int, which: int) -> World:
    """An agent's report reaches an operator."""
    made = decide(world, pod).report
    assert made is not None
    operator, emptied = world.operators[which], pod in world.emptied

    def make() -> Operator:
        entry = operator.map.entries[0] if operator.map is not None else None
        formed = report_form(replace(made, draining=emptied), entry, world.rules)
        heard = swap(operator.heard, pod, CLOCK) if operator.heard else ()
        reports, suspected = swap(operator.reports, pod, formed), operator.suspected - {pod}
        after = replace(operator, reports=reports, suspected=suspected, heard=heard)
        return operator if after == operator else after

    key = ("report", operator, pod, emptied, id(made))
    after = remembered(key, lambda: (make(), made))[0]
    return world if after is operator else put_operator(world, which, after)


def mark_safe(world: World) -> World:
    """Note the writes that every in-sync copy of the map has now, and every learner that the primary requires already:
    they must never be missing again, but for Lost."""
    entry = world.entry
    if entry is None or not entry.isr or world.rules.timeless:
        return world
    copies = set(entry.isr)
    if entry.primary is not None:
        marks = world.agents[world.index(entry.primary)].marks
        copies |= set(marks.required) if marks.required_epoch == entry.epoch else set()
    safe: set[int] | None = None
    for copy in copies:
        redis = world.redis[world.index(copy)]
        if not redis.up or f"r{redis.run}" != copy.run_id:
            return world
        safe = set(redis.log) if safe is None else safe & set(redis.log)
    return world if not safe or safe <= world.safe else put(world, safe=world.safe | safe)
