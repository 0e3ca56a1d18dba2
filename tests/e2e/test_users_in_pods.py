"""Users from a Secret: in effect in every pod, and changed there without a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import redis
from tests.e2e.cache_in_pods import CacheInPods, is_ready, made, network_of
from tests.e2e.installed import Release
from tests.waiting import wait_until

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]

PROPAGATED_S = 120.0
"""A kubelet looks at a Secret's volume about once a minute."""
USERS = "user admin on >root ~* &* +@all\nuser shop on >old ~shop:* +@all\n"
NUMBERS = count()
SPEC = {
    "nodes": 2, "replicationFactor": 2, "memory": "128Mi", "partitions": 4,
    "auth": {"secretRef": {"name": "people"}},
}  # fmt: skip


def write_users(cache: CacheInPods, text: str) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "people"}, "stringData": {"users.acl": text}}
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(secret))
    selector = f"cachecluster.io/cluster={cache.name}"
    cache.kubectl("annotate", "pods", "--overwrite", "-l", selector, f"users={time.time()}")  # kubelets look now


@pytest.fixture
def cache(operator: Release) -> Iterator[CacheInPods]:
    name = f"guarded-{next(NUMBERS)}"
    write_users(CacheInPods(operator, name), USERS)
    with made(operator, name, SPEC) as cache:
        yield cache
    cache.kubectl("delete", "secret", "people")


def reason(cache: CacheInPods) -> str:
    found: str = cache.view().condition("UpToDate")["reason"]
    return found


@contextmanager
def logged_in(cache: CacheInPods, address: str, name: str, password: str) -> Iterator[redis.Redis]:
    """A client with a connection, made in the network of the cluster. AuthenticationError when it is not let in."""
    with redis.Redis(host=address, username=name, password=password, socket_timeout=5) as client:
        with network_of(cache.cluster.machine("hub").init):
            client.ping()
        yield client


def may_write(cache: CacheInPods, address: str, name: str, password: str) -> bool:
    try:
        with logged_in(cache, address, name, password) as client:
            return client.set(f"shop:{address}", "1") is True
    except redis.AuthenticationError:
        return False


def works(cache: CacheInPods, name: str, password: str) -> list[bool]:
    """Whether a user may write: through the Service, and on every pod that is ready."""
    addresses = [cache.cluster_ip(), *(pod["status"]["podIP"] for pod in cache.view().pods if is_ready(pod))]
    return [may_write(cache, address, name, password) for address in addresses]


def test_users_come_with_their_secret_and_change_with_it(cache: CacheInPods) -> None:
    pods = {pod["metadata"]["uid"] for pod in cache.view().pods}
    assert all(works(cache, "shop", "old")) and not any(works(cache, "shop", "new"))
    with logged_in(cache, cache.cluster_ip(), "shop", "old") as shop:
        with pytest.raises(redis.exceptions.NoPermissionError):
            shop.get("other")
        write_users(cache, USERS.replace(">old", ">new"))
        wait_until(lambda: all(works(cache, "shop", "new")), PROPAGATED_S, "the new password")
        assert not any(works(cache, "shop", "old"))
        assert shop.set("shop:1", "still there") is True
    assert {pod["metadata"]["uid"] for pod in cache.view().pods} == pods, "no pod was replaced"


def test_a_pod_that_starts_with_users_that_are_wrong_gets_no_clients(cache: CacheInPods) -> None:
    write_users(cache, USERS + "user nobody nonsense\n")
    wait_until(lambda: reason(cache) == "UsersNotInEffect", PROPAGATED_S, "the status says so")
    assert all(works(cache, "shop", "old")), "users stay as they were"
    gone = cache.view().pods[0]
    cache.kubectl("delete", "pod", gone["metadata"]["name"], "--wait=false")

    def is_locked() -> bool:
        told = cache.view().condition("UpToDate")["message"]
        return "line 3: word 3: it is no rule" in told and "nobody may log in" in told

    wait_until(is_locked, 60, "the new pod lets nobody in")
    assert all(may_write(cache, cache.cluster_ip(), "shop", "old") for _ in range(20))
    assert cache.view().condition("Ready")["status"] == "False"
    write_users(cache, USERS)
    wait_until(lambda: reason(cache) == "SpecInEffect", PROPAGATED_S, "the status says that it is good again")
    cache.wait_whole(nodes=2)
    assert all(works(cache, "shop", "old"))
