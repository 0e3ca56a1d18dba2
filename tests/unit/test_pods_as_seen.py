"""Pods as the operator sees them: late and missed events, the kubelet's last word, names that are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.fake_kube_api import FakeKubeApi

from cachecluster_operator.cluster_key import ClusterKey
from cachecluster_operator.kube_api import ApiError
from cachecluster_operator.kube_pods import KubePods
from cachecluster_operator.labels import pod_labels, pod_selector
from cachecluster_operator.pod_view import pod_trouble, pod_view, sidecar_ended
from cachecluster_operator.ports import PodRefused
from cachecluster_operator.resources import POD
from cachecluster_operator.zones import Zones

pytestmark = pytest.mark.t0

KEY = ClusterKey("default", "demo")
OURS = "cc-uid"
BuildPod = Callable[[int], dict[str, Any]]


def pod(number: int, owner: str = OURS, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": f"demo-{number}",
        "namespace": "default",
        "labels": pod_labels(KEY),
        "ownerReferences": [{"kind": "CacheCluster", "name": "demo", "uid": owner}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {}} | more


def versioned(obj: dict[str, Any], uid: str, version: int, **metadata: Any) -> dict[str, Any]:
    return obj | {"metadata": obj["metadata"] | {"uid": uid, "resourceVersion": str(version)} | metadata}


class Seen:
    """A `KubePods` on a fake API server, and how often it said that something changed."""

    def __init__(self) -> None:
        self.api = FakeKubeApi()
        self.changes = 0
        self.now = 0.0
        self.zones = Zones(self.api, retry_s=0.01, recheck_s=30.0, clock=lambda: self.now)
        self.pods = KubePods(self.api, KEY, OURS, self.zones, pod, self._changed, pod_selector(KEY))

    def _changed(self) -> None:
        self.changes += 1

    def names(self) -> list[str]:
        return [found.name for found in self.pods.pods()]


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_an_older_version_that_comes_late_changes_nothing(seen: Seen) -> None:
    seen.pods.seen(versioned(pod(0, status={"podIP": "10.0.0.2"}), "u0", 12))
    seen.pods.seen(versioned(pod(0, status={"podIP": "10.0.0.1"}), "u0", 11))
    assert [found.host for found in seen.pods.pods()] == ["10.0.0.2"]


def test_a_deleted_pod_does_not_return_with_a_late_event(seen: Seen) -> None:
    seen.pods.seen(versioned(pod(0), "u0", 12))
    seen.pods.gone("u0")
    seen.pods.seen(versioned(pod(0), "u0", 13))
    assert seen.names() == []


def test_pods_of_an_earlier_cluster_are_not_ours(seen: Seen) -> None:
    seen.pods.seen(versioned(pod(0, owner="old"), "u0", 12))
    assert seen.names() == []


async def test_a_list_finds_what_the_watch_missed(seen: Seen) -> None:
    await seen.api.create(POD, pod(1))
    seen.pods.seen(versioned(pod(0), "gone-unnoticed", 1))
    await seen.pods.sync()
    assert seen.names() == ["demo-1"]


async def test_a_pod_is_known_as_soon_as_it_is_made_and_made_once(seen: Seen) -> None:
    await seen.pods.create(0)
    await seen.pods.create(0)
    assert seen.names() == ["demo-0"] and len(seen.api.writes) == 1


async def test_a_name_that_another_clusters_pod_has_is_passed_over(seen: Seen) -> None:
    await seen.api.create(POD, pod(0, owner="old"))
    await asyncio.gather(*(seen.pods.create(number) for number in range(3)))
    assert seen.names() == ["demo-1", "demo-2", "demo-3"]


async def test_our_own_pod_that_was_not_seen_yet_is_not_made_twice(seen: Seen) -> None:
    await seen.api.create(POD, pod(0))
    await seen.pods.create(0)
    assert seen.names() == ["demo-0"]


async def test_a_pod_that_is_not_allowed_is_refused_with_the_api_servers_reason(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def create(*_: object) -> dict[str, Any]:
        raise ApiError(403, "Forbidden", "exceeded quota: few")

    monkeypatch.setattr(seen.api, "create", create)
    with pytest.raises(PodRefused, match="demo-0 cannot be made: exceeded quota: few"):
        await seen.pods.create(0)


async def test_only_the_pod_meant_is_deleted_or_marked(seen: Seen) -> None:
    await seen.pods.create(0)
    (found,) = seen.pods.pods()
    await seen.pods.delete("another", "demo-0", "test")
    await seen.pods.mark_not_ready("another", "demo-0")
    assert len(seen.api.objects) == 1 and len(seen.api.writes) == 1
    await seen.pods.mark_not_ready(found.uid, "demo-0")
    assert not seen.pods.pods()[0].ready
    await seen.pods.delete(found.uid, "demo-0", "test")
    await seen.pods.delete(found.uid, "demo-0", "again")
    assert seen.api.objects == {}


async def test_a_zone_is_asked_for_once_a_node_and_told_when_known(seen: Seen) -> None:
    node = {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}}
    seen.api.objects["Node", "", "n1"] = node
    seen.pods.seen(versioned(pod(0, spec={"nodeName": "n1"}), "u0", 1))
    assert seen.pods.pods()[0].zone == ""
    for _ in range(5):
        await asyncio.sleep(0)
    assert seen.pods.pods()[0].zone == "z1" and seen.changes == 2
    await seen.zones.close()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_node_that_is_labelled_later_gets_its_zone_with_a_resync(seen: Seen) -> None:
    seen.api.objects["Node", "", "n1"] = {"metadata": {"name": "n1"}}
    created = await seen.api.create(POD, pod(0, spec={"nodeName": "n1"}))
    seen.pods.seen(created)
    await settle()
    seen.api.objects["Node", "", "n1"] = {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}}
    await seen.pods.sync()
    await settle()
    assert seen.pods.pods()[0].zone == "" and seen.changes == 1
    seen.now = 30.0
    await seen.pods.sync()
    await settle()
    assert seen.pods.pods()[0].zone == "z1" and seen.changes == 2
    await seen.zones.close()


async def test_a_refusal_to_read_nodes_does_not_hold_for_ever(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.api.objects["Node", "", "n1"] = {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}}
    seen.pods.seen(await seen.api.create(POD, pod(0, spec={"nodeName": "n1"})))

    async def get(*_: object) -> None:
        raise ApiError(401, "Unauthorized", "the token is too old")

    with monkeypatch.context() as refusing:
        refusing.setattr(seen.api, "get", get)
        await settle()
    await seen.pods.sync()
    await settle()
    assert seen.pods.pods()[0].zone == ""
    seen.now = 30.0
    await seen.pods.sync()
    await settle()
    assert seen.pods.pods()[0].zone == "z1"
    await seen.zones.close()


def ended(finished: str | None, deleted: str | None = "2026-11-24T07:00:30Z", name: str = "sidecar") -> dict[str, Any]:
    state = {"terminated": {"finishedAt": finished}} if finished else {"running": {}}
    obj = pod(0, status={"containerStatuses": [{"name": name, "state": state}]})
    metadata = {"deletionTimestamp": deleted, "deletionGracePeriodSeconds": 30} if deleted else {}
    return versioned(obj, "u0", 1, **metadata)


@pytest.mark.parametrize(
    ("obj", "says"),
    [
        (ended("2026-11-24T07:00:01Z"), True),
        (ended("2026-11-24T07:00:00Z"), False),
        (ended("2026-11-24T06:59:59Z"), False),
        (ended(None), False),
        (ended("2026-11-24T07:00:01Z", deleted=None), False),
        (ended("2026-11-24T07:00:01Z", name="redis"), False),
    ],
    ids=["after", "same second", "before the deletion", "still runs", "not being deleted", "another container"],
)
def test_a_sidecar_has_ended_for_good_only_when_it_ended_after_the_deletion(obj: dict[str, Any], says: bool) -> None:
    assert sidecar_ended(obj) == says
    assert pod_view(obj, "").terminated == says


WAITS: dict[str, Any] = {"waiting": {"reason": "PodInitializing"}}
ENDED: dict[str, Any] = {"terminated": {"exitCode": 1}}


@pytest.mark.parametrize(
    ("containers", "unstarted"),
    [
        ([{"name": "sidecar", "state": WAITS, "lastState": {}, "restartCount": 0}], True),
        ([{"name": "sidecar", "state": WAITS, "lastState": ENDED, "restartCount": 1}], False),
        ([{"name": "sidecar", "state": WAITS, "lastState": {}, "restartCount": 1}], False),
        ([{"name": "sidecar", "state": {"running": {}}, "lastState": {}, "restartCount": 0}], False),
        ([{"name": "sidecar", "state": ENDED, "lastState": {}, "restartCount": 0}], False),
        ([{"name": "redis", "state": WAITS, "lastState": {}, "restartCount": 0}], False),
        ([], False),
    ],
    ids=["waits", "crashed", "was restarted", "runs", "has ended", "another container", "no word of it"],
)
def test_a_sidecar_that_the_kubelet_has_not_started_yet_is_known_as_such(
    containers: list[dict[str, Any]], unstarted: bool
) -> None:
    status = {"podIP": "10.0.0.1", "containerStatuses": containers}
    assert pod_view(versioned(pod(0, status=status), "u0", 1), "").unstarted == unstarted


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"initContainerStatuses": [{"name": "redis", "state": state}]}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (waiting("PodInitializing"), None),
        (waiting("ImagePullBackOff", "no such image"), "demo-0, container redis: ImagePullBackOff no such image"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]},
            "demo-0 cannot be scheduled: 0/3 nodes",
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
            "demo-0 has ended: Evicted low on memory",
        ),
        ({}, None),
    ],
)
def test_what_keeps_a_pod_from_starting_is_told(status: dict[str, Any], told: str | None) -> None:
    assert pod_trouble(pod(0, status=status)) == told


@pytest.mark.parametrize(
    ("annotations", "template", "outdated"),
    [
        ({"cachecluster.io/template": "old"}, "new", True),
        ({"cachecluster.io/template": "new"}, "new", False),
        ({"cachecluster.io/template": "old"}, None, False),
        ({}, "new", False),
        (None, "new", False),
    ],
    ids=["another", "the same", "not known yet", "without one", "without annotations"],
)
def test_a_pod_is_outdated_when_it_was_made_from_another_template(
    annotations: dict[str, str] | None, template: str | None, outdated: bool
) -> None:
    obj = versioned(pod(0), "u0", 1, annotations=annotations)
    assert pod_view(obj, "", template).outdated == outdated


def test_pods_are_compared_with_the_template_of_the_moment() -> None:
    template = ["a"]
    api = FakeKubeApi()
    pods = KubePods(api, KEY, OURS, Zones(api), pod, lambda: None, "", lambda: template[0])
    pods.seen(versioned(pod(0), "u0", 1, annotations={"cachecluster.io/template": "a"}))
    assert not pods.pods()[0].outdated
    template[0] = "b"
    assert pods.pods()[0].outdated
