"""Leader election: who works, for how long at most, and how fast another takes over. Time is looptime's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.fake_kube_api import FakeKubeApi

from cachecluster_operator.election import Claim, ElectionTiming, Elector, LeadershipLost, Sighting, claim

pytestmark = pytest.mark.t0
looptime = pytest.mark.looptime

TIMING = ElectionTiming()
LEASE = ("Lease", "ns", "op")


def lease(holder: str, version: str = "7", duration: int = 15) -> dict[str, object]:
    return {
        "metadata": {"name": "op", "namespace": "ns", "uid": "u", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": duration},
    }


class Candidate:
    """An elector whose work notes from when to when it ran."""

    def __init__(self, api: FakeKubeApi, identity: str) -> None:
        self.api = api
        self.began: float | None = None
        self.ended: float | None = None
        self.working = asyncio.Event()
        self.elector = Elector(api, "ns", "op", identity, TIMING)
        self.task = asyncio.create_task(self.elector.lead(self.work))

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        self.began = loop.time()
        self.working.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = loop.time()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def test_a_claim_depends_on_what_was_seen_not_on_clocks_of_others() -> None:
    other = lease("b")
    assert claim(None, None, "a", 0.0, 15.0) is Claim.CREATE
    assert claim(lease(""), None, "a", 0.0, 15.0) is Claim.TAKE
    assert claim(lease("a"), None, "a", 0.0, 15.0) is Claim.TAKE
    assert claim(other, Sighting("7", 0.0), "a", 14.9, 15.0) is Claim.WAIT
    assert claim(other, Sighting("7", 0.0), "a", 15.0, 15.0) is Claim.TAKE
    assert claim(other, Sighting("6", 0.0), "a", 99.0, 15.0) is Claim.WAIT
    assert claim({"metadata": {"resourceVersion": "1"}}, None, "a", 0.0, 15.0) is Claim.TAKE, "a Lease without a spec"


@pytest.mark.parametrize(
    ("timing", "valid"),
    [((15, 10, 2), True), ((5, 3, 1), True), ((10, 10, 2), False), ((15, 2, 2), False), ((15, 10, 0), False)],
)
def test_times_that_cannot_work_together_are_refused(timing: tuple[float, float, float], valid: bool) -> None:
    assert (ElectionTiming(*timing).reject_reason() is None) == valid


@looptime
async def test_one_works_and_the_other_waits() -> None:
    api = FakeKubeApi()
    first = Candidate(api, "a")
    await first.working.wait()
    second = Candidate(api, "b")
    await asyncio.sleep(120)
    assert second.began is None and first.ended is None
    await first.stop()
    await second.stop()


@looptime
async def test_a_lease_that_is_given_back_is_taken_at_the_next_look() -> None:
    api = FakeKubeApi()
    first, loop = Candidate(api, "a"), asyncio.get_running_loop()
    await first.working.wait()
    second = Candidate(api, "b")
    await asyncio.sleep(10)
    stopped_at = loop.time()
    await first.stop()
    assert api.objects[LEASE]["spec"]["holderIdentity"] == ""
    await second.working.wait()
    assert second.began is not None and second.began - stopped_at <= TIMING.retry_period_s * 1.2
    await second.stop()


@looptime
async def test_a_leader_that_dies_is_followed_after_the_lease_duration() -> None:
    api = FakeKubeApi()
    api.objects[LEASE] = lease("dead")
    second, loop = Candidate(api, "b"), asyncio.get_running_loop()
    started = loop.time()
    await second.working.wait()
    assert 15.0 <= loop.time() - started <= 15.0 + 2 * TIMING.retry_period_s * 1.2
    await second.stop()


@looptime
@pytest.mark.parametrize("fault", ["away", "stalled"])
async def test_a_leader_that_cannot_renew_stops_before_another_may_start(fault: str) -> None:
    api = FakeKubeApi()
    first, loop = Candidate(api, "a"), asyncio.get_running_loop()
    await first.working.wait()
    await asyncio.sleep(7)
    failed_at = loop.time()
    setattr(api, fault, True)
    with pytest.raises(LeadershipLost):
        await first.task
    assert first.ended is not None
    assert first.ended - failed_at <= TIMING.renew_deadline_s
    assert first.ended < failed_at - 2 * TIMING.retry_period_s + TIMING.lease_duration_s


@looptime
async def test_a_short_outage_is_survived() -> None:
    api = FakeKubeApi()
    first = Candidate(api, "a")
    await first.working.wait()
    api.away = True
    await asyncio.sleep(6)
    api.away = False
    await asyncio.sleep(30)
    assert first.ended is None
    await first.stop()


@looptime
async def test_a_leader_that_finds_another_holder_stops_at_once() -> None:
    api = FakeKubeApi()
    first, loop = Candidate(api, "a"), asyncio.get_running_loop()
    await first.working.wait()
    stolen_at = loop.time()
    api.objects[LEASE] = lease("b", version="999")
    with pytest.raises(LeadershipLost, match="held by b"):
        await first.task
    assert loop.time() - stolen_at <= TIMING.retry_period_s + 0.1
    assert api.objects[LEASE]["spec"]["holderIdentity"] == "b", "what is not mine is not given back"


@looptime
async def test_a_label_put_on_the_lease_by_hand_does_no_harm() -> None:
    api = FakeKubeApi()
    first = Candidate(api, "a")
    await first.working.wait()
    api.objects[LEASE]["metadata"] |= {"labels": {"by": "hand"}, "resourceVersion": "999"}
    await asyncio.sleep(60)
    assert first.ended is None
    assert api.objects[LEASE]["metadata"]["labels"] == {"by": "hand"}
    await first.stop()


@looptime
async def test_work_that_fails_ends_the_leadership_with_its_error() -> None:
    api = FakeKubeApi()

    async def fail() -> None:
        raise RuntimeError("broken")

    work: Callable[[], Awaitable[None]] = fail
    with pytest.raises(RuntimeError, match="broken"):
        await Elector(api, "ns", "op", "a", TIMING).lead(work)
    assert api.objects[LEASE]["spec"]["holderIdentity"] == ""
