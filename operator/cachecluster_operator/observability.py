"""Dashboards, alert rules and scrape configurations, applied in the operator's own namespace while it leads."""

from __future__ import annotations

import asyncio
import logging

from .alerts import alert_config_map, pod_monitors, prometheus_rule
from .children import Children, NameTaken
from .dashboards import dashboard_config_maps
from .kube_api import ApiError, Json, KubeApi, Unreachable
from .resources import LEASE, POD_MONITOR, PROMETHEUS_RULE

log = logging.getLogger(__name__)

REPEAT_S = 600.0
"""How often the objects are looked at again; the kinds of the Prometheus operator may have been installed meanwhile."""
RETRY_S = 15.0


async def keep_observability(api: KubeApi, namespace: str, lease_name: str) -> None:
    """Apply until cancelled. Everything is owned by the Lease, so that it goes away with the operator's chart."""
    while True:
        try:
            await _apply_all(api, namespace, lease_name)
            await asyncio.sleep(REPEAT_S)
        except (ApiError, Unreachable, NameTaken) as error:
            log.warning("dashboards and alerts: %s", error)
            await asyncio.sleep(RETRY_S)


async def _apply_all(api: KubeApi, namespace: str, lease_name: str) -> None:
    lease = await api.get(LEASE, namespace, lease_name)
    if lease is None:
        log.info("no dashboards and alerts: there is no Lease %s/%s to own them", namespace, lease_name)
        return
    owner = {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "name": lease_name,
        "uid": lease["metadata"]["uid"],
    }
    children = Children(api, owner["uid"])
    for manifest in await _wanted(api, namespace):
        metadata = manifest["metadata"] | {"namespace": namespace, "ownerReferences": [owner]}
        if await children.ensure(manifest | {"metadata": metadata}):
            log.info("applied %s %s/%s", manifest["kind"], namespace, metadata["name"])


async def _wanted(api: KubeApi, namespace: str) -> list[Json]:
    wanted = [*dashboard_config_maps(namespace), alert_config_map(namespace)]
    if await api.serves(POD_MONITOR):
        wanted += pod_monitors(namespace)
    if await api.serves(PROMETHEUS_RULE):
        wanted.append(prometheus_rule(namespace))
    return wanted
