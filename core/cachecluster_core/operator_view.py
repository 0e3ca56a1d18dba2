"""What `operator_step` looks at and what it answers: the values between the protocol and the control loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .hashring import CopyId, Entry, HashRing, Settings
from .report import Report


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod object as the API server shows it. `host` is '' until it has an IP; `terminated` says that the kubelet
    saw the sidecar of this *terminating* pod end after the deletion was requested: it will not start again. `outdated`
    says that it was made from another pod template than the spec's, `engine` is what it was made to run (without a
    version, which only its agent knows). `unstarted` says that by the kubelet's word its sidecar has never run: it may
    have an IP all the same, while an image is pulled or the engines' container does not come up."""

    uid: str
    name: str
    host: str = ""
    zone: str = ""
    node: str = ""
    ready: bool = False
    terminating: bool = False
    failed: bool = False
    terminated: bool = False
    outdated: bool = False
    engine: str = ""
    unstarted: bool = False


class Suspicion(StrEnum):
    """What the operator may believe about a pod that has stopped reporting."""

    NONE = "none"
    """It reports."""
    UNKNOWN = "unknown"
    """It never reported in this operator's life, for less than the grace at start."""
    SUSPECTED = "suspected"
    """Its stream was reset, or three reports are missing; nobody has confirmed that yet."""
    CONFIRMED = "confirmed"
    """... and a reporting peer got no answer of its gates, or the answer that they have no authority."""


@dataclass(frozen=True, slots=True)
class PodView:
    """What the control loop knows of one pod's agent. Times are seconds of the operator's monotonic clock.

    `report` is the latest one; `reported_at` when it came (None: never in this operator's life). `refused_at` is when
    a probe *began* that found both 7379 and 7380 of that very pod refusing connections. `unreachable_since` is when
    reports stopped (or when this operator began to wait for the first one). `terminated` is `Pod.terminated`, kept
    when the object is gone.
    """

    report: Report | None = None
    reported_at: float | None = None
    suspicion: Suspicion = Suspicion.UNKNOWN
    refused_at: float | None = None
    unreachable_since: float | None = None
    terminated: bool = False

    @property
    def reporting(self) -> bool:
        """True while its reports come in."""
        return self.report is not None and self.suspicion is Suspicion.NONE

    @property
    def refuses(self) -> bool:
        """Its ports refused connections since it stopped reporting: its node is there, only its processes are not. What
        was refused before it reported last says nothing about now."""
        return self.refused_at is not None and self.refused_at >= (self.unreachable_since or 0.0)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, unless the name says otherwise; the defaults are those of docs/protocol.md."""

    seal_wait: float = 0.5
    wait_margin: float = 0.5
    clock_rate: float = 1.1
    repair_delay: float = 30.0
    max_concurrent_syncs: int = 4
    max_syncs_per_pod: int = 2
    max_concurrent_moves: int = 4
    move_limit: float = 5.0
    balance_delay: float = 10.0
    lag_grace: float = 5.0
    lag_grace_sync: float = 0.2
    first_choice_wait: float = 5.0
    first_placement_wait: float = 30.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Since when (operator's monotonic seconds) something has been so; made by `remember` before every step.

    `ungated`: by partition and term, a Stable primary without evidence of an open gate. `lagging`: by partition and
    copy, one that its primary requires and calls lagging. `short`: by partition, fewer copies on existing pods than
    asked for. `placed`: by partition, a partition without data has had these learners. `idle`: by pod UID, one that is
    not ready and holds no in-sync copy. `down`: by partition and pod UID, a learner whose process does not answer.
    `unmapped`: by pod UID, there is known to be no map, or it is below what agents have seen.
    """

    ungated: Mapping[tuple[int, int], float] = field(default_factory=dict)
    lagging: Mapping[tuple[int, CopyId], float] = field(default_factory=dict)
    short: Mapping[int, float] = field(default_factory=dict)
    placed: Mapping[tuple[int, tuple[str, ...]], float] = field(default_factory=dict)
    idle: Mapping[str, float] = field(default_factory=dict)
    down: Mapping[tuple[int, str], float] = field(default_factory=dict)
    unmapped: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OperatorView:
    """Everything the operator knows of one cluster. `now` is monotonic, `wall` seconds since 1970 (for people only).

    `pods` are the pod objects that exist; `agents` is by pod UID and may hold pods whose object is gone. `seen_at[p]`
    is when this operator first knew the current entry of partition p: after its own successful write, or when it
    first read it. `map_known` is False while the map could not be read: then nothing is decided. `map` is None when
    the API server said that there is none. While `paused` nothing that is planned is begun, and no pod is made or
    deleted; failover and repair on existing pods go on.
    """

    name: str
    nodes: int
    partitions: int
    settings: Settings
    now: float
    wall: float
    map: HashRing | None
    map_known: bool = True
    pods: tuple[Pod, ...] = ()
    agents: Mapping[str, PodView] = field(default_factory=dict)
    seen_at: Mapping[int, float] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    memory: Memory = field(default_factory=Memory)
    trust_connection_refused: bool = True
    paused: bool = False

    def is_blind(self, entry: Entry) -> bool:
        """The primary's agent cannot read the map. Whatever raises the epoch would end its authority, because others
        promise nothing below what they have seen, and it would learn of nothing: only an election may."""
        agent = self.agents.get(entry.primary.pod) if entry.primary is not None else None
        return agent is not None and agent.report is not None and agent.report.blind


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Make the pod `<cluster>-<number>`."""

    number: int


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete this pod, with its UID as precondition."""

    uid: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class MarkNotReady:
    """Set the Ready condition of a lost node's pod False, so that Services forget it at once (O9)."""

    uid: str
    name: str


PodAction = CreatePod | DeletePod | MarkNotReady


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell people: an Event on the CacheCluster. `reason` is CamelCase."""

    reason: str
    note: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class OperatorDecision:
    """`map` is the whole new map to write under the version of the one decided on, None for no change. `events` hold
    only if that write succeeds. `wake_after` is in how many seconds to decide again even when nothing happens."""

    map: HashRing | None = None
    pod_actions: tuple[PodAction, ...] = ()
    events: tuple[Event, ...] = ()
    wake_after: float | None = None
    waiting_for: tuple[str, ...] = ()
