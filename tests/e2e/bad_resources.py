"""CacheClusters that must be refused, each with the field that the message must name.

`REJECTED` by the API server when they are applied; `CHANGES` when a stored one is changed like that; `CONDITIONED` are
accepted by the API server and refused by the operator with a condition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GOOD: dict[str, Any] = {"nodes": 3, "replicationFactor": 2, "memory": "256Mi"}


@dataclass(frozen=True, slots=True)
class Bad:
    """What is put over `GOOD` (None removes a field), and what the refusal must say."""

    title: str
    names: str
    spec: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def resource(self, name: str) -> dict[str, Any]:
        """The whole object; `name` is used unless the name itself is what is bad."""
        spec = {key: value for key, value in (GOOD | self.spec).items() if value is not None}
        return cache_cluster(self.name or name, spec)


def cache_cluster(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A CacheCluster object."""
    return {"apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": {"name": name}, "spec": spec}


REJECTED = (
    Bad("no nodes given", "spec.nodes", {"nodes": None}),
    Bad("nodes zero", "spec.nodes", {"nodes": 0}),
    Bad("nodes as text", "spec.nodes", {"nodes": "three"}),
    Bad("fewer nodes than copies", "spec.nodes", {"nodes": 1}),
    Bad("more nodes than partitions", "spec.nodes", {"nodes": 9, "partitions": 8, "memory": "1Gi"}),
    Bad("no memory given", "spec.memory", {"memory": None}),
    Bad("memory with a wrong unit", "spec.memory", {"memory": "64 MB"}),
    Bad("memory negative", "spec.memory", {"memory": "-1Gi"}),
    Bad("memory too small for its copies", "spec.memory", {"memory": "8Mi"}),
    Bad("memory as a number too small", "spec.memory", {"memory": 4096}),
    Bad("replication factor zero", "spec.replicationFactor", {"replicationFactor": 0}),
    Bad("replication factor beyond the maximum", "spec.replicationFactor", {"nodes": 8, "replicationFactor": 8}),
    Bad("partitions no power of two", "spec.partitions", {"partitions": 12}),
    Bad("partitions beyond the maximum", "spec.partitions", {"partitions": 1024, "memory": "8Gi"}),
    Bad("unknown eviction policy", "spec.eviction", {"eviction": "lru"}),
    Bad("unknown engine", "spec.engine", {"engine": "memcached"}),
    Bad("durability that is not served", "spec.durability", {"durability": "always"}),
    Bad("more copies in sync than there are", "spec.minInSync", {"durability": "sync", "minInSync": 3}),
    Bad("committed reads of async", "spec.reads", {"reads": "committed"}),
    Bad("no time for acknowledgements", "spec.sync.ackTimeoutSeconds", {"sync": {"ackTimeoutSeconds": 0}}),
    Bad("image with a space", "spec.image", {"image": "cache cluster:1"}),
    Bad("setting of the engine not on the list", "spec.engineConfig", {"engineConfig": {"requirepass": "x"}}),
    Bad("setting of the engine of a wrong type", "spec.engineConfig.hz", {"engineConfig": {"hz": "fast"}}),
    Bad("setting of the engine out of bounds", "spec.engineConfig.hz", {"engineConfig": {"hz": 5000}}),
    Bad(
        "keyspace events with an unknown letter",
        "spec.engineConfig.notify-keyspace-events",
        {"engineConfig": {"notify-keyspace-events": "Q"}},
    ),
    Bad("no router process", "spec.router.workers", {"router": {"workers": 0}}),
    Bad("no clients allowed", "spec.router.maxClients", {"router": {"maxClients": 0}}),
    Bad(
        "no command in flight allowed",
        "spec.router.limits.pipelinedCommands",
        {"router": {"limits": {"pipelinedCommands": 0}}},
    ),
    Bad(
        "commands shorter than a value",
        "spec.router.limits.requestSize",
        {"router": {"limits": {"requestSize": "1023Ki"}}},
    ),
    Bad(
        "replies without end", "spec.router.limits.unreadReplies", {"router": {"limits": {"unreadReplies": 1073741825}}}
    ),
    Bad(
        "no room for messages", "spec.router.limits.unreadMessages", {"router": {"limits": {"unreadMessages": "1000k"}}}
    ),
    Bad(
        "more parked than a peer takes", "spec.router.limits.parkedSize", {"router": {"limits": {"parkedSize": "1Gi"}}}
    ),
    Bad("no time to park", "spec.router.limits.parkedSeconds", {"router": {"limits": {"parkedSeconds": 0}}}),
    Bad("negative time-out", "spec.router.limits.idleSeconds", {"router": {"limits": {"idleSeconds": -1}}}),
    Bad("negative repair delay", "spec.repair.delaySeconds", {"repair": {"delaySeconds": -1}}),
    Bad("no syncs allowed", "spec.repair.maxConcurrentSyncs", {"repair": {"maxConcurrentSyncs": 0}}),
    Bad("given up at once", "spec.lostAfterSeconds", {"lostAfterSeconds": 1}),
    Bad("unknown way of placement", "spec.placement.zones", {"placement": {"zones": "never"}}),
    Bad(
        "CPU with a wrong unit",
        "spec.resources.redis.requests.cpu",
        {"resources": {"redis": {"requests": {"cpu": "2 cores"}}}},
    ),
    Bad("a label of the operator's", "spec.podLabels", {"podLabels": {"cachecluster.io/cluster": "other"}}),
    Bad("a label key with a space", "spec.podLabels", {"podLabels": {"my team": "web"}}),
    Bad("a label value with a space", "spec.podLabels", {"podLabels": {"team": "web team"}}),
    Bad("an annotation of the operator's", "spec.podAnnotations", {"podAnnotations": {"cachecluster.io/x": "y"}}),
    Bad("a node label with a bad key", "spec.nodeSelector", {"nodeSelector": {"-disk": "ssd"}}),
    Bad(
        "toleration of an unknown effect", "spec.tolerations[0].effect", {"tolerations": [{"key": "a", "effect": "No"}]}
    ),
    Bad("toleration without a key", "spec.tolerations", {"tolerations": [{"value": "a"}]}),
    Bad("priority class that is no name", "spec.priorityClassName", {"priorityClassName": "Very High"}),
    Bad("unknown field", "spec.nodez", {"nodez": 3}),
    Bad("name too long", "metadata.name", name="a" * 53),
    Bad("name that begins with a digit", "metadata.name", name="3cache"),
    Bad("name with a dot", "metadata.name", name="my.cache"),
)

CHANGES = (
    Bad("partitions of a cluster that exists", "spec.partitions", {"partitions": 32}),
    Bad("from valkey to redis", "spec.engine", {"engine": "redis"}),
    Bad("scaled in below its copies", "spec.nodes", {"nodes": 1}),
)

CONDITIONED = (
    Bad(
        "memory limit below what the copies need",
        "spec.resources.redis.limits.memory",
        {"resources": {"redis": {"limits": {"memory": "300Mi"}}}},
    ),
    Bad(
        "request above the limit",
        "spec.resources.sidecar.requests.memory",
        {"resources": {"sidecar": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}}},
    ),
)
