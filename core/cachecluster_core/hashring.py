"""The map: the `HashRing` object as values, and its JSON form.

The map is the only order that agents take. The operator writes it, by compare-and-swap; nobody else does. What a map
may say is asserted here (`HashRing.check`); how it changes is `operator_step`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self


@dataclass(frozen=True, slots=True, order=True)
class CopyId:
    """One redis process: the pod's UID and the process' run_id. The same pod with another run_id is another copy."""

    pod: str
    run_id: str

    def __str__(self) -> str:
        """`<pod UID>.<run_id>`, also what the process announces to its primary as `replica-announce-ip`."""
        return f"{self.pod}.{self.run_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The reverse of `str()`; ValueError when there is no dot."""
        pod, dot, run_id = text.rpartition(".")
        if not dot:
            raise ValueError(f"not a copy id: {text!r}")
        return cls(pod, run_id)


class State(StrEnum):
    """What a partition is doing, by the map."""

    VACANT = "Vacant"
    """Never served: learners are being started, the first of them becomes primary."""
    STABLE = "Stable"
    """A primary serves."""
    ELECTING = "Electing"
    """No primary; the in-sync set is being sealed."""
    MOVING = "Moving"
    """The primary hands over to the successor."""
    LOST = "Lost"
    """No in-sync copy can come back; the learner that had received most of it becomes primary, else one that starts
    empty."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The map's word on one partition.

    `epoch` grows with every change of state, primary, in-sync set or successor, and when a learner is dropped, because
    the primary may require it already; adding learners keeps it.
    `term` is the epoch at which the current (or last) primary was named: replication offsets of copies compare within
    one term only. `former` stands in an `Electing` entry: the copies whose gates may be open and must be silent before
    another primary is named (none: unknown, then only time proves it). `isr` holds the primary too. `learners` are pods
    that keep a copy outside the in-sync set; which process there is a learner is not the map's business until it joins.
    `since` is seconds since 1970, for people.
    """

    epoch: int = 1
    state: State = State.VACANT
    primary: CopyId | None = None
    isr: tuple[CopyId, ...] = ()
    learners: tuple[str, ...] = ()
    successor: CopyId | None = None
    former: tuple[CopyId, ...] = ()
    term: int = 0
    reason: str = ""
    since: float = 0.0

    def check(self) -> None:
        """AssertionError when this entry says what no map may say."""
        assert self.epoch >= 1 and self.term <= self.epoch, self
        assert len({copy.pod for copy in self.isr}) == len(self.isr), f"two in-sync copies on one pod: {self}"
        assert not {copy.pod for copy in self.isr} & set(self.learners), f"in-sync and learner at once: {self}"
        assert len(set(self.learners)) == len(self.learners), self
        assert self.isr == tuple(sorted(self.isr)) and self.learners == tuple(sorted(self.learners)), self
        serving = self.state in (State.STABLE, State.MOVING)
        assert (self.primary is not None) == serving, f"a primary exactly while one serves: {self}"
        assert (self.successor is not None) == (self.state is State.MOVING), self
        assert not self.former or self.state is State.ELECTING, self
        if self.state in (State.VACANT, State.LOST):
            assert not self.isr, f"nothing is in sync with a partition that has no data: {self}"
        else:
            assert self.isr, f"an empty in-sync set is not Lost: {self}"
        if self.primary is not None:
            assert self.primary in self.isr, f"the primary is not in sync: {self}"
        if self.successor is not None:
            assert self.successor in self.isr and self.successor != self.primary, self

    def copy_on(self, pod: str) -> CopyId | None:
        """The in-sync copy on a pod, if there is one."""
        return next((copy for copy in self.isr if copy.pod == pod), None)

    def pods(self) -> frozenset[str]:
        """UIDs of all pods that hold a copy by this entry."""
        return frozenset(copy.pod for copy in self.isr) | frozenset(self.learners)

    def changed(self, **changes: Any) -> Entry:
        """A successor of this entry: epoch + 1 and the given fields, checked."""
        entry = replace(self, epoch=self.epoch + 1, **changes)
        entry.check()
        return entry


@dataclass(frozen=True, slots=True)
class Member:
    """A pod as the map shows it to agents and routers. `host` changes when the pod's sandbox is made anew."""

    name: str
    host: str
    zone: str = ""
    node: str = ""
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What agents and routers must know of the spec. Times are seconds, sizes bytes.

    Together with the entries they stand in the map, so that one object, read once, is all an agent needs.
    `lost_after_s` is how long a sole copy serves without the API server, `outage_s` how long copies that promise each
    other do; only after these times the operator gives up what it cannot reach.
    `engine_config` holds settings of the engine that are applied live, `maxmemory` (of one copy) among them.
    """

    authority_s: float = 3.0
    lost_after_s: float = 60.0
    replication_factor: int = 2
    isr_max_lag_bytes: int = 1 << 20
    outage_s: float = 900.0
    handover_timeout_s: float = 0.2
    sync: bool = False
    min_in_sync: int = 1
    ack_timeout_s: float = 3.0
    committed_reads: bool = False
    reads_from: str = "primary"
    park_timeout_s: float = 8.0
    park_max_bytes: int = 64 << 20
    max_clients: int = 10000
    pipelined_commands: int = 1024
    request_max_bytes: int = 576 << 20
    unread_replies_bytes: int = 128 << 20
    unread_messages_bytes: int = 32 << 20
    idle_s: float = 0.0
    router_workers: int = 1
    maxmemory_cluster: int = 0
    engine: str = "valkey"
    engine_config: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class HashRing:
    """The whole map. `version` is the resourceVersion under which it was read ('' before it was ever written)."""

    name: str
    members: tuple[tuple[str, Member], ...] = ()
    entries: tuple[Entry, ...] = ()
    settings: Settings = field(default_factory=Settings)
    version: str = ""
    uid: str = ""

    def member(self, pod: str) -> Member | None:
        """The member with this pod UID."""
        return next((member for uid, member in self.members if uid == pod), None)

    def check(self) -> None:
        """AssertionError when the map contradicts itself."""
        partitions = len(self.entries)
        assert partitions >= 1 and partitions & (partitions - 1) == 0, f"{partitions} partitions are not a power of two"
        assert [uid for uid, _ in self.members] == sorted({uid for uid, _ in self.members})
        for entry in self.entries:
            entry.check()

    def to_spec(self) -> dict[str, Any]:
        """The `spec` of the HashRing object (camelCase, lists, no empty fields of entries)."""
        return {
            "partitions": len(self.entries),
            "settings": _settings_to_json(self.settings),
            "members": [{"uid": uid, **_member_to_json(member)} for uid, member in self.members],
            "entries": [entry_to_json(entry) for entry in self.entries],
        }

    @classmethod
    def from_object(cls, obj: dict[str, Any]) -> Self:
        """The map from a HashRing object. ValueError names what is missing or malformed."""
        try:
            spec, metadata = obj["spec"], obj["metadata"]
            ring = cls(
                name=metadata["name"],
                members=tuple((m["uid"], _member_from_json(m)) for m in spec["members"]),
                entries=tuple(entry_from_json(e) for e in spec["entries"]),
                settings=_settings_from_json(spec["settings"]),
                version=metadata.get("resourceVersion", ""),
                uid=metadata.get("uid", ""),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"malformed HashRing: {error!r}") from error
        ring.check()
        return ring


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """One entry as JSON; empty fields are left out."""
    data: dict[str, Any] = {"epoch": entry.epoch, "state": str(entry.state), "term": entry.term}
    if entry.primary:
        data["primary"] = str(entry.primary)
    if entry.isr:
        data["isr"] = [str(copy) for copy in entry.isr]
    if entry.learners:
        data["learners"] = list(entry.learners)
    if entry.successor:
        data["successor"] = str(entry.successor)
    if entry.former:
        data["former"] = [str(copy) for copy in entry.former]
    return data | {"reason": entry.reason, "since": entry.since}


def entry_from_json(data: dict[str, Any]) -> Entry:
    """The reverse of `entry_to_json`. KeyError or ValueError when malformed."""
    return Entry(
        epoch=int(data["epoch"]),
        state=State(data["state"]),
        primary=CopyId.parse(data["primary"]) if "primary" in data else None,
        isr=tuple(sorted(CopyId.parse(copy) for copy in data.get("isr", ()))),
        learners=tuple(sorted(data.get("learners", ()))),
        successor=CopyId.parse(data["successor"]) if "successor" in data else None,
        former=tuple(CopyId.parse(copy) for copy in data.get("former", ())),
        term=int(data.get("term", 0)),
        reason=data.get("reason", ""),
        since=float(data.get("since", 0.0)),
    )


_SETTING_NAMES = {
    "authority_s": "authoritySeconds",
    "lost_after_s": "lostAfterSeconds",
    "replication_factor": "replicationFactor",
    "isr_max_lag_bytes": "isrMaxLagBytes",
    "outage_s": "apiOutageSeconds",
    "handover_timeout_s": "handoverTimeoutSeconds",
    "sync": "sync",
    "min_in_sync": "minInSync",
    "ack_timeout_s": "ackTimeoutSeconds",
    "committed_reads": "committedReads",
    "reads_from": "readsFrom",
    "park_timeout_s": "parkTimeoutSeconds",
    "park_max_bytes": "parkMaxBytes",
    "max_clients": "maxClients",
    "pipelined_commands": "pipelinedCommands",
    "request_max_bytes": "requestMaxBytes",
    "unread_replies_bytes": "unreadRepliesBytes",
    "unread_messages_bytes": "unreadMessagesBytes",
    "idle_s": "idleSeconds",
    "router_workers": "routerWorkers",
    "maxmemory_cluster": "maxmemoryCluster",
    "engine": "engine",
}


def _settings_to_json(settings: Settings) -> dict[str, Any]:
    data = {name: getattr(settings, attribute) for attribute, name in _SETTING_NAMES.items()}
    return data | {"engineConfig": dict(settings.engine_config)}


def _settings_from_json(data: dict[str, Any]) -> Settings:
    known = {attribute: data[name] for attribute, name in _SETTING_NAMES.items() if name in data}
    return Settings(**known, engine_config=tuple(sorted(data.get("engineConfig", {}).items())))


def _member_to_json(member: Member) -> dict[str, Any]:
    data: dict[str, Any] = {"name": member.name, "host": member.host, "zone": member.zone, "node": member.node}
    return data | ({"leaving": True} if member.leaving else {})


def _member_from_json(data: dict[str, Any]) -> Member:
    return Member(
        name=data["name"],
        host=data["host"],
        zone=data.get("zone", ""),
        node=data.get("node", ""),
        leaving=bool(data.get("leaving", False)),
    )
