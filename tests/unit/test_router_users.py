"""Users: nobody in without a password, everybody only where the rules allow, changed while clients are there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
from tests.unit.router_conversation import Conversation, conversation
from tests.unit.router_support import ENGINES, Cluster, running_cluster, until

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
        await change(cluster, file, USERS)
        await logged_in(client, "admin", "root")


async def test_scripts_take_everything_also_of_a_user_with_all_keys(tmp_path: Path) -> None:
    text = "user all on >p ~* &* +@all\nuser some on >p ~* &* +@all -@dangerous\nuser few on >p ~* &* +eval +get"
    async with with_users(tmp_path, text) as (cluster, _), conversation(cluster.pods[0].front) as client:
        for name in ("some", "few"):
            await logged_in(client, name, "p")
            refused = f"-NOPERM User {name} may not run scripts".encode()
            assert (await client.ask("EVAL", "return redis.call('FLUSHALL')", "0")).startswith(refused)
        await logged_in(client, "all", "p")
        assert await client.ask("EVAL", "return 1", "0") == b":1\r\n"


async def test_what_was_begun_under_other_rules_ends_with_them(tmp_path: Path) -> None:
    async with (
        with_users(tmp_path) as (cluster, file),
        conversation(cluster.pods[0].front) as queueing,
        conversation(cluster.pods[0].front) as blocked,
        conversation(cluster.pods[0].front) as watching,
        conversation(cluster.pods[0].front) as listening,
    ):
        for client in (queueing, blocked, watching, listening):
            await logged_in(client, "shop", "old")
        assert await queueing.ask("MULTI") == b"+OK\r\n"
        assert await queueing.ask("SET", "shop:1", "x") == b"+QUEUED\r\n"
        blocked.send(("BLPOP", "shop:list", "0"))
        assert await watching.ask("MONITOR") == b"+OK\r\n"
        assert (await listening.ask("SUBSCRIBE", "shop:a")).startswith(b"*3")
        await change(cluster, file, USERS.replace("~shop:* &shop:* +@all", "~sale:* &sale:* +@all -monitor"))
        assert (await queueing.ask("EXEC")).startswith(b"-EXECABORT")
        assert (await blocked.frame()).startswith(b"-UNBLOCKED")
        while await watching.frame():
            pass
        assert await listening.frame() == b""


async def test_who_came_without_a_name_goes_when_that_takes_one(tmp_path: Path) -> None:
    open_door = "user default on nopass ~* &* +@all\n"
    async with (
        with_users(tmp_path, open_door + USERS) as (cluster, file),
        conversation(cluster.pods[0].front) as nameless,
        conversation(cluster.pods[0].front) as named,
    ):
        assert await nameless.ask("PING") == b"+PONG\r\n"
        await logged_in(named, "shop", "old")
        await change(cluster, file, USERS)
        assert await nameless.frame() == b""
        assert await named.ask("PING") == b"+PONG\r\n"


async def test_what_is_refused_is_not_shown_and_ends_a_transaction_only_as_exec(tmp_path: Path) -> None:
    text = USERS + "user queue on >p ~* +@all -exec"
    async with (
        with_users(tmp_path, text) as (cluster, _),
        conversation(cluster.pods[0].front) as watching,
        conversation(cluster.pods[0].front) as client,
    ):
        await logged_in(watching, "admin", "root")
        assert await watching.ask("MONITOR") == b"+OK\r\n"
        assert await client.ask("SET", "shop:1", "never") == NO_AUTH
        await logged_in(client, "queue", "p")
        assert await client.ask("MULTI") == b"+OK\r\n"
        assert (await client.ask("EXEC")).startswith(b"-EXECABORT Transaction discarded because of: NOPERM User queue")
        assert await client.ask("ECHO", "end") == b"$3\r\nend\r\n"
        assert b'"MULTI"' in await watching.frame() and b'"end"' in await watching.frame()


async def test_a_client_without_a_password_cannot_make_a_router_keep_much(tmp_path: Path) -> None:
    async with with_users(tmp_path) as (cluster, _), conversation(cluster.pods[0].front) as client:
        client.send(b"*3\r\n$4\r\nAUTH\r\n$5\r\nadmin\r\n$100000000\r\n" + b"x" * 200_000)
        assert (await client.frame()).startswith(b"-ERR Protocol error: a request of an unauthenticated client")
        assert await client.frame() == b""


@pytest.mark.parametrize(
    ("content", "trouble"),
    [
        (b"user admin on >p\xe4ss", "byte 16 is no UTF-8"),
        (b"# nobody yet", "there is no user in it"),
        (b"user admin on >root" + b" ~a" * (1 << 19), "longer than"),
    ],
)
async def test_a_file_that_is_not_good_as_a_whole_is_not_taken_in_part(
    tmp_path: Path, content: bytes, trouble: str
) -> None:
    async with with_users(tmp_path) as (cluster, file), conversation(cluster.pods[0].front) as client:
        file.write_bytes(content)
        await until(lambda: f"{trouble}" in cluster.pods[0].log())
        await logged_in(client, "admin", "root")
