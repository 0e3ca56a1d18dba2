"""The agent's part in hand-overs that talks to other agents, and remembers what they said (A5, A6).

`agent_step` decides what to say; here it is said, again and again until the step says something else, and what comes
back is kept for the next step: `words`, `asked` and `taken_over` of its view. All of it is in memory only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import aiohttp

from cachecluster_core.agent_view import AgentDecision, HandoverMessage, HandoverWord, TakenOver
from cachecluster_core.hashring import Entry, HashRing, State

from .handover_messages import is_answered, message_to_json, news_to_json, word_from_json
from .peer_agents import PeerAgents, Refused

log = logging.getLogger(__name__)

HANDOVER_PATH = "/v1/handover"
TAKEN_OVER_PATH = "/v1/taken-over"
RESEND_S = 0.02
"""From one sending of a message to the next, unless its answer takes longer."""
HOLD_S = 0.1
"""How long an answer that does not yet say what was asked for is held back."""
NEWS_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 0.0)
"""After each time that news could not be told; then the map tells it."""

UNANSWERED = (OSError, TimeoutError, aiohttp.ClientError, Refused, ValueError)


class HandOvers:
    """`on_change`: there is something new about a partition for the next step. `on_news`: another copy serves one.
    `on_asked`: a message of a primary came."""

    def __init__(
        self,
        pod: str,
        peers: PeerAgents,
        on_change: Callable[[int], None],
        on_news: Callable[[], None],
        on_asked: Callable[[HandoverMessage], None],
    ) -> None:
        self.words: dict[int, HandoverWord] = {}
        self.asked: dict[int, HandoverMessage] = {}
        self.taken_over: dict[int, TakenOver] = {}
        self._pod = pod
        self._peers = peers
        self._on_change = on_change
        self._on_news = on_news
        self._on_asked = on_asked
        self._ring: HashRing | None = None
        self._saying: dict[int, tuple[HandoverMessage, asyncio.Task[None]]] = {}
        self._told: dict[int, TakenOver] = {}
        self._answers: Mapping[int, HandoverWord] = {}
        self._decided = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """This agent waits for another one's answer."""
        return bool(self._saying)

    @property
    def said(self) -> Iterable[int]:
        """The partitions about which it waits for an answer."""
        return self._saying.keys()

    def is_ahead(self, partition: int, epoch: int) -> bool:
        """Somebody acts on a newer entry than the one known here."""
        entry = self._entry(partition)
        return entry is None or epoch > entry.epoch

    def use_map(self, ring: HashRing | None) -> None:
        """The map was read: forget what is over."""
        self._ring = ring
        self.words = {p: word for p, word in self.words.items() if self._moving(p) is not None}
        self.asked = {p: asked for p, asked in self.asked.items() if self._concerns(p, asked.epoch)}
        self.taken_over = {p: news for p, news in self.taken_over.items() if self._is_current(p, news)}

    def carry_out(self, decision: AgentDecision) -> None:
        """Say what was decided, once its marks are written, and answer who waits for it."""
        self._say(decision.messages)
        self._tell(decision.news)
        self._answers = decision.answers
        decided, self._decided = self._decided, asyncio.Event()
        decided.set()

    async def answer(self, message: HandoverMessage) -> HandoverWord | None:
        """A primary's message: remember it, and answer as soon as what it asks for is so, or with what is after a
        while; None when there is nothing to say about the partition."""
        self._take(message)
        give_up_at = self._loop.time() + HOLD_S
        while True:
            word = self._answers.get(message.partition)
            if word is not None and is_answered(message, word):
                return word
            try:
                async with asyncio.timeout_at(give_up_at):
                    await self._decided.wait()
            except TimeoutError:
                return self._answers.get(message.partition)

    def take_news(self, partition: int, news: TakenOver) -> None:
        """A successor serves by its token. News that the map has overtaken is ignored."""
        known = self.taken_over.get(partition)
        if not self._is_current(partition, news) or (known is not None and known.epoch >= news.epoch):
            return
        log.info("partition %d: %s has taken over at epoch %d", partition, news.copy, news.epoch)
        self.taken_over[partition] = news
        self._on_news()
        self._on_change(partition)

    async def close(self) -> None:
        """Say nothing more."""
        tasks = [*self._tasks, *(task for _, task in self._saying.values())]
        self._saying.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._peers.close()

    # What the map says about what was heard

    def _entry(self, partition: int) -> Entry | None:
        entries = self._ring.entries if self._ring is not None else ()
        return entries[partition] if partition < len(entries) else None

    def _moving(self, partition: int) -> Entry | None:
        entry = self._entry(partition)
        return entry if entry is not None and entry.state is State.MOVING else None

    def _concerns(self, partition: int, epoch: int) -> bool:
        """A message of this epoch is about the hand-over that goes on, or one that is not known here yet."""
        entry = self._entry(partition)
        return entry is None or epoch > entry.epoch or (epoch == entry.epoch and entry.state is State.MOVING)

    def _is_current(self, partition: int, news: TakenOver) -> bool:
        entry = self._entry(partition)
        if entry is None or news.epoch > entry.epoch:
            return True
        return news.epoch == entry.epoch and entry.state is State.MOVING and news.copy == entry.successor

    def _take(self, message: HandoverMessage) -> None:
        """The newest message counts; one that was overtaken on its way must not hide a token."""
        known = self.asked.get(message.partition)
        if known is None or _stage(message) >= _stage(known):
            self.asked[message.partition] = message
        self._on_asked(message)
        self._on_change(message.partition)

    # Saying

    def _say(self, messages: Iterable[HandoverMessage]) -> None:
        wanted = {message.partition: message for message in messages}
        for partition, (message, task) in list(self._saying.items()):
            if wanted.get(partition) == message:
                del wanted[partition]
            else:
                del self._saying[partition]
                task.cancel()
        for partition, message in wanted.items():
            self._saying[partition] = (message, self._loop.create_task(self._say_again_and_again(message)))

    async def _say_again_and_again(self, message: HandoverMessage) -> None:
        failing = False
        while True:
            began = self._loop.time()
            try:
                self._heard(message, await self._ask(message))
                failing = False
            except UNANSWERED as error:
                level = logging.DEBUG if failing else logging.INFO
                log.log(level, "partition %d: %s does not answer: %r", message.partition, message.successor, error)
                failing = True
            await asyncio.sleep(max(0.0, began + RESEND_S - self._loop.time()))

    async def _ask(self, message: HandoverMessage) -> HandoverWord:
        member = self._ring.member(message.successor.pod) if self._ring is not None else None
        if member is None or not member.host:
            raise ValueError("the map has no address of its pod")
        return word_from_json(await self._peers.post(member.host, HANDOVER_PATH, message_to_json(message)))

    def _heard(self, message: HandoverMessage, word: HandoverWord) -> None:
        entry = self._moving(message.partition)
        if entry is None or entry.epoch != message.epoch:
            return
        self.words[message.partition] = word
        if word.taken_over_epoch == message.epoch and word.copy == message.successor:
            self.take_news(message.partition, TakenOver(message.epoch, word.copy))
        self._on_change(message.partition)

    def _tell(self, news: Mapping[int, TakenOver]) -> None:
        fresh = {partition: one for partition, one in news.items() if self._told.get(partition) != one}
        self._told = dict(news)
        if not fresh or self._ring is None:
            return
        for partition, one in fresh.items():
            self.take_news(partition, one)
        for uid, member in self._ring.members:
            if uid != self._pod and member.host:
                self._run(self._tell_one(member.host, news_to_json(fresh)))

    async def _tell_one(self, host: str, body: dict[str, Any]) -> None:
        error: Exception | None = None
        for pause in NEWS_PAUSES_S:
            try:
                await self._peers.post(host, TAKEN_OVER_PATH, body)
            except UNANSWERED as failure:
                error = failure
                await asyncio.sleep(pause)
            else:
                return
        log.info("the agent on %s could not be told of a take-over, the map will tell: %r", host, error)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _stage(message: HandoverMessage) -> tuple[int, int]:
    """How far the hand-over was when the message was sent."""
    return message.epoch, 2 if message.token else int(message.offset >= 0)
