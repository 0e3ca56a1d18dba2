"""Users on `cachecluster-local`: every node and both ports know them, and learn of changes while clients are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.cluster import RedisCluster
from tests.local_process import LocalProcess
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(120)]

USERS = "user admin on >root ~* &* +@all\nuser shop on >old ~shop:* +@all\n"
KEYS = [f"shop:{number}" for number in range(64)]


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    file = tmp_path / "users.acl"
    file.write_text(USERS)
    return file


@pytest.fixture
def local(tmp_path: Path, users_file: Path) -> Iterator[LocalProcess]:
    local = LocalProcess.start(tmp_path / "run", "valkey", 3, "--users-file", str(users_file))
    local.wait_complete()
    yield local
    local.stop()


def as_user(address: tuple[str, int], name: str, password: str) -> redis.Redis:
    return redis.Redis(host=address[0], port=address[1], username=name, password=password, socket_timeout=5)


def may_log_in(address: tuple[str, int], name: str, password: str) -> bool:
    with as_user(address, name, password) as client:
        try:
            return bool(client.ping())
        except redis.AuthenticationError:
            return False


def told(local: LocalProcess, condition: str) -> str:
    message: str = next(it for it in local.status()["conditions"] if it["type"] == condition)["message"]
    return message


def test_every_node_knows_the_users_and_learns_of_others(local: LocalProcess, users_file: Path) -> None:
    nodes, entries = local.endpoints().plain, local.endpoints().cluster
    with as_user(nodes[0], "admin", "root") as client:
        client.mset(dict.fromkeys(KEYS, "1"))
    for address in nodes:
        with as_user(address, "shop", "old") as client:
            assert client.mget(KEYS) == [b"1"] * len(KEYS)
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.get("other")
        assert not may_log_in(address, "shop", "wrong") and not may_log_in(address, "default", "")
    with RedisCluster(host=entries[0][0], port=entries[0][1], username="shop", password="old") as aware:
        assert [aware.get(key) for key in KEYS] == [b"1"] * len(KEYS)
        users_file.write_text(USERS.replace(">old", ">old >new"))
        wait_until(lambda: all(may_log_in(it, "shop", "new") for it in nodes), 10, "the second password")
        assert all(may_log_in(it, "shop", "old") for it in nodes)
        users_file.write_text(USERS + "user who\n+nonsense")
        wait_until(lambda: "line 4" in told(local, "UpToDate"), 15, "what is wrong with the file")
        users_file.write_text(USERS.replace(">old", ">new"))
        wait_until(lambda: told(local, "UpToDate").startswith("all of the spec"), 15, "that it is good again")
        wait_until(lambda: not any(may_log_in(it, "shop", "old") for it in nodes), 10, "the end of the first")
        assert [aware.get(key) for key in KEYS] == [b"1"] * len(KEYS), "who is there may stay"
