"""Users: nobody in without a password, everybody only where the rules allow, changed while clients are there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
from tests.unit.router_support import ENGINES, Cluster, Conversation, conversation, running_cluster, until

pytestmark = pytest.mark.t1

NO_AUTH = b"-NOAUTH Authentication required.\r\n"
WRONG = b"-WRONGPASS"
USERS = """
# of the shop
user admin on >root ~* &* +@all
user shop on >old ~shop:* &shop:* +@all
user reader on >read %R~shop:* +@read +@connection +@transaction (+set ~log:*)
"""


@asynccontextmanager
async def with_users(root: Path, text: str = USERS, engine: str = "valkey") -> AsyncIterator[tuple[Cluster, Path]]:
    """A cluster of two pods whose routers have users."""
    file = root / "users.acl"
    file.write_text(text)
    async with running_cluster(root, engine=engine, users_file=file) as cluster:
        yield cluster, file


async def change(cluster: Cluster, file: Path, text: str, told: str = "users.acl: ") -> None:
    """Other users; when this returns the routers have looked."""
    before = [pod.log().count(told) for pod in cluster.pods]
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").replace(file)
    await until(lambda: all(pod.log().count(told) > had for pod, had in zip(cluster.pods, before, strict=True)))


async def logged_in(client: Conversation, *who: str) -> Conversation:
    assert await client.ask("AUTH", *who) == b"+OK\r\n"
    return client


@pytest.mark.parametrize("engine", ENGINES)
async def test_nobody_is_served_before_the_password(tmp_path: Path, engine: str) -> None:
    async with with_users(tmp_path, engine=engine) as (cluster, _):
        for where in (cluster.pods[0].front, cluster.pods[1].cluster_port):
            async with conversation(where) as client:
                for words in (
                    ("GET", "a"),
                    ("PING",),
                    ("SUBSCRIBE", "a"),
                    ("MULTI",),
                    ("MONITOR",),
                    ("CLUSTER", "SLOTS"),
                ):
                    assert await client.ask(*words) == NO_AUTH
                assert (await client.ask("HELLO", "3")).startswith(b"-NOAUTH HELLO must be called")
                for wrong in (("root",), ("admin", "old"), ("nobody", "root")):
                    assert (await client.ask("AUTH", *wrong)).startswith(WRONG)
                assert (await client.ask("HELLO", "3", "AUTH", "admin", "wrong")).startswith(WRONG)
                assert (await client.ask("HELLO", "3", "AUTH", "admin", "root")).startswith(b"%")
                assert await client.ask("ACL", "WHOAMI") == b"$5\r\nadmin\r\n"
                assert b" user=admin " in await client.ask("CLIENT", "INFO")
                assert await client.ask("RESET") == b"+RESET\r\n"
                assert await client.ask("PING") == NO_AUTH


async def test_rules_of_commands_keys_and_channels(tmp_path: Path) -> None:
    async with with_users(tmp_path) as (cluster, _), conversation(cluster.pods[0].front) as client:
        await logged_in(client, "shop", "old")
        assert await client.ask("SET", "shop:1", "x") == b"+OK\r\n"
        assert await client.ask("MSET", "shop:1", "x", "shop:2", "y") == b"+OK\r\n"
        for words in (
            ("GET", "other"),
            ("MSET", "shop:1", "x", "other", "y"),
            ("BLPOP", "other", "1"),
            ("WATCH", "other"),
        ):
            assert await client.ask(*words) == b"-NOPERM No permissions to access a key\r\n"
        assert (await client.ask("PUBLISH", "shop:news", "m"))[:1] == b":"
        for words in (("PUBLISH", "news", "m"), ("SUBSCRIBE", "shop:a", "news"), ("PSUBSCRIBE", "shop:a*")):
            assert await client.ask(*words) == b"-NOPERM No permissions to access a channel\r\n"
        assert (await client.ask("EVAL", "return 1", "0")).startswith(b"-NOPERM User shop may not run scripts")
        await logged_in(client, "reader", "read")
        assert await client.ask("GET", "shop:1") == b"$1\r\nx\r\n"
        assert await client.ask("SET", "log:1", "x") == b"+OK\r\n"
        assert await client.ask("SET", "shop:1", "z") == b"-NOPERM No permissions to access a key\r\n"
        assert await client.ask("GET", "log:1") == b"-NOPERM No permissions to access a key\r\n"
        denied = b"-NOPERM User reader has no permissions to run the 'flushall' command\r\n"
        assert await client.ask("FLUSHALL") == denied
        client.send(("MULTI",), ("GET", "shop:1"), ("FLUSHALL",), ("EXEC",))
        assert (await client.frames(4))[2:] == [
            denied,
            b"-EXECABORT Transaction discarded because of previous errors.\r\n",
        ]
        assert (await cluster.pods[0].metrics())["errors"]["denied"] >= 10


async def test_passwords_are_rotated_and_users_removed_without_a_restart(tmp_path: Path) -> None:
    async with with_users(tmp_path) as (cluster, file), conversation(cluster.pods[0].front) as shop:
        await logged_in(shop, "shop", "old")
        await change(cluster, file, USERS.replace(">old", ">old >new"))
        async with conversation(cluster.pods[0].front) as second:
            for password in ("old", "new"):
                await logged_in(second, "shop", password)
        await change(cluster, file, USERS.replace(">old", ">new").replace("~shop:*", "~sale:*"))
        assert await shop.ask("GET", "shop:1") == b"-NOPERM No permissions to access a key\r\n", "without a new login"
        assert (await shop.ask("AUTH", "shop", "old")).startswith(WRONG)
        await change(cluster, file, USERS + "user broken +nonsense\n", "users stay as they were")
        assert await shop.ask("GET", "sale:1") == b"$-1\r\n"
        file.unlink()
        await until(lambda: cluster.pods[0].log().count("users stay as they were") == 2)
        assert await shop.ask("GET", "sale:1") == b"$-1\r\n", "as long as the file is away"
        await change(cluster, file, "user admin on >root ~* &* +@all")
        assert await shop.frame() == b"", "its connection ended"


async def test_an_open_default_user_needs_no_password(tmp_path: Path) -> None:
    async with (
        with_users(tmp_path, "user default on nopass ~cache:* +@all") as (cluster, _),
        conversation(cluster.pods[0].front) as client,
    ):
        assert await client.ask("SET", "cache:1", "x") == b"+OK\r\n"
        assert await client.ask("GET", "other") == b"-NOPERM No permissions to access a key\r\n"


async def test_clients_and_peers_work_as_ever(tmp_path: Path) -> None:
    async with with_users(tmp_path) as (cluster, _):
        for pod in cluster.pods:
            async with redis.asyncio.Redis(
                host=pod.host, port=pod.front[1], username="admin", password="root"
            ) as client:
                keys = [cluster.keys(partition)[0] for partition in range(cluster.partitions)]
                await client.mset(dict.fromkeys(keys, "1"))
                assert await client.mget(keys) == [b"1"] * len(keys)
                assert await client.eval("return redis.call('GET', KEYS[1])", 1, keys[0]) == b"1"


async def test_without_a_file_that_can_be_read_nobody_may_log_in(tmp_path: Path) -> None:
    async with (
        with_users(tmp_path, "user admin on >root +nonsense") as (cluster, file),
        conversation(cluster.pods[0].front) as client,
    ):
        assert (await client.ask("AUTH", "admin", "root")).startswith(WRONG)
        trouble = (await cluster.pods[0].metrics())["usersTrouble"]
        assert trouble.startswith("line 1: ") and trouble.endswith("; nobody may log in"), trouble
        await change(cluster, file, USERS)
        assert (await cluster.pods[0].metrics())["usersTrouble"] == ""
        await logged_in(client, "admin", "root")
