"""Watching through kopf: events are unpacked and handed on, nothing else.

kopf lists and watches, survives cuts and expired versions, and logs in again. Its handlers here decide nothing, return
nothing and keep nothing on the objects: no finalizers, no annotations, no Events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf

from .kube_api import Json
from .labels import CLUSTER_LABEL
from .resources import CACHE_CLUSTER, HASH_RING, PDB, POD, SERVICE, Resource

Sink = Callable[[Resource, Json], None]
Login = Callable[[], Awaitable[kopf.ConnectionInfo]]

# Secrets, ServiceAccounts and roles are not watched: their permission would be wide, and nothing about them is urgent.
OWNED = (HASH_RING, POD, SERVICE, PDB)


def settings() -> kopf.OperatorSettings:
    """kopf's settings; why each is not the default stands beside it."""
    s = kopf.OperatorSettings()
    s.posting.enabled = False
    s.peering.standalone = True
    # Scanning needs list permission on CRDs and namespaces; the kinds are known to be there (see `main`).
    s.scanning.disabled = True
    s.watching.connect_timeout = 5
    # A connection that died without a word is noticed after this long; the default is 70 s.
    s.watching.inactivity_timeout = 15
    s.networking.request_timeout = 10
    s.networking.connect_timeout = 5
    # How quickly a cut watch resumes. A list, because it is iterated again and again.
    s.networking.error_backoffs = [0.5, 1, 1, 1]
    # Only a last resort: this process ends kopf by its stop flag.
    s.process.ultimate_exiting_timeout = 20
    for resource in OWNED:
        group, _, version = resource.api_version.rpartition("/")
        s.watching.label_selectors[group, version, resource.plural] = CLUSTER_LABEL
    return s


def quiet_logs() -> None:
    """kopf says a line about every event; only what goes wrong is of interest."""
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)


async def watch(
    login: Login,
    namespaces: Sequence[str] | None,
    seen: Sink,
    gone: Sink,
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Watch until `stop` is set; sets `ready` once signals may be handled by somebody else.

    What kopf cannot recover from (no login, no permission at all) is raised.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def connect(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    for resource in (CACHE_CLUSTER, *OWNED):
        _subscribe(registry, resource, seen, gone)
    await kopf.operator(
        registry=registry,
        settings=settings(),
        namespaces=list(namespaces or ()),
        clusterwide=namespaces is None,
        stop_flag=stop,
        ready_flag=ready,
    )


def _subscribe(registry: kopf.OperatorRegistry, resource: Resource, seen: Sink, gone: Sink) -> None:
    group, _, version = resource.api_version.rpartition("/")

    @kopf.on.event(group, version, resource.plural, registry=registry, id=resource.plural)
    async def on_event(event: Any, **_: Any) -> None:
        # Objects of an initial list carry neither apiVersion nor kind.
        obj = {"apiVersion": resource.api_version, "kind": resource.kind} | dict(event["object"])
        (gone if event["type"] == "DELETED" else seen)(resource, obj)
