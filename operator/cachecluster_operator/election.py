"""Which of the operator's replicas works: leader election on a Lease, by compare-and-swap.

The election saves work; safety comes from compare-and-swap on the map. Still a leader here never works past the time
another may take over: its right to work ends `renew_deadline_s` after the *sending* of its last successful renewal,
on its own monotonic clock, whatever its requests are doing then. Time stamps in the Lease are for people: a candidate
judges by how long it has itself seen the Lease unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from .kube_api import ApiError, Conflict, Json, KubeApi, Unreachable
from .resources import LEASE

log = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """The Lease could not be renewed in time, or somebody else holds it; the work has been cancelled."""


@dataclass(frozen=True, slots=True)
class ElectionTiming:
    """Seconds. A candidate takes over after `lease_duration_s` without a change; a leader stops working
    `renew_deadline_s` after its last renewal; both look at the Lease every `retry_period_s`."""

    lease_duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0

    def reject_reason(self) -> str | None:
        """Why these times cannot work together; None when they can."""
        if self.retry_period_s <= 0 or self.lease_duration_s < 1:
            return "the retry period must be above 0 s and the lease duration at least 1 s"
        if not self.retry_period_s * 1.2 < self.renew_deadline_s < self.lease_duration_s:
            return "retry period * 1.2 < renew deadline < lease duration must hold"
        return None


class Claim(Enum):
    """What a candidate has to do about the Lease that it sees."""

    CREATE = "create"
    """There is none: make it, held by me."""
    TAKE = "take"
    """It is free, or its holder has let it lapse: replace exactly this version with mine."""
    WAIT = "wait"
    """Somebody holds it."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A version of the Lease, and when this process first saw it (seconds, monotonic)."""

    version: str
    at: float


def claim(lease: Json | None, sighting: Sighting | None, identity: str, now: float, default_duration_s: float) -> Claim:
    """What to do about `lease`, seen since `sighting`. A Lease without a holder is free at once."""
    if lease is None:
        return Claim.CREATE
    spec = lease.get("spec") or {}
    # My own name: an earlier life of this process, which has ended, or it would not be asking.
    if spec.get("holderIdentity") in (None, "", identity):
        return Claim.TAKE
    duration_s = float(spec.get("leaseDurationSeconds") or default_duration_s)
    unchanged = sighting is not None and sighting.version == lease["metadata"]["resourceVersion"]
    return Claim.TAKE if unchanged and sighting is not None and now - sighting.at >= duration_s else Claim.WAIT


class Elector:
    """One candidate. `identity` must be unique among the candidates and new with every pod."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        name: str,
        identity: str,
        timing: ElectionTiming,
        on_change: Callable[[bool], None] = lambda leading: None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing
        self._on_change = on_change
        self._lease: Json = {}
        self._renewed_at = 0.0

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, then run `work` for as long as it is held; returns when the work has ended by itself.

        LeadershipLost when the Lease went first. In every case the work has ended before this returns, and a Lease
        that is still held is given back, so that the next candidate need not wait.
        """
        await self._acquire()
        self._on_change(True)
        try:
            await self._work_while_held(work)
        finally:
            self._on_change(False)
            await self._release()

    async def _work_while_held(self, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        holding = asyncio.create_task(self._hold(), name="lease-renewal")
        try:
            await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = working.done()
            for task in (working, holding):
                task.cancel()
            await asyncio.gather(working, holding, return_exceptions=True)
        if ended:
            working.result()
            return
        holding.result()

    async def _acquire(self) -> None:
        sighting: Sighting | None = None
        loop = asyncio.get_running_loop()
        log.info("waiting for the Lease %s/%s as %s", self._namespace, self._name, self._identity)
        while True:
            try:
                async with asyncio.timeout(self._timing.retry_period_s):
                    lease = await self._api.get(LEASE, self._namespace, self._name)
                if lease is not None and (sighting is None or sighting.version != _version(lease)):
                    sighting = Sighting(_version(lease), loop.time())
                decision = claim(lease, sighting, self._identity, loop.time(), self._timing.lease_duration_s)
                if decision is not Claim.WAIT and await self._claim(lease):
                    log.info("holding the Lease %s/%s", self._namespace, self._name)
                    return
            except (ApiError, Unreachable, TimeoutError) as error:
                log.warning("the Lease %s/%s: %s", self._namespace, self._name, str(error) or "no answer in time")
            # Spread, or two candidates would collide at every step.
            await asyncio.sleep(self._timing.retry_period_s * random.uniform(1.0, 1.2))

    async def _claim(self, lease: Json | None) -> bool:
        """Write the Lease as mine; False when somebody else was quicker."""
        sent_at = asyncio.get_running_loop().time()
        now = _micro_time()
        spec = (lease or {}).get("spec") or {}
        mine = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": (lease or {}).get("metadata") or {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                # Whole seconds, and never less than what a candidate must wait.
                "leaseDurationSeconds": int(-(-self._timing.lease_duration_s // 1)),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1,
            },
        }
        write = self._api.create if lease is None else self._api.replace
        try:
            async with asyncio.timeout(self._timing.retry_period_s):
                self._lease = await write(LEASE, mine)
        except Conflict:
            return False
        self._renewed_at = sent_at
        return True

    async def _hold(self) -> None:
        """Renew until that is no longer possible; raises LeadershipLost then."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout_at(self._renewed_at + self._timing.renew_deadline_s):
                    await asyncio.sleep(self._timing.retry_period_s)
                    await self._renew_once()
            except TimeoutError as error:
                raise LeadershipLost(
                    f"the Lease {self._namespace}/{self._name} was not renewed for {self._timing.renew_deadline_s} s"
                ) from error
            # A process that was stopped and continued finds its deadline passed although nothing timed out.
            if loop.time() >= self._renewed_at + self._timing.renew_deadline_s:
                raise LeadershipLost("this process was stopped for too long")

    async def _renew_once(self) -> None:
        sent_at = asyncio.get_running_loop().time()
        renewed = self._lease | {"spec": self._lease["spec"] | {"renewTime": _micro_time()}}
        try:
            async with asyncio.timeout(self._timing.retry_period_s):
                self._lease = await self._api.replace(LEASE, renewed)
            self._renewed_at = sent_at
        except Conflict:
            await self._reread(sent_at)
        except (ApiError, Unreachable, TimeoutError) as error:
            log.warning("the Lease was not renewed: %s", str(error) or "no answer in time")

    async def _reread(self, sent_at: float) -> None:
        """After a conflict: an answer of mine that got lost, a label set by somebody, or another holder."""
        try:
            async with asyncio.timeout(self._timing.retry_period_s):
                lease = await self._api.get(LEASE, self._namespace, self._name)
        except (ApiError, Unreachable, TimeoutError) as error:
            log.warning("the Lease could not be read: %s", str(error) or "no answer in time")
            return
        holder = ((lease or {}).get("spec") or {}).get("holderIdentity")
        if lease is None or holder != self._identity:
            raise LeadershipLost(f"the Lease {self._namespace}/{self._name} is held by {holder or 'nobody'}")
        self._lease = lease

    async def _release(self) -> None:
        """Give the Lease back if it is still mine; failure only means that the next one waits it out."""
        free = self._lease["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time()}
        try:
            async with asyncio.timeout(self._timing.retry_period_s):
                await self._api.replace(LEASE, self._lease | {"spec": free})
            log.info("gave the Lease %s/%s back", self._namespace, self._name)
        except (ApiError, Unreachable, TimeoutError) as error:
            log.info("the Lease was not given back: %s", str(error) or "no answer in time")


def _version(lease: Json) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _micro_time() -> str:
    """A MicroTime in UTC, whatever the machine's time zone is."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
