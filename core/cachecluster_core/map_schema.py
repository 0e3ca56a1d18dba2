"""The schema of the `HashRing` object, for the CRD and for people. The map itself is `hashring.py`'s.

The API server drops fields that a schema does not know. A map without one of its fields would be a wrong order to all
agents, so every object here keeps unknown fields: an operator that is newer than the CRD loses nothing.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field

from .hashring import State
from .slots import MAX_PARTITIONS
from .spec_parts import Part

_KEEP = ConfigDict(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})


class EntrySchema(Part):
    """The map's word on one partition."""

    model_config = _KEEP
    epoch: int = Field(ge=1, description="Grows with every change of state, primary, in-sync set or successor.")
    state: State = Field(description="Vacant, Stable, Electing, Moving or Lost.")
    term: int = Field(default=0, ge=0, description="Epoch at which the current or last primary was named.")
    primary: str | None = Field(default=None, description="The copy that serves, as <pod UID>.<run_id>.")
    isr: tuple[str, ...] = Field(default=(), description="The in-sync copies, the primary among them.")
    learners: tuple[str, ...] = Field(default=(), description="UIDs of pods whose copies are being filled.")
    successor: str | None = Field(default=None, description="The copy that takes over in a planned move.")
    former: list[str] = Field(
        default_factory=list,
        description="While electing: the copies whose gates must be silent before another one serves.",
    )
    reason: str = Field(default="", description="Why the entry was changed.")
    since: float = Field(default=0.0, description="When, in seconds since 1970.")


class MemberSchema(Part):
    """A pod as the map shows it to agents and routers."""

    model_config = _KEEP
    uid: str = Field(description="UID of the pod.")
    name: str = Field(description="Name of the pod.")
    host: str = Field(description="Address of the pod; empty while it has none.")
    zone: str = Field(default="", description="Zone of its node.")
    node: str = Field(default="", description="Its node.")
    leaving: bool = Field(default=False, description="Set once when the pod is to be emptied, never undone.")


class SettingsSchema(Part):
    """What agents and routers must know of the CacheCluster's spec."""

    model_config = _KEEP
    authority_seconds: float = Field(description="How long a quorum read lets an agent act on the map.")
    lost_after_seconds: float = Field(description="spec.lostAfterSeconds")
    api_outage_seconds: float = Field(
        default=900.0, description="How long copies that can reach each other serve without the API server."
    )
    replication_factor: int = Field(description="spec.replicationFactor")
    isr_max_lag_bytes: int = Field(description="Lag from which a copy is no longer in sync, in bytes.")
    handover_timeout_seconds: float = Field(
        description="How long a gate may be shut for a hand-over before the primary serves again."
    )
    sync: bool = Field(default=False, description="A write is answered once every required copy has it.")
    min_in_sync: int = Field(default=1, description="Copies, the primary included, without which sync refuses writes.")
    ack_timeout_seconds: float = Field(default=3.0, description="How long a write waits for its acknowledgements.")
    committed_reads: bool = Field(default=False, description="Reads tell only what every required copy has.")
    reads_from: str = Field(
        default="primary", description="What else may answer reads: replica, nearest-zone, or only the primary."
    )
    park_timeout_seconds: float = Field(description="How long commands wait for a partition without an open gate.")
    park_max_bytes: int = Field(description="Bytes of waiting commands in one router.")
    max_clients: int = Field(description="spec.router.maxClients")
    pipelined_commands: int = Field(default=1024, description="spec.router.limits.pipelinedCommands")
    request_max_bytes: int = Field(default=576 << 20, description="spec.router.limits.requestSize, in bytes.")
    unread_replies_bytes: int = Field(default=128 << 20, description="spec.router.limits.unreadReplies, in bytes.")
    unread_messages_bytes: int = Field(default=32 << 20, description="spec.router.limits.unreadMessages, in bytes.")
    idle_seconds: float = Field(default=0.0, description="spec.router.limits.idleSeconds")
    router_workers: int = Field(description="spec.router.workers")
    maxmemory_cluster: int = Field(description="Data that all partitions may hold together, in bytes.")
    engine: str = Field(description="spec.engine")
    engine_config: dict[str, str] = Field(
        default_factory=dict,
        description="Settings of the engine as CONFIG SET takes them, maxmemory of a copy among them.",
    )


class HashRingSchema(Part):
    """The map of one CacheCluster: which copy of each partition serves. Written by the operator by compare-and-swap,
    followed by the agents. Do not edit it; when it is deleted the operator rebuilds it from the agents' reports."""

    model_config = _KEEP
    partitions: int = Field(ge=1, le=MAX_PARTITIONS, description="Number of entries.")
    settings: SettingsSchema = Field(description="What agents and routers must know of the CacheCluster's spec.")
    members: tuple[MemberSchema, ...] = Field(description="The pods, by UID.")
    entries: tuple[EntrySchema, ...] = Field(
        max_length=MAX_PARTITIONS, description="One entry for each partition, in order."
    )
