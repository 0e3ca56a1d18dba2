"""What agents say to each other in the model: hand-overs by token, news of take-overs, promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from protocol_values import NOW_NS, World, put, put_agent, remembered, spend
from protocol_world import agent_view, copy_view, decide

from cachecluster_core import agent_step as a
from cachecluster_core.pod_table import Marks


def hand_overs(world: World, i: int) -> Iterator[tuple[str, World]]:
    """What may happen next about a hand-over from, to or beside this pod."""
    asked = ask(world, i)
    if asked is not None and asked is not world:
        yield f"ask{i}", asked
    for token in world.tokens:
        if token.successor.pod == world.pod(i) and world.agents[i].asked != token and not world.agents[i].cut:
            yield f"token e{token.epoch}->{i}", hear(world, i, token)
    for other in range(len(world.redis)):
        told = tell(world, i, other) if other != i else None
        if told is not None:
            yield f"news{i}->{other}", told
    if world.budget.moves:
        yield f"empty{i}", put(spend(world, "moves"), emptied=world.emptied ^ {i})


def ask(world: World, pod: int) -> World | None:
    """A hand-over message of a primary reaches the successor's agent, and the answer comes back; None when there is
    none to send."""
    messages = decide(world, pod).messages
    if not messages:
        return None
    message, other = messages[0], world.index(messages[0].successor)
    if message.token and world.agents[pod].marks.hand_over.token_offset < 0:
        return None  # it is recorded first
    if world.agents[pod].cut or world.agents[other].cut:
        return None
    if message.token:
        world = hear(world, other, message)
    hearing = hear(world, other, message)
    answer = decide(hearing, other).answers.get(0)
    if answer is None or answer == world.agents[pod].word or answer.epoch < world.agents[pod].marks.seen_epoch:
        return world
    return put_agent(world, pod, word=answer)


def hear(world: World, pod: int, message: a.HandoverMessage) -> World:
    """A hand-over message, perhaps an old one, reaches an agent."""
    return world if world.agents[pod].asked == message else put_agent(world, pod, asked=message)


def tell(world: World, pod: int, other: int) -> World | None:
    """News of a take-over reaches another agent; None when there is none."""
    news = decide(world, pod).news.get(0)
    if news is None or world.agents[pod].cut or world.agents[other].cut or world.agents[other].news == news:
        return None
    return put_agent(world, other, news=news)


def promise(world: World, pod: int) -> World | None:
    """This agent cannot read the map and asks all whom it must for promises; None when there is nothing to ask. Where
    promises take their time they are then on their way back."""
    asks = _asks(world, pod)
    if not asks or world.agents[pod].cut:
        return None
    delayed = pod in world.rules.delayed
    given = dict(world.agents[pod].given if delayed else world.agents[pod].promises)
    for other, asked in asks.items():
        index = int(other[3:])
        if world.agents[index].cut:
            continue
        marks, promised = _promised(world, pod, index, asked)
        if marks != world.agents[index].marks:
            world = put_agent(world, index, marks=marks)
        if promised:
            given[other] = a.Promise(asked[0].epoch, NOW_NS)
    promises = tuple(sorted(given.items(), key=lambda item: item[0]))
    return put_agent(world, pod, given=promises) if delayed else put_agent(world, pod, promises=promises)


def _asks(world: World, pod: int) -> Mapping[str, Mapping[int, a.PromiseAsk]]:
    key = ("asks", world.agents[pod], pod, id(copy_view(world, pod)))
    return remembered(key, lambda: a.agent_step(replace(agent_view(world, pod), read_failing=True)).asks)


def _promised(world: World, pod: int, other: int, asked: Mapping[int, a.PromiseAsk]) -> tuple[Marks, bool]:
    """The marks of who is asked for a promise, and whether it is given."""

    def make() -> tuple[Marks, bool]:
        decision = a.agent_step(replace(agent_view(world, other), promise_asks={world.pod(pod): asked}))
        old = world.agents[other].marks
        marks = decision.marks.get(0, old)
        promised = replace(old, promised_epoch=marks.promised_epoch, promised_until_ns=marks.promised_until_ns)
        return promised, 0 in decision.promised[world.pod(pod)]

    key = ("promised", world.agents[other], pod, other, asked[0], id(copy_view(world, other)))
    return remembered(key, make)
