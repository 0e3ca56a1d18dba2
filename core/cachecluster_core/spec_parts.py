"""The objects inside `CacheCluster.spec`: placement, router, repair, fencing, resources, tolerations.

Descriptions are what `kubectl explain` shows. Fields are camelCase in resources and snake_case here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from .quantity import BYTES_PATTERN, CPU_PATTERN, parse_bytes, parse_cpu


class Part(BaseModel):
    """Base of everything in a resource: frozen, camelCase outside, unknown fields dropped as the API server does."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


def rule(expression: str, message: str, field: str = "") -> dict[str, Any]:
    """A CEL rule of the CRD. `field` (such as `.nodes`) is what the message is about, below where the rule stands.

    Messages are static: one that is put together by CEL exceeds the API server's cost budget.
    """
    return {"rule": expression, "message": message} | ({"fieldPath": field} if field else {})


def rules(*each: dict[str, Any], **more: Any) -> dict[str, Any]:
    """CEL rules, and other keywords, as an extra of a field's or model's schema."""
    return {"x-kubernetes-validations": list(each), **more}


def _quantity(pattern: str) -> dict[str, Any]:
    """A number or text; the length is bounded because CEL rules are charged by the longest possible text."""
    kind = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    return {**kind, "pattern": pattern, "maxLength": 32}


def _checked_bytes(value: int | str) -> int | str:
    parse_bytes(value)
    return value


def _checked_cpu(value: int | str) -> int | str:
    parse_cpu(value)
    return value


Bytes = Annotated[int | str, AfterValidator(_checked_bytes), WithJsonSchema(_quantity(BYTES_PATTERN))]
Cpu = Annotated[int | str, AfterValidator(_checked_cpu), WithJsonSchema(_quantity(CPU_PATTERN))]

LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]


def _bounds(field: str, least: str, most: str) -> dict[str, Any]:
    """Where it is there: an API server judges the default of `limits`, {}, before it fills that."""
    size = f"quantity(string(self.{field}))"
    within = f"{size}.compareTo(quantity('{least}')) >= 0 && {size}.compareTo(quantity('{most}')) <= 0"
    return rule(f"!has(self.{field}) || {within}", f"{field} must be at least {least} and at most {most}", f".{field}")


LIMITED_SIZES = {
    "requestSize": ("1Mi", "576Mi"),
    "unreadReplies": ("1Mi", "1Gi"),
    "unreadMessages": ("1Mi", "1Gi"),
    "parkedSize": ("1Mi", "512Mi"),
}
"""The least and the most that these fields of `RouterLimits` may be. No argument may have more than 512Mi, and what is
parked may be one transaction, which goes to another pod as one argument."""


class RouterLimits(Part):
    """What one client may take of a router. Peers, the routers of other pods, are not limited by it."""

    model_config = ConfigDict(json_schema_extra=rules(*(_bounds(name, *of) for name, of in LIMITED_SIZES.items())))

    pipelined_commands: int = Field(
        default=1024,
        ge=1,
        le=32768,
        description="Commands of one client that may be unanswered. With so many it is not read from until half of"
        " them are answered.",
    )
    request_size: Bytes = Field(
        default="576Mi",
        description="Bytes of one command, from 1Mi to 576Mi. A client that sends a longer one is told so and"
        " disconnected.",
    )
    unread_replies: Bytes = Field(
        default="128Mi",
        description="Bytes of replies, from 1Mi to 1Gi, that one client leaves unread, or that wait behind one that"
        " does not come. From 256Ki unread, or an eighth of the limit (at most 16Mi) waiting, its commands wait; when"
        " those that were already on their way make it more than the limit, it is disconnected.",
    )
    unread_messages: Bytes = Field(
        default="32Mi",
        description="Bytes, from 1Mi to 1Gi, that one client which has subscribed, or is in MONITOR, leaves unread;"
        " then it is disconnected.",
    )
    parked_size: Bytes = Field(
        default="64Mi",
        description="Bytes, from 1Mi to 512Mi, of all commands in one router process that wait for a partition without"
        " an open gate, or are queued since MULTI. What comes beyond is answered TRYAGAIN, or an error within MULTI. It"
        " counts in the memory limit of the sidecar: less is in effect at once, more when pods have been replaced, one"
        " at a time, by such whose sidecar has the memory for it.",
    )
    parked_seconds: int = Field(
        default=8,
        ge=1,
        le=300,
        description="Seconds that a command waits for a partition without an open gate; then it is answered TRYAGAIN.",
    )
    idle_seconds: int = Field(
        default=0,
        ge=0,
        le=31_536_000,
        description="Seconds after which a client that sends nothing, and to which nothing is sent, is disconnected;"
        " 0: never. As in Redis, clients are spared that wait for a reply, have subscribed, or are in MONITOR; what is"
        " queued since MULTI is dropped with its client.",
    )

    @property
    def parked_bytes(self) -> int:
        """`parked_size` in bytes."""
        return parse_bytes(self.parked_size)


class Router(Part):
    """The processes in every pod that serve clients."""

    workers: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Router processes in each pod; each uses at most one CPU. A change replaces pods one at a time.",
    )
    max_clients: int = Field(
        default=10000,
        ge=1,
        le=1_000_000,
        description="Client connections that each router process accepts. Fewer at once; more when pods have been"
        " replaced, one at a time, by such whose sidecar has the memory for them.",
    )
    limits: RouterLimits = Field(
        default_factory=RouterLimits,
        description="What one client may take of a router. Applied live, without replacing pods, but for parkedSize.",
    )


class SecretKey(Part):
    """A key of a Secret in the cluster's namespace."""

    name: str = Field(
        min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="Name of the Secret."
    )
    key: str = Field(
        default="users.acl",
        min_length=1,
        max_length=253,
        pattern=r"^[-._a-zA-Z0-9]+$",
        description="The key whose value is meant.",
    )


class Auth(Part):
    """Who may be a client, and what they may do."""

    secret_ref: SecretKey = Field(
        description="Users, a line for each in the syntax of Redis' ACL files: `user shop on >password ~shop:* +@all`."
        " Without a line for it, the user default is off, and clients have to authenticate. What changes in the Secret"
        " is in effect within about a minute, without a restart; until the Secret is there nobody is served."
    )


class Repair(Part):
    """How missing copies are made again."""

    delay_seconds: int = Field(
        default=30,
        ge=0,
        le=3600,
        description="Seconds that a partition may have fewer than replicationFactor copies before another one is"
        " filled, so that a pod that only restarts finds its place free.",
    )
    max_concurrent_syncs: int = Field(
        default=4, ge=1, le=64, description="Copies of the whole cluster that may be filled at the same time."
    )


class Fencing(Part):
    """What counts as proof that a lost primary no longer serves."""

    trust_connection_refused: bool = Field(
        default=True,
        description="Take it as proof when both ports of that very pod refuse connections: a dead pod is replaced"
        " within a second instead of after the wait of 3.8 seconds. Turn it off where something between pods refuses"
        " connections on behalf of living ones.",
    )


class Sync(Part):
    """What `durability: sync` waits for."""

    ack_timeout_seconds: int = Field(
        default=3,
        ge=1,
        le=60,
        description="Seconds that a write waits for every in-sync copy to have it; then it is answered INDETERMINATE:"
        " it was applied, and may be lost with the primary.",
    )


class ScaleIn(Part):
    """What a scale-in may cost."""

    when_full: Literal["refuse", "evict"] = Field(
        default="refuse",
        description="What happens when copies hold more than they may on fewer nodes. refuse: no node is removed until"
        " they fit. evict: copies are allowed less at once and evict keys by spec.eviction, while all nodes stay; nodes"
        " are removed when all copies fit. With eviction: noeviction it is refused in either case.",
    )


Spreading = Literal["prefer", "require"]


class Placement(Part):
    """Where pods, and with them the copies of a partition, are put."""

    zones: Spreading = Field(
        default="prefer",
        description="Spread pods over zones (topology.kubernetes.io/zone): prefer, or require and leave a pod pending"
        " where that is impossible. Copies of a partition are kept in different zones while there are enough.",
    )
    nodes: Spreading = Field(
        default="prefer",
        description="Keep pods on different nodes (kubernetes.io/hostname): prefer, or require and leave a pod pending"
        " where that is impossible.",
    )


class ResourceList(Part):
    """Amounts of CPU and memory."""

    cpu: Cpu | None = Field(default=None, description="CPUs, such as 500m or 2.")
    memory: Bytes | None = Field(default=None, description="Memory, such as 512Mi.")


class ContainerResources(Part):
    """Requests and limits of one container; what is left out is derived."""

    requests: ResourceList = Field(default_factory=ResourceList, description="What the pod is scheduled by.")
    limits: ResourceList = Field(
        default_factory=ResourceList,
        description="What the container may use at most. A CPU limit is not recommended: throttling ends the authority"
        " of a pod to serve.",
    )


class Resources(Part):
    """Overrides of what is derived from memory, partitions, replicationFactor and router."""

    redis: ContainerResources = Field(
        default_factory=ContainerResources,
        description="The container of the engine. Its memory limit can only be raised above what is derived.",
    )
    sidecar: ContainerResources = Field(
        default_factory=ContainerResources, description="The container of agent and routers."
    )


TOLERATION_RULES = (
    rule(
        "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
        "operator must be Exists where key is empty",
    ),
    rule(
        "!(has(self.operator) && self.operator == 'Exists' && has(self.value) && self.value != '')",
        "value must be empty with operator Exists",
    ),
    rule(
        "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
        "effect must be NoExecute where tolerationSeconds is set",
    ),
)


class Toleration(Part):
    """A toleration as in a pod's spec."""

    model_config = ConfigDict(json_schema_extra=rules(*TOLERATION_RULES))

    key: str | None = Field(
        default=None, max_length=316, description="The taint's key; empty with operator Exists is every taint."
    )
    operator: Literal["Exists", "Equal"] | None = Field(default=None, description="Equal (the default) or Exists.")
    value: str | None = Field(default=None, max_length=63, description="The taint's value; only with operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; empty is every effect."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, description="Seconds to stay on a node with that taint; only with effect NoExecute."
    )
