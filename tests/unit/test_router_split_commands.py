"""MGET, MSET, DEL, UNLINK, EXISTS and TOUCH over keys of several partitions; CROSSSLOT for what cannot be split."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.router_conversation import conversation
from tests.unit.router_support import ENGINES, cluster_and_client, running_cluster

pytestmark = pytest.mark.t1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_split_commands_answer_as_one_engine_would(tmp_path: Path, engine: str, protocol: str) -> None:
    async with cluster_and_client(tmp_path, engine, protocol) as (cluster, client):
        keys = [f"s{number}" for number in range(20)]
        assert len({cluster.partition_of(key.encode()) for key in keys}) == 4
        pairs = [word for number, key in enumerate(keys) for word in (key, f"v{number}")]
        assert await client.ask("MSET", *pairs) == b"+OK\r\n"
        null = b"_\r\n" if protocol == "3" else b"$-1\r\n"
        wanted = b"*22\r\n" + null + b"".join(b"$%d\r\nv%d\r\n" % (len(str(n)) + 1, n) for n in range(20)) + null
        assert await client.ask("MGET", "none1", *keys, "none2") == wanted
        assert await client.ask("MGET", keys[3], keys[3], keys[5]) == b"*3\r\n$2\r\nv3\r\n$2\r\nv3\r\n$2\r\nv5\r\n"
        assert await client.ask("EXISTS", *keys, keys[0], "none") == b":21\r\n"
        assert await client.ask("TOUCH", *keys, "none") == b":20\r\n"
        assert await client.ask("DEL", *keys[:10], keys[0]) == b":10\r\n"
        assert await client.ask("UNLINK", *keys) == b":10\r\n"
        assert await client.ask("MSET", *pairs, "odd") == b"-ERR wrong number of arguments for 'mset' command\r\n"


async def test_a_wrong_type_in_one_partition_is_null_as_in_the_engine(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        keys = [cluster.keys(partition)[0] for partition in range(4)]
        await client.ask("LPUSH", keys[2], "x")
        await client.ask("SET", keys[1], "y")
        assert await client.ask("MGET", *keys) == b"*4\r\n$-1\r\n$1\r\ny\r\n$-1\r\n$-1\r\n"


async def test_replies_keep_the_order_of_the_commands(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, conversation(cluster.pods[0].front) as client:
        keys = [cluster.keys(partition)[0] for partition in range(4)]
        for number in range(100):
            client.send(("SET", keys[number % 4], str(number)), ("MGET", *keys), ("PING",), ("GET", keys[number % 4]))
        frames = await client.frames(400)
        for number in range(100):
            ok, many, pong, one = frames[4 * number : 4 * number + 4]
            value = b"$%d\r\n%d\r\n" % (len(str(number)), number)
            assert (ok, pong, one) == (b"+OK\r\n", b"+PONG\r\n", value)
            assert value in many


async def test_commands_that_cannot_be_split_need_one_slot(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        a, b = cluster.keys(0)[0], cluster.keys(1)[0]
        async with conversation(cluster.pods[0].front) as client:
            assert (await client.ask("RENAME", a, b)).startswith(b"-CROSSSLOT")
            assert (await client.ask("SINTER", a, b)).startswith(b"-CROSSSLOT")
            assert await client.ask("SINTER", "{t}a", "{t}b") == b"*0\r\n"
        async with conversation(cluster.pods[0].cluster_port) as client:
            assert (await client.ask("MGET", a, b)).startswith(b"-CROSSSLOT")


async def test_random_keys_against_a_model(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, partitions=8) as cluster, conversation(cluster.pods[0].front) as client:
        model: dict[str, str] = {}
        names = st.sampled_from([f"k{number}" for number in range(30)])

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.lists(
                st.tuples(st.sampled_from(["MSET", "MGET", "DEL", "EXISTS"]), st.lists(names, min_size=1, max_size=9))
            )
        )
        def plan(steps: list[tuple[str, list[str]]]) -> None:
            plans.append(steps)

        plans: list[list[tuple[str, list[str]]]] = []
        plan()
        for steps in plans:
            for number, (command, keys) in enumerate(steps):
                if command == "MSET":
                    model.update({key: str(number) for key in keys})
                    assert await client.ask("MSET", *[w for key in keys for w in (key, str(number))]) == b"+OK\r\n"
                elif command == "MGET":
                    values = [model.get(key) for key in keys]
                    encoded = [b"$-1\r\n" if v is None else b"$%d\r\n%s\r\n" % (len(v), v.encode()) for v in values]
                    assert await client.ask("MGET", *keys) == b"*%d\r\n" % len(keys) + b"".join(encoded)
                elif command == "DEL":
                    gone = sum(model.pop(key, None) is not None for key in dict.fromkeys(keys))
                    assert await client.ask("DEL", *keys) == b":%d\r\n" % gone
                else:
                    assert await client.ask("EXISTS", *keys) == b":%d\r\n" % sum(key in model for key in keys)
