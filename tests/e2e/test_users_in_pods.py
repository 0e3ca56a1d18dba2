"""Users from a Secret: in effect in every pod, and changed there without a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from tests.e2e.cache_in_pods import CacheInPods, made, network_of
from tests.e2e.installed import Release
from tests.waiting import wait_until

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

PROPAGATED_S = 120.0
"""A kubelet looks at a Secret's volume about once a minute."""
USERS = "user admin on >root ~* &* +@all\nuser shop on >old ~shop:* +@all\n"
SPEC = {
    "nodes": 2, "replicationFactor": 2, "memory": "128Mi", "partitions": 4,
    "auth": {"secretRef": {"name": "people"}},
}  # fmt: skip


def write_users(cache: CacheInPods, text: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "people"}, "stringData": {"users.acl": text}}
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(secret))


@pytest.fixture
def cache(operator: Release) -> Iterator[CacheInPods]:
    with made(operator, "guarded", SPEC) as cache, network_of(cache.cluster.machine("hub").init):
        yield cache
        cache.kubectl("delete", "secret", "people", "--ignore-not-found")


def reason(cache: CacheInPods) -> str:
    found: str = cache.view().condition("UpToDate")["reason"]
    return found


def works(address: str, name: str, password: str) -> bool:
    with redis.Redis(host=address, username=name, password=password, socket_timeout=5) as client:
        try:
            return client.set(f"shop:{address}", "1") is True
        except redis.AuthenticationError:
            return False


def test_users_come_with_their_secret_and_change_with_it(cache: CacheInPods) -> None:
    pods = {pod["metadata"]["uid"]: pod["status"]["podIP"] for pod in cache.view().pods}
    everywhere = [cache.cluster_ip(), *pods.values()]
    assert not any(works(it, "admin", "root") for it in everywhere), "nobody may log in without the Secret"
    wait_until(lambda: reason(cache) == "UsersNotInEffect", 30, "the status says so")
    write_users(cache, USERS)
    wait_until(lambda: all(works(it, "shop", "old") for it in everywhere), PROPAGATED_S, "the users")
    with redis.Redis(host=everywhere[0], username="shop", password="old") as shop:
        with pytest.raises(redis.exceptions.NoPermissionError):
            shop.get("other")
        write_users(cache, USERS.replace(">old", ">new"))
        wait_until(lambda: all(works(it, "shop", "new") for it in everywhere), PROPAGATED_S, "the new password")
        assert not any(works(it, "shop", "old") for it in everywhere)
        assert shop.set("shop:1", "still there") is True
    assert {pod["metadata"]["uid"] for pod in cache.view().pods} == set(pods), "no pod was replaced"
