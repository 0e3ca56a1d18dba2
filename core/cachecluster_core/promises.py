"""Authority while the API server does not answer: promises of the other required copies' agents (A8). Pure.

An agent whose quorum read fails asks the agents of all other copies that it requires not to let theirs be sealed above
this epoch. As long as every one of them has promised, no election above it can have come to its end: who promised
answers it only after the promise has lapsed. The asker counts D from before it asked, the promiser D * 1.1 from when it
was asked. No promise carries authority further than `apiOutageSeconds` from the last read, because after that time the
operator may give up copies that it cannot reach. A sole in-sync copy needs nobody's promise and keeps
`lostAfterSeconds`; no learner's promise carries it further, because the operator does not wait longer for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .agent_view import AgentView, Promise, PromiseAsk
from .hashring import CopyId, Entry, Settings
from .pod_table import Marks

CLOCK_RATE = 1.1
"""How much faster one clock may run than another."""


def authority_until(view: AgentView, partition: int, entry: Entry, required: tuple[CopyId, ...]) -> int:
    """Until when this pod may serve the partition at this entry (ns), if it requires these copies."""
    assert view.map is not None
    settings, read_at = view.map.settings, view.confirmed_at_ns
    by_read = read_at + _ns(settings.authority_s)
    others = {copy.pod for copy in required if copy.pod != view.pod}
    if not others:
        return max(by_read, read_at + _ns(settings.lost_after_s)) if required else by_read
    asked_at = promised_since(view.promises.get(partition, {}), others, entry.epoch)
    if asked_at is None:
        return by_read
    longest = settings.outage_s if len(entry.isr) > 1 else settings.lost_after_s
    return max(by_read, min(asked_at + _ns(settings.authority_s), read_at + _ns(longest)))


def promised_since(promises: Mapping[str, Promise], pods: Collection[str], epoch: int) -> int | None:
    """After when each of these pods was asked for the promise that it has given at this epoch (ns); None as long as not
    all have, or for no pods."""
    given = [promise for pod in pods if (promise := promises.get(pod)) is not None and promise.epoch == epoch]
    return min(promise.asked_at_ns for promise in given) if given and len(given) == len(pods) else None


def asks(view: AgentView, entry: Entry, required: tuple[CopyId, ...]) -> dict[str, PromiseAsk]:
    """Whom to ask for a promise about a partition that is served here, while reads fail."""
    assert view.map is not None
    if not view.read_failing:
        return {}
    ask = PromiseAsk(entry.epoch, view.map.settings.authority_s)
    return {copy.pod: ask for copy in required if copy.pod != view.pod}


def is_promised(marks: Marks, epoch: int, now_ns: int, settings: Settings | None) -> bool:
    """A promise holds that forbids sealing at this epoch. One that ends later than any can was made before the machine
    started anew."""
    longest = _ns((settings or Settings()).authority_s * CLOCK_RATE * 2)
    return marks.promised_epoch < epoch and now_ns < marks.promised_until_ns <= now_ns + longest


def may_promise(view: AgentView, marks: Marks, ask: PromiseAsk, serving: bool) -> bool:
    """Whether a promise can be given: not by one who has seen or promised a higher epoch, may serve itself, or knows
    that the map is gone."""
    map_is_gone = view.map is None and view.confirmed_at_ns > 0
    return not serving and not map_is_gone and max(marks.seen_epoch, marks.promised_epoch) <= ask.epoch


def promise_until(marks: Marks, ask: PromiseAsk, now_ns: int) -> int:
    """When a promise that is given now ends."""
    return max(marks.promised_until_ns, now_ns + _ns(ask.authority_s * CLOCK_RATE))


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
