"""The spec of a CacheCluster that the flags ask for: the same rules and sizes apply as on Kubernetes."""

from __future__ import annotations

from cachecluster_core.spec import CacheClusterSpec, parse_spec

from .plan import Plan


def spec_of(plan: Plan, nodes: int, engine: str = "", evict: bool = False) -> CacheClusterSpec:
    """The spec, with so many nodes, and another engine if one is named; `evict`: a scale-in may.

    InvalidSpec (a ValueError) names the fields that a CacheCluster could not have.
    """
    return parse_spec(
        {
            "nodes": nodes,
            "partitions": plan.partitions,
            "replicationFactor": plan.replication_factor,
            "memory": plan.memory,
            "engine": engine or plan.engine,
            "durability": plan.durability,
            "reads": plan.reads,
            "minInSync": plan.min_in_sync,
            "router": {"workers": plan.router_workers},
            "scaleIn": {"whenFull": "evict" if evict else "refuse"},
            "repair": {"delaySeconds": plan.repair_delay_s},
            "lostAfterSeconds": plan.lost_after_s,
        }
    )
