"""Reports: what an agent tells the operator about its pod, and their JSON form.

A report is a statement of facts at one instant, complete by itself; nothing is ever reported as a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, Self

from .hashring import CopyId, Entry, entry_from_json, entry_to_json

USERS_KNOWN = "known"


class Process(StrEnum):
    """What an agent knows of a copy's process."""

    ABSENT = "absent"
    """There is none, and none was asked for."""
    STARTING = "starting"
    """Asked for; its run_id is not known yet."""
    UP = "up"
    """It answers."""
    SILENT = "silent"
    """It is there and does not answer."""
    DEAD = "dead"
    """It ended; what it held is gone."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """One copy on the reporting pod.

    `epoch` is the highest epoch of the partition that this pod has seen. `gate_epoch` is the epoch at which its gate
    is open, 0 when it is shut; `shut_epoch` is the epoch at which *every* router has confirmed the gate shut with
    nothing in flight, or its deadline has passed. `sealed_epoch` is the epoch at which the copy was sealed with its
    history intact (0: it is not): only then `term` and `offset` are its final rank (A4). `intact` is False for a copy
    that is loading, in a full resync, or was never in sync: a *new* copy. `born_epoch` is the epoch at which the
    process was started. `required` is what the primary requires at `required_epoch`, confirmed by every router;
    `lagging` are those that it requires, in-sync members or not yet, that are not attached to it or fall behind.
    `taken_over_epoch` is the epoch of the hand-over by which this very copy became primary, `gave_up_epoch` the one in
    which it, as primary, gave the hand-over up before a token was sent (0: none).
    Offsets are bytes of the replication stream; memory and keys are for people.
    """

    process: Process = Process.ABSENT
    run_id: str = ""
    epoch: int = 0
    born_epoch: int = 0
    intact: bool = False
    role: str = ""
    gate_epoch: int = 0
    shut_epoch: int = 0
    sealed_epoch: int = 0
    term: int = 0
    offset: int = 0
    link_up: bool = False
    syncing: bool = False
    lagging: tuple[CopyId, ...] = ()
    required_epoch: int = 0
    required: tuple[CopyId, ...] = ()
    taken_over_epoch: int = 0
    gave_up_epoch: int = 0
    used_memory: int = 0
    keys: int = 0
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """One pod's report.

    `version` is the resourceVersion of the map the agent acts on ('' for none). `authority_s` is the time left in
    seconds, negative since when it has lapsed. `entries` are the last entries the agent has taken, for rebuilding a
    lost map (O8). `incarnation` changes with every start of the agent. `engine` is what its copies run, such as
    "valkey 9.1.2" ('': not known). `blind`: its quorum reads fail; its primaries can follow no change of the map.
    `users`: whether its routers know the users of clients: USERS_KNOWN, or why not; '' when they were not told of any.
    """

    pod: str
    incarnation: str
    version: str = ""
    authority_s: float = 0.0
    copies: Mapping[int, CopyReport] = field(default_factory=dict)
    entries: Mapping[int, Entry] = field(default_factory=dict)
    routers: int = 0
    clients: int = 0
    draining: bool = False
    engine: str = ""
    blind: bool = False
    users: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: field names as here, partitions as strings, defaults of copies left out."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("copies", "entries")}
        data["copies"] = {str(partition): _copy_to_json(copy) for partition, copy in self.copies.items()}
        data["entries"] = {str(partition): entry_to_json(entry) for partition, entry in self.entries.items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`. ValueError when malformed."""
        try:
            values = {
                f.name: data[f.name] for f in fields(cls) if f.name in data and f.name not in ("copies", "entries")
            }
            return cls(
                **values,
                copies={int(partition): _copy_from_json(copy) for partition, copy in data["copies"].items()},
                entries={int(partition): entry_from_json(entry) for partition, entry in data["entries"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"malformed report: {error!r}") from error


_DEFAULT = asdict(CopyReport())
_COPIES = ("required", "lagging")
_FIGURES = ("offset", "used_memory", "keys", "silent_s")
_FACTS = attrgetter(*(field.name for field in fields(CopyReport) if field.name not in _FIGURES))


def essence(report: Report) -> tuple[object, ...]:
    """What decisions depend on: without the figures that grow by themselves, but for the offsets of sealed copies and
    every full second of silence. Two reports with equal essences say the same.

    It is made for every report of every pod: hence no copies of values, only their fields.
    """
    rest = (
        *(report.incarnation, report.version, report.authority_s > 0, report.routers, report.draining),
        *(report.engine, report.blind, report.users, report.entries),
    )
    copies = {
        partition: (_FACTS(copy), copy.offset if copy.sealed_epoch else 0, copy.silent_s // 1.0)
        for partition, copy in report.copies.items()
    }
    return rest, copies


def _copy_to_json(copy: CopyReport) -> dict[str, Any]:
    data: dict[str, Any] = {f.name: getattr(copy, f.name) for f in fields(copy)}
    changed = {name: value for name, value in data.items() if value != _DEFAULT[name]}
    for name in _COPIES:
        if name in changed:
            changed[name] = [str(item) for item in changed[name]]
    if "process" in changed:
        changed["process"] = str(copy.process)
    return changed


def _copy_from_json(data: Mapping[str, Any]) -> CopyReport:
    """What an agent that is newer says beside that is not understood here, and left out."""
    values = {name: value for name, value in data.items() if name in _DEFAULT}
    for name in _COPIES:
        if name in values:
            values[name] = tuple(CopyId.parse(item) for item in values[name])
    if "process" in values:
        values["process"] = Process(values["process"])
    return CopyReport(**values)
