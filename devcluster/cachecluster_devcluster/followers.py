"""Whether the parts of a development cluster follow its API server, asked by objects of the day.

Kubelets, controllers and proxies that could not watch try again after waits that double to half a minute and more.
Until then they act on what they knew: a new Service leads nowhere, a new pod does not start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from cachecluster_devcluster.api import wait
from cachecluster_devcluster.components import PAUSE_IMAGE
from cachecluster_devcluster.namespaces import Machine

NAME = "devcluster-follows"
NAMESPACE = "kube-system"
KUBELET_PORT = 10250
PATIENCE_SECONDS = 120.0


def wait_for_followers(kubectl: Callable[..., str], machines: Sequence[Machine], nodes: Sequence[str]) -> None:
    """Returns when a new pod on every node is ready and every machine reaches them by a new Service.

    Raises TimeoutError or ProcessError when that takes more than two minutes or so. The pods are in their nodes'
    network, and it is a kubelet that answers at the Service's address. The scheduler is not asked.
    """
    objects = {"apiVersion": "v1", "kind": "List", "items": [_service(), *map(_pod, nodes)]}
    within = ("--namespace", NAMESPACE)
    remove = ("delete", "pods,services", "-l", f"app={NAME}", "--now")
    kubectl(*within, *remove, f"--timeout={PATIENCE_SECONDS:.0f}s")
    kubectl(*within, "apply", "-f", "-", input_text=json.dumps(objects))
    try:
        ready = ("--for=condition=Ready", f"--timeout={PATIENCE_SECONDS:.0f}s")
        kubectl(*within, "wait", "pods", "-l", f"app={NAME}", *ready)
        address = kubectl(*within, "get", "service", NAME, "-o", "jsonpath={.spec.clusterIP}")
        for machine in machines:
            what = f"new Services on {machine.name} (log: {machine.folder}/kube-proxy.log)"
            wait(what, lambda machine=machine: machine.reaches(address, 443), PATIENCE_SECONDS)  # type: ignore[misc]
    finally:
        kubectl(*within, *remove, "--wait=false")


def _service() -> dict[str, object]:
    spec = {"selector": {"app": NAME}, "ports": [{"port": 443, "targetPort": KUBELET_PORT}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "labels": {"app": NAME}}, "spec": spec}


def _pod(node: str) -> dict[str, object]:
    """A pod that does nothing, whatever the node is tainted with."""
    spec = {
        "nodeName": node,
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "pause", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}],
    }
    metadata = {"name": f"{NAME}-{node}", "labels": {"app": NAME}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
