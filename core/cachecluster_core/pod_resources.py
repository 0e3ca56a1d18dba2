"""Requests and limits of a pod's two containers: what `sizing` derives, with the user's overrides."""

from __future__ import annotations

from .quantity import format_bytes, parse_bytes, parse_cpu
from .sizing import engine_limit, engine_request, sidecar_limit, sidecar_request
from .spec_parts import ContainerResources, Resources, Router

ContainerAmounts = dict[str, dict[str, str]]
"""`{"requests": {"cpu": ..., "memory": ...}, "limits": {...}}`, as in a container's `resources`."""


def pod_resources(
    memory: int, partitions: int, replication_factor: int, router: Router, resources: Resources
) -> dict[str, ContainerAmounts]:
    """`resources` of the containers `redis` and `sidecar`. The number of nodes is no input: see `sizing`.

    There is no CPU limit unless the user sets one. A memory request above the limit (a user's) lifts the limit.
    """
    engine = _amounts("100m", engine_request(memory, partitions), engine_limit(memory, partitions, replication_factor))
    limit = sidecar_limit(router.workers, router.max_clients, router.limits.parked_bytes)
    sidecar = _amounts("100m", sidecar_request(router.workers), limit)
    return {"redis": _override(engine, resources.redis), "sidecar": _override(sidecar, resources.sidecar)}


def resource_problems(
    memory: int, partitions: int, replication_factor: int, router: Router, resources: Resources
) -> dict[str, str]:
    """What is wrong with the overrides, by the field's path below `spec`."""
    problems = {}
    derived = engine_limit(memory, partitions, replication_factor)
    wanted = resources.redis.limits.memory
    if wanted is not None and parse_bytes(wanted) < derived:
        problems["resources.redis.limits.memory"] = (
            f"must be at least {format_bytes(derived)}, which memory, partitions and replicationFactor need"
        )
    for name, container in (("redis", resources.redis), ("sidecar", resources.sidecar)):
        problems |= _request_problems(f"resources.{name}.requests", container)
    return problems


def _request_problems(path: str, container: ContainerResources) -> dict[str, str]:
    requests, limits = container.requests, container.limits
    problems = {}
    if requests.cpu is not None and limits.cpu is not None and parse_cpu(requests.cpu) > parse_cpu(limits.cpu):
        problems[f"{path}.cpu"] = "must not be more than the limit"
    request, limit = requests.memory, limits.memory
    if request is not None and limit is not None and parse_bytes(request) > parse_bytes(limit):
        problems[f"{path}.memory"] = "must not be more than the limit"
    return problems


def _amounts(cpu: str, request: int, limit: int) -> ContainerAmounts:
    requests = {"cpu": cpu, "memory": format_bytes(min(request, limit))}
    return {"requests": requests, "limits": {"memory": format_bytes(limit)}}


def _override(derived: ContainerAmounts, wanted: ContainerResources) -> ContainerAmounts:
    requests, limits = dict(derived["requests"]), dict(derived["limits"])
    for amounts, override in ((requests, wanted.requests), (limits, wanted.limits)):
        if override.cpu is not None:
            amounts["cpu"] = str(override.cpu)
        if override.memory is not None:
            amounts["memory"] = str(override.memory)
    if "cpu" in limits and parse_cpu(requests["cpu"]) > parse_cpu(limits["cpu"]):
        requests["cpu"] = limits["cpu"]
    if parse_bytes(requests["memory"]) > parse_bytes(limits["memory"]):
        if wanted.limits.memory is None:
            limits["memory"] = requests["memory"]
        else:
            requests["memory"] = limits["memory"]
    return {"requests": requests, "limits": limits}
