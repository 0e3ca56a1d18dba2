"""`agent_step`: what an agent does next about the copies of its pod. Pure, level-triggered, callable at any moment.

Implements A0-A4 of docs/protocol.md for `durability: async`. The shell around it (the agent) observes, calls this,
and carries the decision out in the order marks, gates, commands; then it observes and calls again. The step never
assumes that an earlier decision was carried out: it looks at what is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .hashring import CopyId, HashRing
from .pod_table import Marks
from .report import Process, Report


@dataclass(frozen=True, slots=True)
class Attached:
    """A replica as the primary's INFO shows it; `copy` is what it announces, None when that is no copy id."""

    copy: CopyId | None
    online: bool
    offset: int


@dataclass(frozen=True, slots=True)
class CopyView:
    """One local redis process as observed just now (all replication fields read in one MULTI/EXEC).

    `source` is (host, port) of its REPLICAOF, None for role master. `has_stream` tells a replica that has its
    primary's stream, live or cached, from one that a full resync has emptied or that never had any. `busy` means a
    command of an earlier decision is still being carried out: the step decides nothing more about the copy.
    `announce` is its replica-announce-ip; `config` what is known to be applied of Settings.engine_config.
    `silent_s` counts seconds without an answer.
    """

    process: Process = Process.ABSENT
    run_id: str = ""
    source: tuple[str, int] | None = None
    link_up: bool = False
    syncing: bool = False
    has_stream: bool = False
    offset: int = 0
    attached: tuple[Attached, ...] = ()
    announce: str = ""
    config: tuple[tuple[str, str], ...] = ()
    busy: bool = False
    used_memory: int = 0
    keys: int = 0
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GateView:
    """A gate record of the pod table, and whether every registered router has confirmed its generation."""

    gate_epoch: int = 0
    generation: int = 0
    deadline_ns: int = 0
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class AgentView:
    """Everything an agent knows. Times are nanoseconds of CLOCK_BOOTTIME.

    `map` is what the last successful quorum read of *this* process returned or confirmed, `None` before the first
    one and when the read said that there is no map; `confirmed_at_ns` is the time before that read was sent.
    `replication_port` is the base: partition p replicates on base + p.
    """

    pod: str
    map: HashRing | None
    confirmed_at_ns: int
    now_ns: int
    marks: Mapping[int, Marks] = field(default_factory=dict)
    gates: Mapping[int, GateView] = field(default_factory=dict)
    copies: Mapping[int, CopyView] = field(default_factory=dict)
    replication_port: int = 17000


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
    """Set `replica-announce-ip` to `announce`, then `REPLICAOF host port`."""

    partition: int
    host: str
    port: int
    announce: str


@dataclass(frozen=True, slots=True)
class Configure:
    """CONFIG SET each of these."""

    partition: int
    settings: tuple[tuple[str, str], ...]


Command = Start | Restart | Remove | Seal | Promote | Follow | Configure


@dataclass(frozen=True, slots=True)
class GateChange:
    """Write the gate record of a partition: with a new generation (every router must confirm it) or the same one."""

    partition: int
    seen_epoch: int
    gate_epoch: int
    deadline_ns: int
    new_generation: bool


@dataclass(frozen=True, slots=True)
class AgentDecision:
    """To be carried out in this order; `report` describes the view the decision was made from."""

    marks: Mapping[int, Marks] = field(default_factory=dict)
    gates: tuple[GateChange, ...] = ()
    commands: tuple[Command, ...] = ()
    report: Report | None = None
