"""How the memory that a user gives a node becomes `maxmemory` of copies and limits of containers. Pure arithmetic.

`memory` is the data that a node may hold, replicas included. While all nodes are there a node holds at most
ceil(P * RF / N) copies (placement's bound), so a copy's share is `memory` divided by that. When one node is lost its
copies are rebuilt on the others, with the same share each: nothing is evicted, the containers have room for it.

Shares follow the number of nodes and are applied live. Limits of containers cannot: a pod's template must be the same
whatever the number of nodes, or adding one would have to replace all the others. So limits are the largest that any
allowed number of nodes would need.
"""

from __future__ import annotations

from dataclasses import dataclass

from .quantity import KIB, MIB, round_up_to_mib

ENGINE_BASELINE = 1536 * KIB
"""`used_memory` of an empty copy beyond its backlog, with replicas and routers attached (1.1 to 1.35 MB measured)."""
PROCESS_OVERHEAD = 5 * MIB
"""Private memory of an engine process that it does not count in `used_memory`, and its supervisor's."""
FRAGMENTATION = 10
"""Per cent by which resident memory may exceed `used_memory`."""
MIN_SHARE = 1 * MIB
"""Below this the engine's own needs would outweigh the data."""
MIN_BACKLOG = 128 * KIB
MAX_BACKLOG = 64 * MIB
BACKLOG_DIVISOR = 16
MIN_REPLICA_BUFFER = 16 * MIB
SYNCS_PER_POD = 2
"""Full resyncs that a pod serves at once; each may copy pages and fill a replica's buffer up to half a share."""
CONTAINER_BASE = 32 * MIB
"""Supervisor, tmpfs and kernel memory of the engine's container."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """Of one copy and of the cluster, in bytes; `copies` per node at most, with all nodes and with one node lost."""

    copies: int
    copies_after_loss: int
    share: int
    backlog: int
    maxmemory: int
    replica_buffer: int
    usable: int


def copies_per_node(partitions: int, replication_factor: int, nodes: int) -> int:
    """The most copies that a node holds when `nodes` are there: ceil(P * RF / N), and never two of one partition."""
    return min(partitions, -(-partitions * replication_factor // max(1, nodes)))


def size_copies(memory: int, partitions: int, replication_factor: int, nodes: int) -> Sizing:
    """What a copy may hold in a cluster of `nodes` nodes of `memory` bytes of data each.

    The shares of a node's copies never add up to more than `memory`. `maxmemory` is the share plus what the engine
    counts besides data: its replication backlog and its own baseline.
    """
    copies = copies_per_node(partitions, replication_factor, nodes)
    share = memory // copies
    backlog = min(MAX_BACKLOG, max(MIN_BACKLOG, share // BACKLOG_DIVISOR))
    return Sizing(
        copies=copies,
        copies_after_loss=copies_per_node(partitions, replication_factor, nodes - 1),
        share=share,
        backlog=backlog,
        maxmemory=share + backlog + ENGINE_BASELINE,
        replica_buffer=max(MIN_REPLICA_BUFFER, share // 4),
        usable=share * partitions,
    )


def engine_need(sizing: Sizing) -> int:
    """The most memory that the engine's container needs in a cluster of that sizing: one node lost, every copy full,
    and the resyncs that repair it under way."""
    copy = sizing.share * (100 + FRAGMENTATION) // 100 + sizing.backlog + ENGINE_BASELINE + PROCESS_OVERHEAD
    syncs = min(SYNCS_PER_POD, sizing.copies_after_loss)
    return sizing.copies_after_loss * copy + syncs * (sizing.share // 2) + CONTAINER_BASE


def engine_limit(memory: int, partitions: int, replication_factor: int) -> int:
    """The memory limit of the engine's container, in whole MiB: enough for every allowed number of nodes."""
    allowed = range(max(1, replication_factor), partitions + 1)
    needs = (engine_need(size_copies(memory, partitions, replication_factor, nodes)) for nodes in allowed)
    return round_up_to_mib(max(needs))


def engine_request(memory: int, partitions: int) -> int:
    """What the engine's container is scheduled by, in whole MiB: a node's data, and the baseline of every copy that a
    node can hold. What a lost node adds comes out of the limit."""
    backlogs = memory // BACKLOG_DIVISOR
    return round_up_to_mib(memory + backlogs + partitions * ENGINE_BASELINE + CONTAINER_BASE)


def sidecar_limit(workers: int, max_clients: int, park_max_bytes: int) -> int:
    """The memory limit of the sidecar, in whole MiB: the agent, and for each router process its parked commands, its
    buffers and its clients."""
    router = 64 * MIB + park_max_bytes + max_clients * 16 * KIB
    return round_up_to_mib(128 * MIB + workers * router)


def sidecar_request(workers: int) -> int:
    """What the sidecar is scheduled by, in whole MiB."""
    return 64 * MIB + workers * 32 * MIB
