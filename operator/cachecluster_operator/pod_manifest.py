"""The manifest of a cache pod: pure. Two containers of one image, as docs/architecture.md says.

`redis` is a native sidecar: on deletion the kubelet ends it only after `sidecar` has ended, so that engines outlive
the agent that shuts their gates. The token of the ServiceAccount and the Secret are mounted in `sidecar` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from cachecluster_core.spec import CacheClusterSpec
from cachecluster_core.spec_parts import Auth, Toleration

from .cluster_key import ClusterKey
from .labels import (
    AGENT_PORT,
    CLIENT_PORT,
    CLIENTS_ANNOTATION,
    CLUSTER_PORT,
    ENGINE_ANNOTATION,
    MEMORY_ANNOTATION,
    METRICS_PORT,
    NUMBER_LABEL,
    PARKED_ANNOTATION,
    TEMPLATE_ANNOTATION,
    account_name,
    common_labels,
    owner_reference,
    pod_labels,
    secret_name,
)

Json = dict[str, Any]

RUN_DIR = "/run/cachecluster"
SUPERVISOR_DIR = "/run/sidecar"
DATA_DIR = "/data"
SECRETS_DIR = "/etc/cachecluster/secrets"
USERS_DIR = "/etc/cachecluster/users"
USERS_FILE = "users.acl"
TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
USER_ID = 10001
RUN_SIZE = "64Mi"
SUPERVISOR_SIZE = "4Mi"
GRACE_SECONDS = 60
"""How long a pod may take to end: clients that come late are accepted for 10 s, its primaries are handed over, and
clients are sent away when nothing of theirs is outstanding. No part of the template: see `template_fingerprint`."""
TOKEN_SECONDS = 3600

# All that pods are built from, but not the number of nodes, nor what agents apply live.
TEMPLATE_FIELDS = {
    "replication_factor", "memory", "partitions", "engine", "image", "router", "placement", "resources", "auth",
    "node_selector", "tolerations", "priority_class_name", "pod_labels", "pod_annotations",
}  # fmt: skip

FINGERPRINT_DEFAULTS: Json = {
    "replicationFactor": 2,
    "partitions": 16,
    "engine": "valkey",
    "router": {"workers": 1, "maxClients": 10000, "limits": {"parkedSize": 67108864}},
    "placement": {"zones": "prefer", "nodes": "prefer"},
    "auth": {"secretRef": {"key": "users.acl"}},
}
"""Values that a fingerprint leaves out. Frozen: when a default of the spec changes, this stays, or pods of those who
have written the old or the new value into their spec would look outdated after an upgrade of the operator."""

# One supervisor for the engines; the agent adds a service for every copy.
REDIS_COMMAND = f"umask 077; mkdir -p {RUN_DIR}/scan {RUN_DIR}/sock; exec s6-svscan {RUN_DIR}/scan"

# The agent is a supervised service, not the container's first process: routers are its children and outlive it.
# Its directory is the sidecar's own: a service file that the engines' container could write would lend it the token.
# On SIGTERM s6-svscan passes the signal on and waits until the agent has ended, then the container ends.
SIDECAR_COMMAND = """\
umask 077
scan=SUPERVISOR_DIR/scan
mkdir -p "$scan/agent"
printf '#!/bin/sh\\nexec 2>&1\\nexec cachecluster-agent\\n' > "$scan/agent/run"
chmod 700 "$scan/agent/run"
exec s6-svscan "$scan"
""".replace("SUPERVISOR_DIR", SUPERVISOR_DIR)


def template_inputs(spec: CacheClusterSpec) -> Json:
    """What the spec says about pods: what its user has set, without `FINGERPRINT_DEFAULTS`."""
    given = spec.model_dump(mode="json", by_alias=True, include=TEMPLATE_FIELDS, exclude_unset=True, exclude_none=True)
    limits = given.get("router", {}).pop("limits", {})
    if "parkedSize" in limits:  # all others are applied live, and say nothing about pods
        given["router"]["limits"] = {"parkedSize": spec.router.limits.parked_bytes}
    return _without(given, FINGERPRINT_DEFAULTS) | {"memory": spec.memory_bytes}


def _without(given: Json, defaults: Json) -> Json:
    """`given` without what `defaults` has too, and without objects and lists that are empty then."""
    result = {}
    for name, value in given.items():
        default = defaults.get(name)
        if isinstance(value, dict):
            value = _without(value, default or {})
        if value not in (default, {}, []):
            result[name] = value
    return result


def template_fingerprint(spec: CacheClusterSpec) -> str:
    """Changes exactly when `template_inputs` does. An upgrade of the operator, with other defaults, another manifest or
    another image of its own, does not count: it must not make all pods look outdated."""
    text = json.dumps(template_inputs(spec), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_pod(
    key: ClusterKey, cluster: Json, spec: CacheClusterSpec, number: int, image: str, leaving: Collection[int] = ()
) -> Json:
    """The pod `<cluster>-<number>`. `image` is what `spec.image` overrides; `leaving` are the numbers of pods that will
    go, so that where they are does not count for where this one is put."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{key.name}-{number}",
            "namespace": key.namespace,
            "labels": dict(spec.pod_labels) | common_labels(key) | pod_labels(key) | {NUMBER_LABEL: str(number)},
            "annotations": dict(spec.pod_annotations) | _annotations(spec),
            "ownerReferences": [owner_reference(cluster)],
        },
        "spec": _pod_spec(key, cluster, spec, spec.image or image, leaving),
    }


def _annotations(spec: CacheClusterSpec) -> dict[str, str]:
    return {
        TEMPLATE_ANNOTATION: template_fingerprint(spec),
        MEMORY_ANNOTATION: str(spec.memory_bytes),
        PARKED_ANNOTATION: str(spec.router.limits.parked_bytes),
        CLIENTS_ANNOTATION: str(spec.router.max_clients),
        ENGINE_ANNOTATION: spec.engine,
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(METRICS_PORT),
        "prometheus.io/path": "/metrics",
    }


def _pod_spec(key: ClusterKey, cluster: Json, spec: CacheClusterSpec, image: str, leaving: Collection[int]) -> Json:
    pod: Json = {
        "serviceAccountName": account_name(key),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "restartPolicy": "Always",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": _spread(key, spec, leaving),
        "volumes": _volumes(secret_name(key, cluster), spec.auth),
        "initContainers": [_redis_container(spec, image)],
        "containers": [_sidecar_container(key, cluster, spec, image)],
    }
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    if spec.tolerations:
        pod["tolerations"] = [_toleration(toleration) for toleration in spec.tolerations]
    if spec.priority_class_name:
        pod["priorityClassName"] = spec.priority_class_name
    return pod


def _redis_container(spec: CacheClusterSpec, image: str) -> Json:
    return _container("redis", image, REDIS_COMMAND, spec) | {
        "restartPolicy": "Always",
        "startupProbe": {
            "exec": {"command": ["test", "-p", f"{RUN_DIR}/scan/.s6-svscan/control"]},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "volumeMounts": [_mount("run", RUN_DIR), _mount("data", DATA_DIR)],
    }


def _sidecar_container(key: ClusterKey, cluster: Json, spec: CacheClusterSpec, image: str) -> Json:
    ports = {"redis": CLIENT_PORT, "cluster": CLUSTER_PORT, "agent": AGENT_PORT, "metrics": METRICS_PORT}
    return _container("sidecar", image, SIDECAR_COMMAND, spec) | {
        "env": _environment(key, cluster["metadata"]["uid"], spec),
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        "readinessProbe": _probe("/readyz", period_s=1, failures=3),
        # Patient: ending the container ends its routers too. An agent that hangs has lost its authority long before.
        "livenessProbe": _probe("/healthz", period_s=5, failures=6) | {"initialDelaySeconds": 10},
        "volumeMounts": [
            _mount("run", RUN_DIR),
            _mount("supervisor", SUPERVISOR_DIR),
            _mount("data", DATA_DIR),
            _mount("secrets", SECRETS_DIR, read_only=True),
            _mount("token", TOKEN_DIR, read_only=True),
            *([_mount("users", USERS_DIR, read_only=True)] if spec.auth else []),
        ],
    }


def _container(name: str, image: str, script: str, spec: CacheClusterSpec) -> Json:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script],
        "resources": spec.pod_resources()[name],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment(key: ClusterKey, cluster_uid: str, spec: CacheClusterSpec) -> list[Json]:
    values = {
        "CLUSTER_UID": cluster_uid,
        "NAME": key.name,
        "NAMESPACE": key.namespace,
        # By address, not by name: the way to the map must not depend on cluster DNS.
        "API_SERVER": "https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)",
        "TOKEN_FILE": f"{TOKEN_DIR}/token",
        "CA_FILE": f"{TOKEN_DIR}/ca.crt",
        "RUN_DIR": RUN_DIR,
        "DATA_DIR": DATA_DIR,
        "SECRETS_DIR": SECRETS_DIR,
        "ENGINE": spec.engine,
        "ROUTER_WORKERS": str(spec.router.workers),
    }
    if spec.auth:
        values["USERS_FILE"] = f"{USERS_DIR}/{USERS_FILE}"
    fields = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid", "HOST": "status.podIP"}
    return [
        *({"name": f"CACHECLUSTER_{name}", "value": value} for name, value in values.items()),
        *(
            {"name": f"CACHECLUSTER_{name}", "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in fields.items()
        ),
    ]


def _volumes(secret: str, auth: Auth | None) -> list[Json]:
    token: Json = {
        "defaultMode": 0o440,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ],
    }
    return [
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": RUN_SIZE}},
        {"name": "supervisor", "emptyDir": {"medium": "Memory", "sizeLimit": SUPERVISOR_SIZE}},
        {"name": "data", "emptyDir": {}},
        {"name": "secrets", "secret": {"secretName": secret, "defaultMode": 0o440}},
        {"name": "token", "projected": token},
        *([{"name": "users", "secret": _users(auth)}] if auth else []),
    ]


def _users(auth: Auth) -> Json:
    """The Secret with the users. A pod starts without it, and lets nobody in until it is there."""
    ref = auth.secret_ref
    items = [{"key": ref.key, "path": USERS_FILE}]
    return {"secretName": ref.name, "items": items, "defaultMode": 0o440, "optional": True}


def _spread(key: ClusterKey, spec: CacheClusterSpec, leaving: Collection[int]) -> list[Json]:
    """Over zones and nodes, among the pods that stay: one that replaces another is to take its place."""
    selector: Json = {"matchLabels": pod_labels(key)}
    if leaving:
        numbers = [str(number) for number in sorted(leaving)]
        selector["matchExpressions"] = [{"key": NUMBER_LABEL, "operator": "NotIn", "values": numbers}]
    topologies = (
        ("topology.kubernetes.io/zone", spec.placement.zones),
        ("kubernetes.io/hostname", spec.placement.nodes),
    )
    return [
        {
            "maxSkew": 1,
            "topologyKey": topology,
            "whenUnsatisfiable": "DoNotSchedule" if wish == "require" else "ScheduleAnyway",
            "labelSelector": selector,
            # Nodes that this pod cannot be put on, lost ones among them, must not count as empty ones.
            "nodeAffinityPolicy": "Honor",
            "nodeTaintsPolicy": "Honor",
        }
        for topology, wish in topologies
    ]


def _toleration(toleration: Toleration) -> Json:
    return toleration.model_dump(mode="json", by_alias=True, exclude_none=True)


def _probe(path: str, period_s: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": METRICS_PORT},
        "periodSeconds": period_s,
        "timeoutSeconds": 3 if failures > 3 else 1,
        "failureThreshold": failures,
    }


def _mount(name: str, path: str, read_only: bool = False) -> Json:
    return {"name": name, "mountPath": path} | ({"readOnly": True} if read_only else {})
