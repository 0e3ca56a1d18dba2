"""Every action that may happen next in the model's world, and which worlds break an invariant.

With time (`Rules.timeless` is False) authority lapses, the operator waits, and everything that is remembered grows old.
A read is sent when it is answered: one that was sent earlier gives the same map, for a shorter time.

Without time authority never lapses, and every wait may be over and may not be: the operator decides with any one pod
suspected or ending, and with any age of what it knows. That allows more than can happen, so that only what does not
depend on time is looked for (`violation`). Three things keep it small. The operator decides on what all agents would
report now; what it decided on a moment ago is the same as writing then, because an agent may also take a map that has
been replaced meanwhile. (Reports of different pods from different moments are left to the scenarios with time.) A map
is taken with the pass that acts on it, because nobody sees a map that was taken and not acted on; with `Rules.to_rest`
the passes that follow it are taken too. A path ends where the partition is lost: no write from before is kept then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from protocol_forms import agent_form, map_form, older, report_form
from protocol_handovers import hand_overs, promise
from protocol_values import (
    CLOCK,
    Agent,
    Operator,
    Redis,
    World,
    new_operator,
    put,
    put_agent,
    put_operator,
    put_redis,
    remembered,
    spend,
    swap,
)
from protocol_world import (
    decide,
    is_open,
    operator_reads,
    operator_view,
    read_map,
    replicate,
    report,
    run_agent,
    run_operator,
    settle,
    take_map,
    write_map,
)

from cachecluster_core import operator_step as o
from cachecluster_core.gate_step import SHUT
from cachecluster_core.hashring import Entry, HashRing, State
from cachecluster_core.pod_table import Marks
from cachecluster_core.report import Report

LONG_AGO = CLOCK - 50


Actions = Iterator[tuple[str, World]]


def groups(world: World) -> list[tuple[int, Callable[[], Actions]]]:
    """The actions that may happen next, by who acts, with how often a walk takes one of such a group."""
    by_group: list[tuple[int, Callable[[], Actions]]] = []
    for i in range(len(world.redis)):
        acts = _without_time if world.rules.timeless else _with_time
        by_group += [(8, partial(acts, world, i)), (3, partial(hand_overs, world, i))]
        by_group += [(4, partial(_data, world, i)), (1, partial(_agent_restarts, world, i))]
    if world.rules.timeless:
        by_group.append((8, partial(_operator_without_time, world)))
    by_group += [(5, partial(_operator_with_time, world, which)) for which in range(len(world.operators))]
    by_group.append((4, partial(_elsewhere, world)))
    return by_group


def successors(world: World) -> Actions:
    """Every action that may happen next; the world after it is the same object when it changes nothing."""
    for _, actions in groups(world):
        yield from actions()


def _elsewhere(world: World) -> Actions:
    """Time passes, or the map is lost."""
    if world.budget.map_losses and world.map is not None:
        yield "map deleted", put(spend(world, "map_losses"), map=None)
    if world.budget.ticks:
        aged = older(world)
        yield "tick", spend(aged, "ticks") if world.budget.ticks > 0 else aged


def _with_time(world: World, i: int) -> Actions:
    """An agent reads, reports, acts and promises; it is cut off and comes back."""
    agent, budget = world.agents[i], world.budget
    if not agent.cut:
        if agent.blind:
            pass
        elif i in world.rules.delayed:
            yield from _delayed_read(world, i)
        elif agent.map is not world.map or agent.confirmed_at != CLOCK:
            yield f"read{i}", _at_rest(read_map(world, i), i)
        for which in range(len(world.operators)):
            yield f"report{i}->{which}", report(world, i, which)
    yield f"agent{i}", settle(world, i)
    promised = promise(world, i)
    if promised is not None:
        yield f"promise{i}", promised
    if agent.given:
        arrived = tuple(sorted({**dict(agent.promises), **dict(agent.given)}.items(), key=lambda item: item[0]))
        yield f"promises reach {i}", _at_rest(put_agent(world, i, promises=arrived, given=()), i)
    if budget.cuts and not agent.cut:
        yield f"cut{i}", put_agent(spend(world, "cuts"), i, cut=True)
    if budget.blinds and not agent.blind:
        yield f"blind{i}", put_agent(spend(world, "blinds"), i, blind=True)
    for which, operator in enumerate(world.operators):
        if (agent.cut or agent.blind or budget.suspicions) and i not in operator.suspected and operator.reports[i]:
            suspect = replace(operator, suspected=operator.suspected | {i})
            spent = world if agent.cut or agent.blind else spend(world, "suspicions")
            yield f"suspect{i}", put_operator(spent, which, suspect)
    if agent.cut or agent.blind:
        yield f"heal{i}", put_agent(world, i, cut=False, blind=False)


def _delayed_read(world: World, i: int) -> Actions:
    """A read is sent and answered now, and the answer comes later, or never: then another one is sent."""
    read = world.agents[i].read
    if read is None or read[0] != CLOCK or read[1] is not world.map:
        key = ("sent", world.agents[i], id(world.map))
        sent, _ = remembered(key, lambda: (replace(world.agents[i], read=(CLOCK, world.map)), world.map))
        yield f"read{i} is answered", put(world, agents=swap(world.agents, i, sent))
    if read is not None:
        yield f"read{i} comes", _at_rest(take_map(world, i, *read), i)


def _at_rest(world: World, i: int) -> World:
    """The agent acts on what it has just learned, at once if so ruled."""
    return settle(world, i) if world.rules.to_rest else world


def readable(world: World, i: int) -> Iterator[HashRing]:
    """Without time: the maps that an agent may act on next; the one it has is among them. One below its floor is as
    good as none (`protocol_forms`)."""
    have, floor = world.agents[i].map, world.agents[i].marks.seen_epoch
    maps = (*world.past, world.map)
    begin = next((n for n, ring in enumerate(maps) if ring is have), 0) if have is not None else 0
    yield from (ring for ring in maps[begin:] if ring is not None and ring.entries[0].epoch >= floor)


def _without_time(world: World, i: int) -> Actions:
    """An agent takes a map, or keeps the one it has, and acts: one pass, or as many as it takes to come to rest."""
    act = settle if world.rules.to_rest else run_agent
    if world.agents[i].map is None:
        yield f"agent{i}", forget_past(act(world, i))
    for ring in readable(world, i):
        taken = take_map(world, i, CLOCK, ring)
        yield f"agent{i} e{ring.entries[0].epoch}", forget_past(act(taken, i))
        entry = ring.entries[0]
        if entry.state is State.MOVING and entry.primary is not None and entry.primary.pod == world.pod(i):
            late = run_agent(taken, i, late=True)
            yield f"agent{i} e{entry.epoch} is late", forget_past(settle(late, i) if world.rules.to_rest else late)


def forget_past(world: World) -> World:
    """Only maps that somebody may still read are kept: no agent goes back, nor below its floor."""
    if not world.past:
        return world
    first = len(world.past)
    for agent in world.agents:
        have, floor = agent.map, agent.marks.seen_epoch
        needs = (
            n
            for n, ring in enumerate(world.past[:first])
            if ring is have or (have is None and ring.entries[0].epoch >= floor)
        )
        first = min(first, next(needs, first))
    return put(world, past=world.past[first:]) if first else world


def _data(world: World, i: int) -> Actions:
    """Writes, replication, replies, and the end of a process."""
    redis = world.redis[i]
    copied = replicate(world, i)
    if copied is not None:
        yield f"replicate{i}", copied
    if world.budget.writes and redis.source is None and is_open(world, i):
        yield f"write{i}", write(world, i)
    if world.budget.kills and redis.up:
        yield f"kill{i}", put_redis(spend(world, "kills"), i, Redis(run=redis.run))


def _agent_restarts(world: World, i: int) -> Actions:
    """An agent is killed, perhaps between its marks and its commands, and begins anew."""
    if not world.budget.agent_restarts:
        return
    halves = [world, run_agent(world, i, commands=False)]
    if world.rules.timeless:
        halves += [run_agent(take_map(world, i, CLOCK, ring), i, commands=False) for ring in readable(world, i)]
    for half in halves:
        agent = half.agents[i]

        def fresh(agent: Agent = agent) -> Agent:
            none: dict[str, None] = dict.fromkeys(("map", "word", "asked", "news", "read"))
            kept = Marks() if world.rules.variant == "forgets marks" else agent.marks
            return agent_form(replace(agent, **none, marks=kept, confirmed_at=0, promises=(), given=()), world.rules)

        anew = put(half, agents=swap(half.agents, i, remembered(("fresh", agent), fresh)))
        yield f"agent{i} restarts", forget_past(spend(anew, "agent_restarts"))


def _operator_with_time(world: World, which: int) -> Actions:
    operator = world.operators[which]
    if (operator.map is not world.map and operator.map != world.map) or not operator.known:
        yield f"operator{which} reads", operator_reads(world, which)
    yield f"operator{which}", run_operator(world, which)
    if world.budget.operator_restarts:
        fresh = new_operator(len(world.redis), world.rules)
        yield f"operator{which} restarts", put_operator(spend(world, "operator_restarts"), which, fresh)


def _operator_without_time(world: World) -> Actions:
    """All that an operator may write next, whoever it suspects, and however old what it knows is."""
    last, entry = world.rules.last_epoch, world.entry
    assert entry is not None
    reports = tuple(fresh_report(world, i, entry) for i in range(len(world.redis)))
    for ring in remembered(("choices", id(world.map), reports), lambda: (_choices(world, reports), world.map))[0]:
        if not last or ring.entries[0].epoch <= last:
            label = f"operator writes e{ring.entries[0].epoch} {ring.entries[0].state}"
            yield label, forget_past(write_map(world, ring))


def fresh_report(world: World, pod: int, entry: Entry) -> Report:
    """What the agent would report now, to an operator that knows this entry."""
    made = decide(world, pod).report
    assert made is not None
    key = ("fresh report", id(made), entry.epoch)
    return remembered(key, lambda: (report_form(made, entry, world.rules), made))[0]


def _choices(world: World, reports: tuple[Report, ...]) -> tuple[HashRing, ...]:
    """Nothing is looked for beyond the loss of a partition: no write that was made before it is kept."""
    operator = Operator(map=world.map, known=True, reports=reports)
    base = operator_view(put(world, operators=(operator,)), 0)
    primary = world.entry.primary.pod if world.entry is not None and world.entry.primary is not None else None
    doubts: list[tuple[str | None, str | None]] = [(None, None), *((pod, None) for pod in base.agents)]
    doubts += [(None, primary)] if primary is not None else []
    views = [
        replace(base, agents=_told(base, suspected, emptied), seen_at={0: float(since)})
        for suspected, emptied in doubts
        for since in (CLOCK, LONG_AGO)
    ]
    rings: dict[HashRing, None] = {}
    for view in views:
        memory = o.remember(replace(view, now=view.seen_at[0]))
        decided = o.operator_step(replace(view, memory=memory)).map
        if decided is not None:
            rings[map_form(decided)] = None
    unwanted = {State.LOST} if world.rules.hand_overs else {State.LOST, State.MOVING}
    wanted = (ring for ring in rings if ring != world.map and ring.entries[0].state not in unwanted)
    return tuple(sorted(wanted, key=repr))


def _told(view: o.OperatorView, suspected: str | None, emptied: str | None) -> dict[str, o.PodView]:
    """What an operator knows of the pods when it suspects one, or the agent of one says that the pod is ending."""
    told = {}
    for pod, it in view.agents.items():
        suspicion = o.Suspicion.CONFIRMED if pod == suspected else o.Suspicion.NONE
        assert it.report is not None
        told[pod] = replace(it, suspicion=suspicion, report=replace(it.report, draining=pod == emptied))
    return told


def answered(world: World) -> World:
    """The world in which every reply that may leave has left. Nothing but the invariants asks what was answered, and
    the more was, the more must be there: so that a later moment need not be looked at."""
    for pod in range(len(world.redis)):
        world = acknowledge(world, pod) or world
    return world


def acknowledge(world: World, pod: int) -> World | None:
    """A router releases replies: to all writes that every required copy has, by name, through an open gate."""
    agent = world.agents[pod]
    if agent.marks.required_epoch != agent.gate.gate_epoch or not is_open(world, pod):
        return None
    log = set(world.redis[pod].log)
    if log <= world.acked:
        return None
    for copy in agent.marks.required:
        other = world.redis[world.index(copy)]
        follows = world.index(copy) == pod or (other.linked and other.source == pod and not other.syncing)
        if not other.up or f"r{other.run}" != copy.run_id or not follows:
            return None
        log &= set(other.log)
    return put(world, acked=world.acked | log) if not log <= world.acked else None


def write(world: World, pod: int) -> World:
    """A client's write through an open gate."""
    redis = world.redis[pod]
    new = remembered(("write", redis, world.written), lambda: replace(redis, log=(*redis.log, world.written)))
    return put_redis(put(spend(world, "writes"), written=world.written + 1), pod, new)


def violation(world: World) -> str | None:
    """Which invariant this world breaks, None when it is good. Without time gates of lower epochs are no matter."""
    open_gates = [i for i in range(len(world.redis)) if is_open(world, i)]
    if world.rules.timeless:
        epochs = [world.agents[i].gate.gate_epoch for i in open_gates]
        if len(set(epochs)) < len(epochs):
            return f"I2: two open gates at one epoch: {open_gates}"
        current = world.entry.epoch if world.entry is not None else 0
        open_gates = [i for i in open_gates if world.agents[i].gate.gate_epoch == current]
    elif len(open_gates) > 1:
        return f"I2: two open gates: {open_gates}"
    for i in open_gates:
        redis, agent = world.redis[i], world.agents[i]
        if redis.source is None and f"r{redis.run}" == agent.marks.run_id:
            if not world.safe <= set(redis.log):
                return f"a replicated write is missing at the open gate of pod {i}: {world.safe} {redis.log}"
            if not world.acked <= set(redis.log):
                return f"I1: an acknowledged write is missing at the open gate of pod {i}: {world.acked} {redis.log}"
    return _broken_hand_over(world) or _started_as_primary(world)


def _broken_hand_over(world: World) -> str | None:
    for token in world.tokens:
        heir = world.index(token.successor)
        agent, former = world.agents[heir], world.redis[world.index(token.primary)]
        took_over = agent.gate.gate_epoch == agent.marks.taken_over_epoch == token.epoch and is_open(world, heir)
        if took_over and len(world.redis[heir].log) < token.offset - 1:
            return f"I8: pod {heir} took over without all that pod {token.primary.pod} had: {former.log}"
    return None


def _started_as_primary(world: World) -> str | None:
    for i, redis in enumerate(world.redis):
        shut = world.agents[i].gate.gate_epoch == SHUT
        if redis.up and redis.source is None and shut and redis.run and not redis.stream:
            return f"I5: a process started as primary on pod {i}"
    return None
