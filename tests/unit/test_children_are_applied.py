"""Children: applied when they differ and only then; never taken from somebody else."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fake_kube_api import FakeKubeApi

from cachecluster_operator import manifests
from cachecluster_operator.children import Children, NameTaken, covers
from cachecluster_operator.cluster_key import ClusterKey

pytestmark = pytest.mark.t0

KEY = ClusterKey("default", "demo")
SERVICE = ("Service", "default", "demo")


def cluster(uid: str) -> dict[str, Any]:
    return {"apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "demo", "uid": uid}}


def service(uid: str = "cc-uid") -> dict[str, Any]:
    return manifests.service_children(KEY, cluster(uid))[0]


@pytest.fixture
def api() -> FakeKubeApi:
    return FakeKubeApi()


async def test_what_is_there_is_not_written_again(api: FakeKubeApi) -> None:
    children = Children(api, "cc-uid")
    assert await children.ensure(service())
    for _ in range(3):
        assert not await children.ensure(service())
    assert not await Children(api, "cc-uid").ensure(service()), "nor by an operator that has just started"
    assert len(api.writes) == 1


async def test_a_change_by_hand_is_put_right_when_it_is_seen(api: FakeKubeApi) -> None:
    children = Children(api, "cc-uid")
    await children.ensure(service())
    api.objects[SERVICE]["spec"]["ports"][0]["targetPort"] = 1
    api.objects[SERVICE]["metadata"]["resourceVersion"] = "99"
    assert children.seen(api.objects[SERVICE])
    assert await children.ensure(service())
    assert api.objects[SERVICE]["spec"]["ports"][0]["targetPort"] == 6379


async def test_a_deleted_child_comes_back(api: FakeKubeApi) -> None:
    children = Children(api, "cc-uid")
    await children.ensure(service())
    children.gone(api.objects.pop(SERVICE))
    assert await children.ensure(service())


async def test_the_echo_of_an_own_write_is_no_news(api: FakeKubeApi) -> None:
    children = Children(api, "cc-uid")
    await children.ensure(service())
    assert not children.seen(api.objects[SERVICE])


async def test_a_field_that_is_no_longer_wanted_is_a_difference(api: FakeKubeApi) -> None:
    children = Children(api, "cc-uid")
    wider = service()
    wider["spec"]["sessionAffinity"] = "ClientIP"
    await children.ensure(wider)
    assert await children.ensure(service())


@pytest.mark.parametrize("owner", ["earlier-cluster", None])
async def test_an_object_of_somebody_else_is_left_alone(api: FakeKubeApi, owner: str | None) -> None:
    await Children(api, "earlier-cluster").ensure(service("earlier-cluster"))
    if owner is None:
        del api.objects[SERVICE]["metadata"]["ownerReferences"]
    before = api.objects[SERVICE]
    with pytest.raises(NameTaken, match="Service default/demo"):
        await Children(api, "cc-uid").ensure(service())
    assert api.objects[SERVICE] is before


def test_defaults_of_the_server_are_no_difference_but_extra_rules_are() -> None:
    wanted = {"spec": {"ports": [{"port": 1}], "flag": False}, "rules": [{"verbs": ["get"]}]}
    defaulted = {
        "spec": {"ports": [{"port": 1, "protocol": "TCP"}], "type": "ClusterIP"},
        "rules": [{"verbs": ["get"]}],
    }
    assert covers(defaulted, wanted)
    assert not covers(defaulted | {"rules": [{"verbs": ["get"]}, {"verbs": ["delete"]}]}, wanted)
    assert not covers(defaulted | {"spec": {"ports": []}}, wanted)
