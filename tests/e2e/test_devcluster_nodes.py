"""The development cluster's nodes: a pod of the project's image, a node cut off, a node killed and started."""

import json
from collections.abc import Iterator

import pytest

from cachecluster_devcluster.api import wait
from cachecluster_devcluster.cluster import DevCluster
from cachecluster_devcluster.image import DEFAULT_TAG
from cachecluster_devcluster.processes import ProcessError

pytestmark = pytest.mark.t4
ENGINES = ("valkey-server", "redis-server")


def engine_pod(name: str, node: str, engine: str) -> dict[str, object]:
    """An engine under the rules of Pod Security "restricted", on a read-only root."""
    container = {
        "name": "engine",
        "image": DEFAULT_TAG,
        "imagePullPolicy": "Never",
        "command": [engine, "--port", "6379", "--save", "", "--protected-mode", "no"],
        "readinessProbe": {"exec": {"command": ["redis-cli", "ping"]}, "periodSeconds": 1},
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 10001}
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 1,
        "securityContext": security,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def ping(cluster: DevCluster, host: str) -> bool:
    """Whether the engine at a host answers a client in the cluster's network within two seconds."""
    try:
        return cluster.hub_exec(["timeout", "2", "redis-cli", "-h", host, "ping"]).strip() == "PONG"
    except ProcessError:
        return False


def address(cluster: DevCluster, pod: str) -> str:
    """The pod's present address."""
    return cluster.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")


@pytest.fixture
def engine(faults: DevCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a pod that runs an engine on n2, and of the Service before it."""
    engine_name = getattr(request, "param", ENGINES[0])
    name = f"probe-{engine_name.partition('-')[0]}"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 6379}]},
    }
    objects = {"apiVersion": "v1", "kind": "List", "items": [engine_pod(name, "n2", engine_name), service]}
    faults.kubectl("apply", "-f", "-", input_text=json.dumps(objects))
    faults.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=30s")
    yield name
    faults.start("n2")
    faults.heal("n2")
    faults.kubectl("delete", f"pod/{name}", f"service/{name}", "--wait=true")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_an_engine_of_the_image_answers_by_address_and_by_service_name(faults: DevCluster, engine: str) -> None:
    assert ping(faults, address(faults, engine))
    wait("the Service's name", lambda: ping(faults, f"{engine}.default"), 10)


def test_a_node_that_is_cut_off_is_silent_until_healed(faults: DevCluster, engine: str) -> None:
    faults.cut("n2")
    assert not ping(faults, address(faults, engine))
    faults.heal("n2")
    wait("the pod after the heal", lambda: ping(faults, address(faults, engine)), 10)


def test_a_killed_node_comes_back_with_its_pods(faults: DevCluster, engine: str) -> None:
    before = address(faults, engine)
    assert faults.kill("n2")
    assert not ping(faults, before)
    assert not faults.machine("n2").alive
    faults.start("n2")
    wait("the pod after the start", lambda: ping(faults, f"{engine}.default"), 40)
