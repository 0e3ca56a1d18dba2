"""What clients send on connecting, and the clients of redis-py on both ports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.unit.router_conversation import conversation, request
from tests.unit.router_support import ENGINES, running_cluster

from cachecluster_sidecar.router.cluster import node_id

pytestmark = pytest.mark.t1


async def test_redis_py_with_its_defaults_and_a_pipeline(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        for protocol in (2, 3):
            client = cluster.pods[0].client(protocol, client_name="tester", db=0)
            try:
                assert await client.ping()
                pipe = client.pipeline(transaction=False)
                for number in range(500):
                    pipe.set(f"p{number}", number)
                    pipe.get(f"p{number}")
                results = await pipe.execute()
                assert results == [x for number in range(500) for x in (True, str(number).encode())]
                assert (await client.client_info())["name"] == "tester"
            finally:
                await client.aclose()


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_cluster_client_reads_what_a_plain_client_wrote(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=3, partitions=8) as cluster:
        host, port = cluster.pods[1].cluster_port
        plain = cluster.pods[2].client()
        clustered: Any = redis.asyncio.RedisCluster(host=host, port=port)
        try:
            for number in range(64):
                await plain.set(f"n{number}", number)
            assert [await clustered.get(f"n{number}") for number in range(64)] == [b"%d" % n for n in range(64)]
            await clustered.set("{tag}a", 1)
            await clustered.set("{tag}b", 2)
            assert await clustered.mget("{tag}a", "{tag}b") == [b"1", b"2"]
            assert await plain.get("{tag}b") == b"2"
        finally:
            await clustered.aclose()
            await plain.aclose()


async def test_hello_switches_versions_only_after_what_is_outstanding(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        client.send(
            ("HSET", "h", "f", "v"), ("HGETALL", "h"), ("HELLO", "3"), ("HGETALL", "h"), ("RESET",), ("GET", "x")
        )
        frames = await client.frames(6)
        assert frames[0] == b":1\r\n"
        assert frames[1] == b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n"
        assert frames[2].startswith(b"%7\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n")
        assert frames[3] == b"%1\r\n$1\r\nf\r\n$1\r\nv\r\n"
        assert frames[4] == b"+RESET\r\n"
        assert frames[5] == b"$-1\r\n"


async def test_hello_and_auth_without_users(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        assert (await client.ask("HELLO", "3", "AUTH", "default", "any", "SETNAME", "n")).startswith(b"%7")
        assert await client.ask("CLIENT", "GETNAME") == b"$1\r\nn\r\n"
        assert (await client.ask("HELLO", "3", "AUTH", "someone", "x")).startswith(b"-WRONGPASS")
        assert (await client.ask("HELLO", "4")).startswith(b"-NOPROTO")
        assert (await client.ask("HELLO", "x")).startswith(b"-ERR Protocol version")
        assert (await client.ask("HELLO", "3", "NONSENSE")).startswith(b"-ERR Syntax error in HELLO option 'NONSENSE'")
        assert (await client.ask("AUTH", "x")).startswith(b"-ERR AUTH <password> called without any password")
        assert (await client.ask("AUTH", "someone", "x")).startswith(b"-WRONGPASS")
        assert await client.ask("AUTH", "default", "x") == b"+OK\r\n"


async def test_inline_commands_and_half_closed_connections(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        client.send(b'\r\nPING\r\nset in "a b"\nget in\r\nget in2\n')
        client.writer.write_eof()
        assert await client.frames(4) == [b"+PONG\r\n", b"+OK\r\n", b"$3\r\na b\r\n", b"$-1\r\n"]
        assert await client.frame() == b""


async def test_quit_answers_what_came_before_it_and_closes(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        client.send(("SET", "a", "1"), ("GET", "a"), ("QUIT",), ("SET", "a", "2"))
        assert await client.frames(3) == [b"+OK\r\n", b"$1\r\n1\r\n", b"+OK\r\n"]
        assert await client.frame() == b""
        async with conversation(cluster.pods[0].front) as other:
            assert await other.ask("GET", "a") == b"$1\r\n1\r\n"


async def test_info_config_and_cluster_say_where_they_are_asked(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        async with conversation(cluster.pods[0].front) as front:
            info = (await front.ask("INFO")).decode()
            assert "cluster_enabled:0\r\n" in info and "redis_mode:standalone\r\n" in info and "loading:0\r\n" in info
            assert "redis_version:7.2.4\r\n" in info and "valkey_version:9.1.2\r\n" in info
            assert await front.ask("INFO", "cluster") == b"$30\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n"
            assert (await front.ask("CLUSTER", "SLOTS")) == b"-ERR This instance has cluster support disabled\r\n"
            assert (await front.ask("READONLY")) == b"-ERR This instance has cluster support disabled\r\n"
            maxmemory = await front.ask("CONFIG", "GET", "maxmemory*")
            assert maxmemory == request("maxmemory", "268435456", "maxmemory-policy", "allkeys-lru")
        async with conversation(cluster.pods[0].cluster_port) as port:
            assert "cluster_enabled:1\r\n" in (await port.ask("INFO", "cluster")).decode()
            assert await port.ask("READONLY") == b"+OK\r\n"
            assert await port.ask("CLUSTER", "KEYSLOT", "foo{bar}") == b":5061\r\n"
            assert await port.ask("CLUSTER", "MYID") == b"$40\r\n" + node_id("uid-0").encode() + b"\r\n"
            assert await port.ask("CLUSTER", "MYSHARDID") == await port.ask("CLUSTER", "MYID")
            assert await port.ask("CLUSTER", "LINKS") == b"*0\r\n"
            assert await port.ask("CLUSTER", "REPLICAS", node_id("uid-1")) == b"*0\r\n"
            assert await port.ask("CLUSTER", "REPLICAS", "none") == b"-ERR Unknown node none\r\n"
            assert int((await port.ask("LASTSAVE"))[1:]) <= time.time()
            assert await port.ask("LOLWUT") == b"$18\r\nValkey ver. 9.1.2\n\r\n"
            assert "cluster_state:ok\r\n" in (await port.ask("CLUSTER", "INFO")).decode()


async def test_cluster_replies_are_read_by_redis_py(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2, partitions=4) as cluster:
        host, port = cluster.pods[0].cluster_port
        for protocol in (2, 3):
            client: Any = redis.asyncio.Redis(host=host, port=port, protocol=protocol)
            try:
                slots = await client.execute_command("CLUSTER SLOTS")
                assert [span[:2] for span in slots] == [[0, 4095], [4096, 8191], [8192, 12287], [12288, 16383]]
                assert {span[2][0].decode() for span in slots} == {pod.host for pod in cluster.pods}
                shards = await client.execute_command("CLUSTER SHARDS")
                assert len(shards) == 2
                nodes = await client.execute_command("CLUSTER NODES")
                assert set(nodes) == {f"{pod.host}:7379" for pod in cluster.pods}
                assert nodes[f"{host}:7379"]["slots"] == [["0", "4095"], ["8192", "12287"]]
            finally:
                await client.aclose()


async def test_command_tables_of_the_engine(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, engine="redis") as cluster:
        for protocol in (2, 3):
            client: Any = cluster.pods[0].client(protocol)
            try:
                assert await client.command_count() == 240
                commands = await client.command()
                assert len(commands) == 240 and commands["get"]["arity"] == 2
            finally:
                await client.aclose()


async def test_command_docs_and_info_by_name(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        await client.ask("HELLO", "3")
        info = await client.ask("COMMAND", "INFO", "get", "nonsense")
        assert info.startswith(b"*2\r\n*10\r\n$3\r\nget\r\n:2\r\n~2\r\n+fast\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n")
        assert info.endswith(b"_\r\n")
        docs = await client.ask("COMMAND", "DOCS", "get", "object", "nonsense")
        assert docs.startswith(b"%2\r\n$3\r\nget\r\n%4\r\n$7\r\nsummary\r\n")
        assert b"object|encoding" in docs


async def test_clients_are_listed_and_ended(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        front = cluster.pods[0].front
        async with conversation(front) as one, conversation(front) as two, conversation(front) as three:
            ids = [int((await it.ask("CLIENT", "ID"))[1:]) for it in (one, two, three)]
            await two.ask("MULTI")
            await two.ask("GET", "a")
            lines = (await one.ask("CLIENT", "LIST")).splitlines()[1:]
            assert [int(it.split()[0][3:]) for it in lines if it] == ids
            assert b" multi=1 " in lines[1] and b" multi=-1 " in lines[0]
            assert (await one.ask("CLIENT", "LIST", "ID", str(ids[2]))).count(b"id=") == 1
            assert await one.ask("CLIENT", "LIST", "TYPE", "pubsub") == b"$0\r\n\r\n"
            assert await one.ask("CLIENT", "LIST", "NONSENSE") == b"-ERR syntax error\r\n"
            assert await one.ask("CLIENT", "KILL", "ID", str(ids[1])) == b":1\r\n"
            assert await two.frame() == b""
            where = next(it for it in lines[2].split() if it.startswith(b"addr="))[5:].decode()
            assert await one.ask("CLIENT", "KILL", where) == b"+OK\r\n"
            assert await three.frame() == b""
            assert await one.ask("CLIENT", "KILL", where) == b"-ERR No such client\r\n"
            assert await one.ask("CLIENT", "KILL", "USER", "default") == b":0\r\n", "not the one who asks"
            for bad in (("ID", "x"), ("NONSENSE", "1"), ("ID", "1", "ADDR")):
                assert await one.ask("CLIENT", "KILL", *bad) == b"-ERR syntax error\r\n"
            assert await one.ask("CLIENT", "KILL", "USER", "default", "SKIPME", "no") == b":1\r\n"
            assert await one.frame() == b""


async def test_small_questions_are_answered(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        assert await client.ask("ACL", "WHOAMI") == b"$7\r\ndefault\r\n"
        assert b"$4\r\nhash\r\n" in await client.ask("ACL", "CAT")
        assert b"$4\r\nhset\r\n" in await client.ask("ACL", "CAT", "hash")
        assert await client.ask("ACL", "CAT", "nonsense") == b"-ERR Unknown category 'nonsense'\r\n"
        assert (await client.ask("ACL", "GENPASS")).startswith(b"$64\r\n")
        assert (await client.ask("ACL", "GENPASS", "5")).startswith(b"$2\r\n")
        assert (await client.ask("ACL", "GENPASS", "0")).startswith(b"-ERR ACL GENPASS")
        assert await client.ask("ROLE") == b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
        assert await client.ask("UNWATCH") == b"+OK\r\n"
        assert await client.ask("CLIENT", "GETREDIR") == b":-1\r\n"
        assert await client.ask("CLIENT", "UNBLOCK", "1") == b":0\r\n"
        assert await client.ask("COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2") == request("a", "b")
        assert (await client.ask("COMMAND", "GETKEYS", "NONSENSE", "a")).startswith(b"-ERR Invalid command")
        for words in (("GET",), ("GET", "a", "b"), ("MGET",)):
            assert (await client.ask("COMMAND", "GETKEYS", *words)).startswith(b"-ERR Invalid number of arguments")
        assert (await client.ask("COMMAND", "GETKEYS", "PING")).startswith(b"-ERR The command has no key")


async def test_what_is_refused_says_what_to_use_instead(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        assert b"is not served yet" in await client.ask("ACL", "DRYRUN", "default", "GET", "a")
        reply = await client.ask("CONFIG", "SET", "maxmemory", "1")
        assert reply == b"-ERR 'config|set' is refused by the router: change spec.engineConfig of the CacheCluster\r\n"
        assert await client.ask("GET", "a") == b"$-1\r\n"


async def test_the_routers_own_command_is_for_peers_on_the_cluster_port(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        async with conversation(cluster.pods[0].front) as client:
            assert (await client.ask("CACHECLUSTER", "GATES")).startswith(b"-ERR unknown command 'CACHECLUSTER'")
        for words, code in (
            (("CACHECLUSTER", "GATES"), b"-NOAUTH"),
            (("CACHECLUSTER", "HELLO", "3", "wrong", "uid-0"), b"-NOAUTH"),
            (("CACHECLUSTER", "HELLO", "3", "peer-token-of-the-test", "uid-1"), b"-WRONGPOD"),
        ):
            async with conversation(cluster.pods[0].cluster_port) as peer:
                assert (await peer.ask(*words)).startswith(code)
                assert await peer.frame() == b""


@pytest.mark.parametrize("engine", ENGINES)
async def test_replies_that_are_not_wanted_are_not_sent(tmp_path: Path, engine: str) -> None:
    dialog: tuple[tuple[str, ...], ...] = (
        ("CLIENT", "REPLY", "SKIP"),
        ("SET", "k0", "1"),
        ("INCR", "k0"),
        ("CLIENT", "REPLY", "OFF"),
        ("INCR", "k0"),
        ("CLIENT", "REPLY", "SKIP"),
        ("GET",),
        ("NONSENSE",),
        ("PING",),
        ("SUBSCRIBE", "news"),
        ("UNSUBSCRIBE", "news"),
        ("MULTI",),
        ("INCR", "k0"),
        ("EXEC",),
        ("CLIENT", "REPLY", "ON"),
        ("GET", "k0"),
        ("CLIENT", "REPLY", "SKIP"),
        ("CLIENT", "REPLY", "MAYBE"),
        ("GET", "k0"),
        ("CLIENT", "REPLY", "OFF"),
        ("RESET",),
        ("GET", "k0"),
        ("QUIT",),
    )
    async with running_cluster(tmp_path, engine=engine) as cluster:
        direct = cluster.pods[0].copies[0].socket
        key = cluster.keys(0)[0]
        told = []
        for where in (cluster.pods[0].front, direct):
            async with conversation(where) as client:
                await client.ask("HELLO", "3")
                if where is direct:
                    await client.ask("DEL", key)
                client.send(*[tuple(key if word == "k0" else word for word in words) for words in dialog])
                frames = []
                while frame := await client.frame():
                    frames.append(frame)
                told.append(frames)
        assert told[0] == told[1]
