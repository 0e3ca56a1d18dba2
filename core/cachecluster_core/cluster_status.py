"""`CacheCluster.status` as a model: what `kubectl get`, `describe` and `wait` show. Written by the operator only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .spec_parts import Part


class Condition(Part):
    """One aspect of the state, as in every Kubernetes API."""

    type: str = Field(max_length=316, description="Ready, Progressing, Degraded, UpToDate, Paused or DataLoss.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: int = Field(
        default=0, ge=0, description="metadata.generation of the spec that this was decided on."
    )
    last_transition_time: str = Field(
        description="When status last changed.", json_schema_extra={"format": "date-time"}
    )
    reason: str = Field(
        min_length=1,
        max_length=1024,
        description="Why, as one word.",
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    )
    message: str = Field(max_length=32768, description="Why, as a sentence.")


class MemberStatus(Part):
    """One pod of the cluster, with the copies that it has by the map."""

    pod: str = Field(description="Name of the pod.")
    uid: str = Field(description="UID of the pod, by which the map names it.")
    node: str = Field(default="", description="Node that it runs on.")
    zone: str = Field(default="", description="Zone of that node.")
    host: str = Field(default="", description="Address of the pod.")
    ready: bool = Field(default=False, description="The kubelet's word and its agent's reports.")
    leaving: bool = Field(default=False, description="It is being emptied, and deleted then.")
    outdated: bool = Field(default=False, description="It was made from another pod template than the spec's.")
    primaries: int = Field(default=0, ge=0, description="Partitions that it serves.")
    replicas: int = Field(default=0, ge=0, description="In-sync copies besides those.")
    learners: int = Field(default=0, ge=0, description="Copies that are being filled.")
    clients: int = Field(default=0, ge=0, description="Connected clients.")
    memory_used: str = Field(default="", description="Memory used by its copies.")
    memory_limit: str = Field(default="", description="Data that it may hold (spec.memory).")


class MemoryStatus(Part):
    """What the cluster can hold."""

    usable: str = Field(default="", description="Data that all partitions may hold together, counted once.")
    per_partition: str = Field(default="", description="Data that one partition may hold before its keys are evicted.")
    per_copy: str = Field(default="", description="maxmemory of each copy: a partition's data, backlog and the engine.")
    used: str = Field(default="", description="Memory used by the primaries at the last look.")


class DataLossStatus(Part):
    """Partitions that were given up (served from a copy that was not in sync, or empty), and nobody has taken note
    yet."""

    at: str = Field(description="When the last one was.", json_schema_extra={"format": "date-time"})
    partitions: tuple[int, ...] = Field(default=(), max_length=512, description="Their numbers.")


class CacheClusterStatus(Part):
    """What the operator last saw."""

    observed_generation: int = Field(
        default=0, ge=0, description="metadata.generation of the spec that this status belongs to."
    )
    message: str = Field(default="", description="What is being done, or waited for; empty when nothing is.")
    nodes: int = Field(default=0, ge=0, description="Pods that exist.")
    ready_nodes: int = Field(default=0, ge=0, description="Pods that are ready.")
    nodes_ready: str = Field(default="", description="Ready pods of those asked for, such as 3/3.")
    partitions_served: str = Field(default="", description="Partitions with an open gate of all, such as 16/16.")
    selector: str = Field(default="", description="Label selector of the cluster's pods.")
    memory: MemoryStatus = Field(default_factory=MemoryStatus, description="What the cluster can hold.")
    members: tuple[MemberStatus, ...] = Field(
        default=(),
        description="The pods, by name.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"]},
    )
    data_loss: DataLossStatus | None = Field(
        default=None,
        description="Data that was lost, until the annotation cachecluster.io/data-loss-seen names its time or a later"
        " one.",
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Ready: every partition is served and every pod is there. Progressing: something is being done."
        " Degraded: partitions have fewer copies than asked for. UpToDate: all of the spec is in effect. Paused:"
        " planned changes are held back. DataLoss: partitions were given up (served from a"
        " copy that was not in sync, or empty).",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
