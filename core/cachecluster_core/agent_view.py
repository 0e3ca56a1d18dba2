"""What `agent_step` looks at and what it answers: the values between the protocol and the agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .hashring import CopyId, Entry, HashRing
from .pod_table import Marks
from .report import Process, Report

NOWHERE = ("127.0.0.1", 1)
"""The source of a sealed copy: nothing listens there, and a replica of it answers PSYNC with -NOMASTERLINK."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A replica as the primary's INFO shows it; `copy` is what it announces, None when that is no copy id.

    `streams`: what it acknowledges was seen to grow since it came online. Until then it may hold no more than the
    snapshot it was filled from: the engine sends it the stream only some time later, up to a second.
    """

    copy: CopyId | None
    online: bool
    offset: int
    streams: bool = True


@dataclass(frozen=True, slots=True)
class CopyView:
    """One local redis process as observed just now (all replication fields read in one MULTI/EXEC).

    `source` is (host, port) of its REPLICAOF, None for role master. `has_stream` tells a replica that has its
    primary's stream, live or cached, from one that a full resync has emptied or that never had any. `busy` means a
    command of an earlier decision is still being carried out: the step decides nothing more about the copy.
    `announce` is its replica-announce-ip; `config` what is known to be applied of Settings.engine_config.
    `silent_s` counts seconds without an answer; the other fields are then the last known ones. `settled_offset` is the
    own offset as observed at least 1.5 seconds ago, -1 until then: replicas acknowledge once a second, and those of a
    primary that has just taken over have to attach to it first, so only then can one be called lagging.
    `replid` names the replication history that the offset counts in.
    `observed_ns` is when all this was asked for (CLOCK_BOOTTIME).
    `ask_again` says that the link to `source` did not come up at the first try and that it is time to ask anew: the
    engine by itself waits for a second.
    """

    process: Process = Process.ABSENT
    run_id: str = ""
    source: tuple[str, int] | None = None
    link_up: bool = False
    syncing: bool = False
    has_stream: bool = False
    offset: int = 0
    settled_offset: int = -1
    attached: tuple[Attached, ...] = ()
    announce: str = ""
    replid: str = ""
    observed_ns: int = 0
    ask_again: bool = False
    config: tuple[tuple[str, str], ...] = ()
    busy: bool = False
    used_memory: int = 0
    keys: int = 0
    silent_s: float = 0.0
    link_silence_s: int = -1


@dataclass(frozen=True, slots=True)
class GateView:
    """A gate record of the pod table, and whether every registered router has confirmed its generation."""

    gate_epoch: int = 0
    generation: int = 0
    deadline_ns: int = 0
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class HandoverMessage:
    """What the primary of a `Moving` entry says to its successor's agent; said again until it is answered (A5).

    With `offset` -1 it asks whether the successor is ready. Otherwise `offset` is the primary's final offset, in the
    history `replid`: without `token` it asks for an answer once the successor has reached it, with `token` it hands the
    partition over, together with the set of copies that must have every acknowledged write.
    """

    partition: int
    epoch: int
    primary: CopyId
    successor: CopyId
    offset: int = -1
    replid: str = ""
    token: bool = False
    required: tuple[CopyId, ...] = ()


@dataclass(frozen=True, slots=True)
class HandoverWord:
    """The successor's answer: its copy, the epoch of the map it has confirmed, and how far it is.

    `following` says that its link to the primary of that epoch is up. `taken_over_epoch` is the last epoch at which
    this copy became primary by a token.
    """

    copy: CopyId
    epoch: int
    offset: int
    following: bool
    taken_over_epoch: int


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The news that a successor serves by the token of this epoch; the successor tells every agent of the cluster."""

    epoch: int
    copy: CopyId


@dataclass(frozen=True, slots=True)
class PromiseAsk:
    """A request not to let the own copy be sealed above `epoch`, while the asker's authority lasts `authority_s`."""

    epoch: int
    authority_s: float


@dataclass(frozen=True, slots=True)
class Promise:
    """A peer's promise at this epoch. It counts from `asked_at_ns` (CLOCK_BOOTTIME), before the request was sent."""

    epoch: int
    asked_at_ns: int


@dataclass(frozen=True, slots=True)
class AgentView:
    """Everything an agent knows. Times are nanoseconds of CLOCK_BOOTTIME.

    `map` is what the last successful quorum read of *this* process returned or confirmed, `None` before the first
    one and when the read said that there is no map; `confirmed_at_ns` is the time before that read was sent. `taken`
    are the entries with the highest epochs that this pod ever took, also from before a restart: they are reported while
    the map is missing or below the floor, to rebuild it from (O8).
    `replication_port` is the base: partition p replicates on base + p. By partition: `words` are the last answers to
    own hand-over messages, `asked` the last hand-over messages that came, `taken_over` the last news; all three are
    kept in memory only, and what they say of other epochs is ignored.
    `read_failing` says that the last quorum read did not succeed; `promises` are by partition and pod what was promised
    to this agent, `promise_asks` by asking pod and partition what others ask for now.
    `only`: the step is about these partitions alone, because nothing else has changed; `partial_step.continued` puts
    its decision together with the one before. Of other partitions `copies` and `gates` may then be left out.
    """

    pod: str
    map: HashRing | None
    confirmed_at_ns: int
    now_ns: int
    taken: Mapping[int, Entry] = field(default_factory=dict)
    marks: Mapping[int, Marks] = field(default_factory=dict)
    gates: Mapping[int, GateView] = field(default_factory=dict)
    copies: Mapping[int, CopyView] = field(default_factory=dict)
    replication_port: int = 17000
    words: Mapping[int, HandoverWord] = field(default_factory=dict)
    asked: Mapping[int, HandoverMessage] = field(default_factory=dict)
    taken_over: Mapping[int, TakenOver] = field(default_factory=dict)
    read_failing: bool = False
    promises: Mapping[int, Mapping[str, Promise]] = field(default_factory=dict)
    promise_asks: Mapping[str, Mapping[int, PromiseAsk]] = field(default_factory=dict)
    only: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process for the partition, empty, as `replicaof 127.0.0.1 1` (A0)."""

    partition: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Kill the process and start an empty one: a new copy with a new run_id."""

    partition: int
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """End the process and remove its service and files."""

    partition: int


@dataclass(frozen=True, slots=True)
class Seal:
    """`REPLICAOF 127.0.0.1 1`: freezes the offset, keeps the history, acknowledges nothing more (A4)."""

    partition: int


@dataclass(frozen=True, slots=True)
class Promote:
    """`REPLICAOF NO ONE`."""

    partition: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Set `replica-announce-ip` to `announce`, then `REPLICAOF host port`. `anew`: it follows that address already;
    seal it first, or the engine would do nothing."""

    partition: int
    host: str
    port: int
    announce: str
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Configure:
    """CONFIG SET each of these."""

    partition: int
    settings: tuple[tuple[str, str], ...]


Command = Start | Restart | Remove | Seal | Promote | Follow | Configure


@dataclass(frozen=True, slots=True)
class GateChange:
    """Write the gate record of a partition: with a new generation (every router must confirm it) or the same one.
    `patient`: what is in flight at an engine that is slow to answer must not be cut off."""

    partition: int
    seen_epoch: int
    gate_epoch: int
    deadline_ns: int
    new_generation: bool
    patient: bool = False


@dataclass(frozen=True, slots=True)
class AgentDecision:
    """To be carried out in this order; `report` describes the view the decision was made from.

    `messages` are to be sent once marks are written, and again until they are answered or no longer here. `news` is
    to be told once to every other agent of the cluster. `answers` is what to answer to hand-over messages by partition.
    `asks` are the promises to ask for, by pod and partition, again every second while they stand here; `promised` are
    the partitions of each asking pod that it is promised, once marks are written.
    """

    marks: Mapping[int, Marks] = field(default_factory=dict)
    gates: tuple[GateChange, ...] = ()
    commands: tuple[Command, ...] = ()
    report: Report | None = None
    messages: tuple[HandoverMessage, ...] = ()
    news: Mapping[int, TakenOver] = field(default_factory=dict)
    answers: Mapping[int, HandoverWord] = field(default_factory=dict)
    asks: Mapping[str, Mapping[int, PromiseAsk]] = field(default_factory=dict)
    promised: Mapping[str, frozenset[int]] = field(default_factory=dict)
