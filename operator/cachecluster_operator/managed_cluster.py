"""One CacheCluster under management: what is known of it, and its control loop while there is one.

It holds what belongs together for the life of one CacheCluster UID. What to do with it is `Reconciler`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cachecluster_core.hashring import HashRing, State
from cachecluster_core.operator_view import Pod, Suspicion
from cachecluster_core.pod_number import pod_number
from cachecluster_core.spec import CacheClusterSpec, InvalidSpec, Problem, parse_spec

from .capacity import Holdings, holdings_of
from .change_track import ChangeTrack
from .children import Children
from .cluster_key import ClusterKey
from .control import ControlLoop
from .data_loss import data_loss_seen
from .in_effect import InEffect, in_effect, in_effect_by_map
from .kube_api import Json, KubeApi
from .kube_map_store import KubeMapStore
from .kube_pods import KubePods
from .labels import AGENT_PORT, CLUSTER_PORT, common_labels, owner_reference, pod_selector
from .pause import Pause, pause_of
from .pod_manifest import build_pod
from .pod_view import pod_trouble
from .snapshot import ClusterSnapshot
from .status_figures import Known
from .zones import Zones

log = logging.getLogger(__name__)

FINDING_OUT_S = 10.0
"""Longest time for which the status of a cluster that was ready is left as another operator wrote it."""


@dataclass(frozen=True, slots=True)
class Wakeups:
    """Whom to tell: `reconcile` when the desired state must be looked at again, `status` when only the picture of it
    may have changed, `snapshot` at every snapshot."""

    reconcile: Callable[[], None]
    status: Callable[[], None]
    snapshot: Callable[[ClusterSnapshot], None]


@dataclass(slots=True)
class Written:
    """The status as it was written last, and when (seconds, monotonic)."""

    status: Json = field(default_factory=dict)
    at: float = float("-inf")


class ManagedCluster:
    """`obj` is the CacheCluster as last seen; `spec` the last valid one that this operator has read (None: there was
    none); `problems` what is wrong with the newest.

    `effect` is what is in effect, `trouble` what keeps children from being made; `secret` holds the passwords once
    they are known, `pause` is the annotation's word, `change` follows planned changes, `budget` is the disruption
    budget that is wanted (None: not known yet). `lost` are partitions that were given up, and when.
    """

    def __init__(self, api: KubeApi, key: ClusterKey, obj: Json, zones: Zones, image: str, wakeups: Wakeups) -> None:
        self.key = key
        self.obj = obj
        self.spec: CacheClusterSpec | None = None
        self.problems: tuple[Problem, ...] = ()
        self.effect: InEffect | None = None
        self.trouble = ""
        self.synced = False
        self.snapshot: ClusterSnapshot | None = None
        self.lost: dict[int, float] = {}
        self.secret: dict[str, str] | None = None
        self.secret_checked = False
        self.budget: int | None = None
        self.pause = Pause()
        self.change = ChangeTrack()
        self.written = Written(status=obj.get("status") or {})
        self.children = Children(api, self.uid)
        self.store = KubeMapStore(api, key, owner_reference(obj), common_labels(key))
        self.pods = KubePods(
            api, key, self.uid, zones, self._build_pod, self._pods_changed, pod_selector(key), self._template
        )
        self._image = image
        self._wakeups = wakeups
        self._loop: ControlLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pods_seen: tuple[Pod, ...] = ()
        self._since = asyncio.get_running_loop().time()
        self._found_out = False

    @property
    def uid(self) -> str:
        """UID of the CacheCluster."""
        return str(self.obj["metadata"]["uid"])

    @property
    def is_running(self) -> bool:
        """Whether the control loop runs."""
        return self._task is not None and not self._task.done()

    def parse(self) -> None:
        """Read the annotation and the spec. An invalid spec leaves the last valid one in force."""
        self.pause = pause_of(self.obj)
        try:
            self.spec = parse_spec(self.obj.get("spec") or {})
            self.problems = ()
        except InvalidSpec as error:
            self.problems = error.problems

    async def to_run(self) -> InEffect | None:
        """What is to be in effect now. Without any valid spec that is what the map says, if there is one: a cluster
        must not be left alone because its spec was spoilt before the operator started. StoreUnavailable."""
        if self.spec is not None:
            return in_effect(self.spec, self.pods.objects(), await self.holdings(), self.pause.paused)
        ring = await self._map()
        return in_effect_by_map(ring, self.pods.objects(), self.obj.get("spec") or {}) if ring is not None else None

    def run(self, effect: InEffect) -> None:
        """Start the control loop, or tell the one that runs what is desired now."""
        template = self._template()
        self.effect = effect
        if not self.is_running:
            assert self.secret is not None, "the control loop needs the peer token"
            self._loop = ControlLoop(
                self.key.name,
                self.store,
                self.pods,
                agent_port=AGENT_PORT,
                cluster_port=CLUSTER_PORT,
                token=self.secret["peer-token"],
                on_change=self._on_snapshot,
            )
            self._task = asyncio.create_task(self._loop.run(), name=f"control-{self.key}")
            self._task.add_done_callback(self._ended)
        assert self._loop is not None
        self._loop.desire(effect.desired)
        if template != effect.template:
            self._loop.pods_changed()

    async def holdings(self) -> Holdings:
        """What the cluster holds, as far as it is known. Before the control loop has looked, the map is read here: it
        tells which changes are under way, which an operator that starts must not take back for a moment."""
        seen = self.snapshot.agents if self.snapshot is not None else {}
        return holdings_of(await self._map(), self._loop.agents() if self._loop is not None else seen)

    async def stop(self) -> None:
        """End the control loop."""
        if self._task is not None:
            self._task.remove_done_callback(self._ended)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = self._loop = None

    def is_finding_out(self, now: float) -> bool:
        """Whether a cluster that was ready when this operator took over may still be so, for all it knows: its agents
        have not been heard yet. Its status must not flap with every change of the operator."""
        was_ready = any(
            c["type"] == "Ready" and c["status"] == "True" for c in self.written.status.get("conditions") or ()
        )
        invalid = self.problems and self.effect is None
        if not was_ready or invalid or self.trouble or self._found_out or now - self._since > FINDING_OUT_S:
            return False
        known = self.snapshot
        unheard = known is None or any(view.suspicion is Suspicion.UNKNOWN for view in known.agents.values())
        self._found_out = known is not None and known.map_known and bool(known.agents) and not unheard
        return not self._found_out

    def known(self) -> Known:
        """What the status is made of."""
        refusal = self.snapshot.refusal if self.snapshot is not None else ""
        return Known(
            generation=self.obj["metadata"].get("generation", 0),
            selector=pod_selector(self.key),
            effect=self.effect,
            problems=self.problems,
            trouble=self.trouble,
            pod_troubles=tuple(filter(None, (refusal, *map(pod_trouble, self.pods.objects())))),
            pods=self.pods.pods(),
            snapshot=self.snapshot,
            lost=dict(self.lost),
            loss_seen=data_loss_seen(self.obj),
            pause=self.pause,
            progress=self.change.progress,
        )

    async def _map(self) -> HashRing | None:
        """The map as the control loop saw it, or before that as it is stored."""
        seen = self.snapshot
        if seen is None or (seen.map is None and not seen.map_known):
            return await self.store.get()
        return seen.map

    def _build_pod(self, number: int) -> Json:
        assert self.effect is not None, "pods are made by a control loop, which has an effect"
        going = self._loop.leaving() if self._loop is not None else frozenset()
        numbers = (pod_number(self.key.name, pod.name) for pod in self.pods.pods() if pod.uid in going)
        leaving = [taken for taken in numbers if taken is not None]
        return build_pod(self.key, self.obj, self.effect.spec, number, self._image, leaving)

    def _template(self) -> str | None:
        return self.effect.template if self.effect is not None else None

    def _pods_changed(self) -> None:
        pods = self.pods.pods()
        if pods == self._pods_seen:
            self._wakeups.status()
            return
        self._pods_seen = pods
        if self._loop is not None:
            self._loop.pods_changed()
        self._wakeups.reconcile()

    def _on_snapshot(self, snapshot: ClusterSnapshot) -> None:
        self.snapshot = snapshot
        if snapshot.map is not None:
            self.lost |= {p: it.since for p, it in enumerate(snapshot.map.entries) if it.state is State.LOST}
        told = self.change.observe(snapshot)
        self._wakeups.snapshot(replace(snapshot, events=(*snapshot.events, *told)))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("%s: the control loop ended", self.key, exc_info=task.exception())
            self._wakeups.reconcile()
