"""`CacheCluster.spec` as a model: fields, defaults, validation, and what follows from it for the map and the operator.

The CRD is generated from here (`crd.py`); the rules that the API server evaluates stand beside the fields they are
about, and hold here again for objects that a server with an older CRD let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.alias_generators import to_snake

from . import engine_config
from .hashring import Settings
from .operator_view import Timing
from .pod_resources import ContainerAmounts, pod_resources, resource_problems
from .quantity import format_bytes, parse_bytes
from .sizing import MIN_SHARE, SYNCS_PER_POD, Sizing, copies_per_node, size_copies
from .spec_parts import (
    LIMITED_SIZES,
    Auth,
    Bytes,
    Fencing,
    LabelValue,
    Part,
    Placement,
    Repair,
    Resources,
    Router,
    ScaleIn,
    Sync,
    Toleration,
    rule,
    rules,
)

RESERVED_LABELS = ("app.kubernetes.io/", "cachecluster.io/")
RESERVED_ANNOTATIONS = ("cachecluster.io/",)
MAX_LABELS = 32

Eviction = Literal[
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "noeviction",
]
PartitionCount = Literal[1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def _key_rules(reserved: tuple[str, ...] = ()) -> dict[str, Any]:
    shape = r"key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')"
    checks = [rule(f"self.all(key, {shape})", "a key must be a name such as team or example.com/team")]
    if reserved:
        free = " && ".join(f"!key.startsWith('{prefix}')" for prefix in reserved)
        checks.append(rule(f"self.all(key, {free})", f"keys below {' and '.join(reserved)} are the operator's"))
    return rules(*checks, maxProperties=MAX_LABELS)


def _checked_engine_config(values: dict[str, engine_config.Value]) -> dict[str, engine_config.Value]:
    reasons = engine_config.reject_reasons(values)
    if reasons:
        raise ValueError("; ".join(f"{name} {reason}" for name, reason in sorted(reasons.items())))
    return values


EngineConfig = Annotated[
    dict[str, bool | int | str],
    AfterValidator(_checked_engine_config),
    WithJsonSchema(
        {"type": "object", "properties": {name: item.schema() for name, item in engine_config.SETTINGS.items()}}
    ),
]

SPEC_RULES = (
    rule("self.nodes >= self.replicationFactor", "spec.nodes must be at least spec.replicationFactor", ".nodes"),
    rule("self.nodes <= self.partitions", "spec.nodes must be at most spec.partitions", ".nodes"),
    rule(
        "!quantity(string(self.memory)).isInteger() || quantity(string(self.memory)).asInteger() >="
        f" (self.partitions * self.replicationFactor + self.nodes - 1) / self.nodes * {MIN_SHARE}",
        f"spec.memory is too small: it must leave {format_bytes(MIN_SHARE)} for each copy on a node, of which there are"
        " partitions * replicationFactor / nodes",
        ".memory",
    ),
    rule(
        "!has(self.minInSync) || self.minInSync <= self.replicationFactor",
        "spec.minInSync must be at most spec.replicationFactor",
        ".minInSync",
    ),
    rule(
        "self.reads != 'committed' || self.durability == 'sync'",
        "spec.reads: committed is for durability: sync only",
        ".reads",
    ),
)


READS_ASIDE = ("replica", "nearest-zone")
"""The values of spec.reads with which replicas answer reads."""


class CacheClusterSpec(Part):
    """A cache that any Redis client can use: partitioned over nodes, replicated, repaired by itself."""

    model_config = ConfigDict(json_schema_extra=rules(*SPEC_RULES))

    nodes: int = Field(
        ge=1,
        le=512,
        description="Pods of the cluster. Raising it adds pods and moves copies to them, lowering it empties pods and"
        " removes them, if the data fits (see scaleIn). At least replicationFactor, at most partitions.",
    )
    replication_factor: int = Field(
        default=2,
        ge=1,
        le=5,
        description="Copies of every key, on different nodes. With 1 the loss of a pod loses its keys.",
    )
    memory: Bytes = Field(
        description="Data that one node may hold, replicas included, such as 256Mi or 8Gi. The cluster holds about"
        " nodes * memory / replicationFactor; status.memory has the exact figures. Limits of containers are derived"
        " from it with head-room."
    )
    partitions: PartitionCount = Field(
        default=16,
        description="Fixed ranges of slots that are placed and moved as a whole; each copy of one is a process. A power"
        " of two up to 512, and the most nodes that the cluster can ever have. Immutable.",
        json_schema_extra=rules(rule("self == oldSelf", "spec.partitions is immutable: make a new cluster instead")),
    )
    durability: Literal["async", "sync"] = Field(
        default="async",
        description="async: a write is answered when the primary has it; writes that were not yet replicated are lost"
        " when the primary fails without warning. sync: it is answered when every in-sync copy has it, and is lost only"
        " with all of them. Applied live.",
    )
    min_in_sync: int | None = Field(
        default=None,
        ge=1,
        le=5,
        description="With durability: sync, copies, the primary included, that must be in sync, or writes are refused"
        " with NOREPLICAS. At most replicationFactor. When unset, 1 with replicationFactor 1 or 2, otherwise 2. Applied"
        " live.",
    )
    reads: Literal["primary", "committed", "replica", "nearest-zone"] = Field(
        default="primary",
        description="primary: a read tells what the primary has. committed (with durability: sync only): it is answered"
        " when every in-sync copy has what it tells. replica: plain reads may be answered by an in-sync replica on the"
        " pod that the client is connected to, which saves a hop. nearest-zone: also by one on another pod of that"
        " pod's zone, when the primary is in another zone. What a replica answers may lack the newest writes, also the"
        " client's own: those of the last 3.5 seconds when it no longer hears its primary, and about 1 MiB when it"
        " does; one that falls behind while it hears its primary leaves the in-sync set, and is read no more, after"
        " about eight seconds. Applied live.",
    )
    sync: Sync = Field(default_factory=Sync, description="What durability: sync waits for.")
    eviction: Eviction = Field(
        default="allkeys-lru", description="What the engine does when a copy is full. Applied live."
    )
    engine: Literal["valkey", "redis"] = Field(
        default="valkey",
        description="The server that holds the data. It may change from redis to valkey, never back; pods are replaced"
        " one at a time.",
        json_schema_extra=rules(
            rule("self == oldSelf || oldSelf == 'redis'", "spec.engine may change from redis to valkey, never back")
        ),
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^\S+$",
        description="The image of the pods, which holds agent, router and engines. A change replaces pods one at a"
        " time. When unset, new pods get the operator's own, and pods that run with another one are left as they are.",
    )
    engine_config: EngineConfig = Field(
        default_factory=dict,
        description="Settings of the engine, by their own names (hz, maxmemory-samples, ...). Applied live; what is"
        " taken out goes back to its default.",
    )
    auth: Auth | None = Field(
        default=None,
        description="Users and passwords of clients. When unset, everybody who reaches the cluster may do everything. A"
        " change here replaces pods one at a time; one in the Secret does not.",
    )
    router: Router = Field(default_factory=Router, description="The processes in every pod that serve clients.")
    scale_in: ScaleIn = Field(
        default_factory=ScaleIn, description="What lowering nodes may cost. Applied live, also to one that is refused."
    )
    repair: Repair = Field(default_factory=Repair, description="How missing copies are made again.")
    lost_after_seconds: int = Field(
        default=60,
        ge=10,
        le=86400,
        description="Seconds to wait for the last copies of a partition to come back before it is given up (DataLoss).",
    )
    api_outage_seconds: int = Field(
        default=900,
        ge=60,
        le=86400,
        description="How long a partition with several in-sync copies that can reach each other is served without the"
        " API server; a sole copy is for lostAfterSeconds. A partition all of whose copies cannot be reached is not"
        " given up before this time is over, unless they are known to be dead.",
    )
    placement: Placement = Field(default_factory=Placement, description="Where pods and copies are put.")
    fencing: Fencing = Field(
        default_factory=Fencing, description="What counts as proof that a lost primary no longer serves."
    )
    resources: Resources = Field(
        default_factory=Resources, description="Overrides of the derived requests and limits of the pods' containers."
    )
    node_selector: dict[str, LabelValue] = Field(
        default_factory=dict,
        description="Labels that a node must have to be given a pod.",
        json_schema_extra=_key_rules(),
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="Taints of nodes that pods put up with."
    )
    priority_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        description="The PriorityClass of the pods.",
    )
    pod_labels: dict[str, LabelValue] = Field(
        default_factory=dict,
        description="Labels that pods get beside the operator's own.",
        json_schema_extra=_key_rules(RESERVED_LABELS),
    )
    pod_annotations: dict[str, str] = Field(
        default_factory=dict,
        description="Annotations that pods get beside the operator's own.",
        json_schema_extra=_key_rules(RESERVED_ANNOTATIONS),
    )

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes."""
        return parse_bytes(self.memory)

    @property
    def least_in_sync(self) -> int:
        """`min_in_sync`, or what it is when unset."""
        return self.min_in_sync or (1 if self.replication_factor <= 2 else 2)

    def sizing(self) -> Sizing:
        """What a copy and the cluster may hold, with all `nodes` there."""
        return size_copies(self.memory_bytes, self.partitions, self.replication_factor, self.nodes)

    def pod_resources(self) -> dict[str, ContainerAmounts]:
        """`resources` of the containers `redis` and `sidecar`."""
        return pod_resources(self.memory_bytes, self.partitions, self.replication_factor, self.router, self.resources)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a resource that cannot be served. `field` is its path, such as `spec.resources.redis`."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class InvalidSpec(ValueError):
    """The spec cannot be served; `problems` name every field that is wrong."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


def parse_spec(spec: Mapping[str, Any]) -> CacheClusterSpec:
    """The model of an object's `spec`. InvalidSpec when the operator cannot serve it, whoever let it through."""
    try:
        model = CacheClusterSpec.model_validate(spec)
    except ValidationError as error:
        raise InvalidSpec(tuple(_problem(item["loc"], item["msg"]) for item in error.errors())) from error
    problems = spec_problems(model)
    if problems:
        raise InvalidSpec(problems)
    return model


def spec_problems(spec: CacheClusterSpec) -> tuple[Problem, ...]:
    """What fields say against each other."""
    problems: dict[str, str] = {}
    if spec.nodes < spec.replication_factor:
        problems["nodes"] = "must be at least replicationFactor"
    elif spec.nodes > spec.partitions:
        problems["nodes"] = "must be at most partitions"
    else:
        copies = copies_per_node(spec.partitions, spec.replication_factor, spec.nodes)
        if spec.memory_bytes < copies * MIN_SHARE:
            problems["memory"] = f"must be at least {format_bytes(copies * MIN_SHARE)} for {copies} copies on a node"
        problems |= resource_problems(
            spec.memory_bytes, spec.partitions, spec.replication_factor, spec.router, spec.resources
        )
    for name, (least, most) in LIMITED_SIZES.items():
        size = parse_bytes(getattr(spec.router.limits, to_snake(name)))
        if not parse_bytes(least) <= size <= parse_bytes(most):
            problems[f"router.limits.{name}"] = f"must be at least {least} and at most {most}"
    if spec.min_in_sync is not None and spec.min_in_sync > spec.replication_factor:
        problems["minInSync"] = "must be at most replicationFactor"
    if spec.reads == "committed" and spec.durability != "sync":
        problems["reads"] = "committed is for durability: sync only"
    for name, given, reserved in (
        ("podLabels", spec.pod_labels, RESERVED_LABELS),
        ("podAnnotations", spec.pod_annotations, RESERVED_ANNOTATIONS),
    ):
        taken = sorted(key for key in given if key.startswith(reserved))
        if taken:
            problems[name] = f"{', '.join(taken)}: keys below {' and '.join(reserved)} are the operator's"
    for index, toleration in enumerate(spec.tolerations):
        reason = _toleration_reason(toleration)
        if reason:
            problems[f"tolerations[{index}]"] = reason
    return tuple(Problem(f"spec.{path}", message) for path, message in problems.items())


def _toleration_reason(toleration: Toleration) -> str | None:
    if toleration.operator == "Exists" and toleration.value:
        return "value must be empty with operator Exists"
    if not toleration.key and toleration.operator != "Exists":
        return "operator must be Exists when key is empty"
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        return "effect must be NoExecute when tolerationSeconds is set"
    return None


def _problem(location: tuple[int | str, ...], message: str) -> Problem:
    """Union members (`int`, `str`, function names) in pydantic's location are no part of the field's path."""
    path = "spec"
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and step not in ("int", "str", "bool"):
            path += f".{step}"
    return Problem(path, message.removeprefix("Value error, "))


def settings_of(spec: CacheClusterSpec, memory: int | None = None, nodes: int | None = None) -> Settings:
    """What agents and routers must know of the spec, as it stands in the map.

    `memory` (bytes) and `nodes` take the place of the spec's for what a copy may hold: while there are pods whose
    containers were sized for less, or copies are not yet spread over all nodes, copies must not be allowed more.
    """
    size = size_copies(memory or spec.memory_bytes, spec.partitions, spec.replication_factor, nodes or spec.nodes)
    limits = spec.router.limits
    config = engine_config.complete(dict(spec.engine_config)) | {
        "maxmemory": str(size.maxmemory),
        "maxmemory-policy": spec.eviction,
        "repl-backlog-size": str(size.backlog),
        "client-output-buffer-limit": f"normal 0 0 0 slave {size.replica_buffer} 0 0 pubsub 67108864 0 0",
    }
    return Settings(
        lost_after_s=float(spec.lost_after_seconds),
        outage_s=float(max(spec.api_outage_seconds, spec.lost_after_seconds)),
        replication_factor=spec.replication_factor,
        sync=spec.durability == "sync",
        min_in_sync=spec.least_in_sync,
        ack_timeout_s=float(spec.sync.ack_timeout_seconds),
        committed_reads=spec.reads == "committed",
        reads_from=spec.reads if spec.reads in READS_ASIDE else "primary",
        max_clients=spec.router.max_clients,
        pipelined_commands=limits.pipelined_commands,
        request_max_bytes=parse_bytes(limits.request_size),
        unread_replies_bytes=parse_bytes(limits.unread_replies),
        unread_messages_bytes=parse_bytes(limits.unread_messages),
        park_max_bytes=limits.parked_bytes,
        park_timeout_s=float(limits.parked_seconds),
        idle_s=float(limits.idle_seconds),
        router_workers=spec.router.workers,
        maxmemory_cluster=size.usable,
        engine=spec.engine,
        engine_config=tuple(sorted(config.items())),
    )


def timing_of(spec: CacheClusterSpec) -> Timing:
    """The operator's times and limits by the spec."""
    return Timing(
        repair_delay=float(spec.repair.delay_seconds),
        max_concurrent_syncs=spec.repair.max_concurrent_syncs,
        max_syncs_per_pod=SYNCS_PER_POD,
    )
