"""The desired cluster that the flags ask for, by way of the spec of a CacheCluster: the same rules and sizes apply."""

from __future__ import annotations

from cachecluster_core.spec import parse_spec, settings_of, timing_of
from cachecluster_operator.snapshot import Desired

from .plan import Plan


def desired_of(plan: Plan) -> Desired:
    """What the control loop is told. InvalidSpec (a ValueError) names the fields that a CacheCluster could not have."""
    spec = parse_spec(
        {
            "nodes": plan.nodes,
            "partitions": plan.partitions,
            "replicationFactor": plan.replication_factor,
            "memory": plan.memory,
            "engine": plan.engine,
            "router": {"workers": plan.router_workers},
            "repair": {"delaySeconds": plan.repair_delay_s},
            "lostAfterSeconds": plan.lost_after_s,
        }
    )
    return Desired(
        nodes=spec.nodes,
        partitions=spec.partitions,
        settings=settings_of(spec),
        timing=timing_of(spec),
        trust_connection_refused=spec.fencing.trust_connection_refused,
    )
