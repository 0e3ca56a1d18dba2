"""A real API server takes the CRDs and every example, and refuses bad CacheClusters with the field named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.e2e.bad_resources import CHANGES, GOOD, REJECTED, Bad, cache_cluster

from cachecluster_core.cluster_status import CacheClusterStatus
from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_devcluster.processes import ProcessError

pytestmark = pytest.mark.t2

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "crds/examples").glob("*.yaml"))
NAMESPACE = "custom-resources"

Kubectl = Callable[..., str]


@pytest.fixture(scope="module")
def crds(kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace of its own, with the CRDs installed."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    names = [f"crd/{plural}.cachecluster.io" for plural in ("cacheclusters", "hashrings")]
    kubectl("wait", "--for=condition=Established", *names, "--timeout=20s")
    kubectl("create", "namespace", NAMESPACE)

    def inside(*arguments: str, input_text: str | None = None) -> str:
        return kubectl("--namespace", NAMESPACE, *arguments, input_text=input_text)

    yield inside
    kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _apply(kubectl: Kubectl, resource: dict[str, object], *more: str) -> str:
    return kubectl("apply", *more, "-f", "-", input_text=json.dumps(resource))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_accepted_and_defaults_are_filled_in(crds: Kubectl, path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    stored = json.loads(crds("apply", "--dry-run=server", "-o", "json", "-f", str(path)))
    assert given["spec"].items() <= stored["spec"].items()
    assert {"partitions", "eviction", "engine", "durability", "router", "repair"} <= set(stored["spec"])


@pytest.mark.parametrize("bad", REJECTED, ids=lambda bad: bad.title)
def test_bad_resource_is_rejected_with_the_field_named(crds: Kubectl, bad: Bad) -> None:
    with pytest.raises(ProcessError) as refused:
        _apply(crds, bad.resource("bad"), "--dry-run=server")
    assert bad.names in str(refused.value)


@pytest.fixture(scope="module")
def stored(crds: Kubectl) -> str:
    """The name of a CacheCluster that exists."""
    _apply(crds, cache_cluster("stored", GOOD))
    return "stored"


@pytest.mark.parametrize("bad", CHANGES, ids=lambda bad: bad.title)
def test_bad_change_is_rejected_with_the_field_named(crds: Kubectl, stored: str, bad: Bad) -> None:
    with pytest.raises(ProcessError) as refused:
        _apply(crds, bad.resource(stored), "--dry-run=server")
    assert bad.names in str(refused.value)


def test_engine_may_change_from_redis_to_valkey(crds: Kubectl) -> None:
    _apply(crds, cache_cluster("changing", GOOD | {"engine": "redis"}))
    _apply(crds, cache_cluster("changing", GOOD | {"engine": "valkey"}))


def test_scale_subresource_and_its_limits(crds: Kubectl, stored: str) -> None:
    crds("scale", "cc", stored, "--replicas=4")
    assert crds("get", "cc", stored, "-o", "jsonpath={.spec.nodes}") == "4"
    with pytest.raises(ProcessError, match=r"spec\.nodes"):
        crds("scale", "cc", stored, "--replicas=1")


def test_status_is_shown_in_columns_and_to_wait_for(crds: Kubectl) -> None:
    _apply(crds, cache_cluster("shown", GOOD))
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    condition |= {"reason": "AllServed", "message": "Every partition is served.", "observedGeneration": 1}
    status = {"observedGeneration": 1, "nodes": 3, "readyNodes": 3, "nodesReady": "3/3", "partitionsServed": "16/16"}
    status |= {"selector": "cachecluster.io/cluster=shown", "conditions": [condition]}
    status |= {"members": [{"pod": "shown-0", "uid": "u", "primaries": 6, "memoryUsed": "1Mi"}]}
    CacheClusterStatus.model_validate(status)
    crds("patch", "cc", "shown", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    crds("wait", "cc/shown", "--for=condition=Ready", "--timeout=5s")
    header, line = crds("get", "cc", "shown").splitlines()
    assert header.split() == ["NAME", "READY", "NODES", "PARTITIONS", "AGE"]
    assert line.split()[:4] == ["shown", "True", "3/3", "16/16"]
    scale = json.loads(
        crds("get", "--raw", f"/apis/cachecluster.io/v1alpha1/namespaces/{NAMESPACE}/cacheclusters/shown/scale")
    )
    assert scale["status"] == {"replicas": 3, "selector": "cachecluster.io/cluster=shown"}


def test_every_field_is_explained(crds: Kubectl) -> None:
    text = crds("explain", "cc.spec", "--recursive=false")
    assert "<no description>" not in text
    assert "replicas included" in crds("explain", "cc.spec.memory")
    assert "maxmemory-samples" in crds("explain", "cc.spec.engineConfig")


def test_map_is_stored_whole_also_with_fields_that_the_crd_does_not_know(crds: Kubectl) -> None:
    copies = (CopyId("pod-a", "run-1"), CopyId("pod-b", "run-2"))
    entry = Entry(epoch=3, state=State.STABLE, primary=copies[0], isr=copies, learners=("pod-c",), term=3, since=1.5)
    ring = HashRing(name="stored", members=(("pod-a", Member("stored-0", "10.0.0.1")),), entries=(entry, Entry()))
    spec = ring.to_spec() | {"newInAllOfIt": 1}
    spec["entries"][0]["newInAnEntry"] = {"deep": [1]}
    spec["settings"]["newInSettings"] = "x"
    resource = {
        "apiVersion": "cachecluster.io/v1alpha1",
        "kind": "HashRing",
        "metadata": {"name": "stored"},
        "spec": spec,
    }
    crds("create", "-f", "-", input_text=json.dumps(resource))
    stored = json.loads(crds("get", "hr", "stored", "-o", "json"))
    assert stored["spec"] == spec
    back = HashRing.from_object(stored)
    assert (back.entries, back.members, back.settings) == (ring.entries, ring.members, ring.settings)


def test_map_with_a_state_that_does_not_exist_is_refused(crds: Kubectl) -> None:
    spec = HashRing(name="odd", entries=(Entry(),)).to_spec()
    spec["entries"][0]["state"] = "Confused"
    resource = {"apiVersion": "cachecluster.io/v1alpha1", "kind": "HashRing", "metadata": {"name": "odd"}, "spec": spec}
    with pytest.raises(ProcessError, match=r"spec\.entries\[0\]\.state"):
        crds("create", "-f", "-", input_text=json.dumps(resource))
