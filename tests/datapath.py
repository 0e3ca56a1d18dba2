"""The data path as clients see it: one suite for every way a cluster is run.

A test module inherits `DataPathSuite` and brings a fixture `endpoints`. All keys begin with a prefix of the test's own.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from cachecluster_core.slots import SLOTS, partition_of_key, slot_of_key

Address = tuple[str, int]


@dataclass(frozen=True)
class Endpoints:
    """Addresses for any client, and of the cluster protocol."""

    plain: tuple[Address, ...]
    cluster: tuple[Address, ...]


def plain_client(address: Address, protocol: int = 3, timeout: float = 15.0) -> redis.Redis:
    """A client as applications have it, but one that hides no failure behind retries."""
    host, port = address
    retry = Retry(NoBackoff(), 0)
    return redis.Redis(host, port, protocol=protocol, socket_timeout=timeout, socket_connect_timeout=1.0, retry=retry)


def cluster_client(endpoints: Endpoints, protocol: int = 3) -> RedisCluster:
    """A cluster-aware client that starts from every node."""
    nodes = [ClusterNode(host, port) for host, port in endpoints.cluster]
    return RedisCluster(startup_nodes=nodes, protocol=protocol, socket_timeout=15.0)


def keys_by_partition(prefix: str, partitions: int) -> list[str]:
    """One key for every partition, in the order of partitions."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        key = f"{prefix}:{number}"
        found.setdefault(partition_of_key(key.encode(), partitions), key)
        number += 1
    return [found[partition] for partition in range(partitions)]


@pytest.fixture
def prefix() -> str:
    """Of this test only: clusters are shared between tests."""
    return uuid.uuid4().hex[:12]


class DataPathSuite:
    """What every cluster must do for every client."""

    @pytest.fixture(params=["plain RESP2", "plain RESP3", "cluster RESP2", "cluster RESP3"])
    def client(self, request: pytest.FixtureRequest, endpoints: Endpoints) -> Iterator[Any]:
        kind, _, version = request.param.partition(" RESP")
        make = (
            plain_client(endpoints.plain[-1], int(version))
            if kind == "plain"
            else cluster_client(endpoints, int(version))
        )
        yield make
        make.close()

    def test_every_client_reads_what_every_other_wrote(self, endpoints: Endpoints, prefix: str) -> None:
        clients: list[Any] = [plain_client(address, protocol) for address in endpoints.plain for protocol in (2, 3)]
        clients += [cluster_client(endpoints, protocol) for protocol in (2, 3)]
        keys = keys_by_partition(prefix, 16)
        for number, writer in enumerate(clients):
            for key in keys:
                assert writer.set(key, f"{key} by {number}")
            for reader in clients:
                assert [reader.get(key) for key in keys] == [f"{key} by {number}".encode() for key in keys]
        for client in clients:
            client.close()

    def test_a_client_without_options_works(self, endpoints: Endpoints, prefix: str) -> None:
        host, port = endpoints.plain[0]
        with redis.Redis(host, port) as client:
            assert client.ping()
            assert client.set(prefix, "1")
            assert client.incr(prefix) == 2
            assert client.info("server")

    def test_commands_of_every_type(self, client: Any, prefix: str) -> None:
        assert client.rpush(f"{prefix}:list", "a", "b", "c") == 3
        assert client.lrange(f"{prefix}:list", 0, -1) == [b"a", b"b", b"c"]
        assert client.hset(f"{prefix}:hash", mapping={"f": "1", "g": "2"}) == 2
        assert client.hgetall(f"{prefix}:hash") == {b"f": b"1", b"g": b"2"}
        assert client.sadd(f"{prefix}:set", "x", "y") == 2
        assert set(client.smembers(f"{prefix}:set")) == {b"x", b"y"}
        assert client.zadd(f"{prefix}:zset", {"one": 1, "two": 2}) == 2
        assert client.zscore(f"{prefix}:zset", "two") == 2.0
        assert client.xadd(f"{prefix}:stream", {"n": "1"})
        assert client.xlen(f"{prefix}:stream") == 1
        assert client.setbit(f"{prefix}:bits", 7, 1) == 0
        assert client.pfadd(f"{prefix}:hll", "a", "b") == 1
        assert client.set(f"{prefix}:ttl", "v", px=60_000)
        assert 0 < client.pttl(f"{prefix}:ttl") <= 60_000
        assert client.get(f"{prefix}:missing") is None
        assert client.type(f"{prefix}:zset") == b"zset"

    def test_an_error_of_the_engine_comes_back_as_it_is(self, client: Any, prefix: str) -> None:
        client.set(prefix, "text")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.lpush(prefix, "x")
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.incr(prefix)

    def test_binary_keys_and_large_values(self, client: Any, prefix: str) -> None:
        key = prefix.encode() + bytes(range(256))
        for value in (b"", b"\r\n$-1\r\n", bytes(range(256)) * 8192):
            assert client.set(key, value)
            assert client.get(key) == value
        assert client.delete(key) == 1

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_commands_of_many_keys_span_partitions(self, endpoints: Endpoints, prefix: str, protocol: int) -> None:
        keys = keys_by_partition(prefix, 16)
        with plain_client(endpoints.plain[0], protocol) as client:
            assert client.mset({key: f"v{n}" for n, key in enumerate(keys)})
            asked = [keys[3], f"{prefix}:none", *reversed(keys), keys[3]]
            values = {key: f"v{n}".encode() for n, key in enumerate(keys)}
            assert client.mget(asked) == [values.get(key) for key in asked]
            assert client.exists(*keys, keys[0], f"{prefix}:none") == 17
            assert client.touch(*keys, f"{prefix}:none") == 16
            assert client.unlink(*keys[:8], f"{prefix}:none") == 8
            assert client.delete(*keys) == 8
            assert client.mget(keys) == [None] * 16

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_answers_of_a_pipeline_come_in_order(self, endpoints: Endpoints, prefix: str, protocol: int) -> None:
        keys = keys_by_partition(prefix, 16)
        with plain_client(endpoints.plain[0], protocol) as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(1000):
                pipeline.set(keys[number % 16], number)
                pipeline.get(keys[number % 16])
                pipeline.incrby(keys[number % 16], 1000)
                if number % 100 == 0:
                    pipeline.mget(keys[:2])
            answers = [answer for answer in pipeline.execute() if not isinstance(answer, list)]
            assert answers == [it for n in range(1000) for it in (True, str(n).encode(), n + 1000)]

    @pytest.mark.parametrize("protocol", [2, 3])
    def test_transactions_of_every_client(self, endpoints: Endpoints, prefix: str, protocol: int) -> None:
        keys = keys_by_partition(prefix, 16)
        aware = cluster_client(endpoints, protocol)
        for number, client in enumerate([*(plain_client(it, protocol) for it in endpoints.plain), aware]):
            for key in keys:
                pipeline = client.pipeline(transaction=True)
                for _ in range(3):
                    pipeline.incr(key)
                pipeline.get(key)
                pipeline.lpush(key, "x")
                results = pipeline.execute(raise_on_error=False)
                was = 3 * number
                assert results[:4] == [was + 1, was + 2, was + 3, str(was + 3).encode()]
                assert "WRONGTYPE" in str(results[4])
            client.close()

    def test_what_one_client_waits_for_another_brings(self, client: Any, endpoints: Endpoints, prefix: str) -> None:
        keys = keys_by_partition(prefix, 16)
        with plain_client(endpoints.plain[0]) as other:
            for key in keys:
                pusher = threading.Timer(0.05, other.rpush, (key, "x", "y"))
                pusher.start()
                assert list(client.blpop([key], 10)) == [key.encode(), b"x"]
                pusher.join()
                assert list(client.brpop([key], 10)) == [key.encode(), b"y"]
            assert client.blpop([keys[0]], 0.01) is None

    def test_a_transaction_sees_what_another_client_changed(
        self, client: Any, endpoints: Endpoints, prefix: str
    ) -> None:
        with plain_client(endpoints.plain[0]) as other:
            for key in keys_by_partition(prefix, 16):
                for disturbed in (False, True):
                    pipeline = client.pipeline(transaction=True)
                    pipeline.watch(key)
                    value = int(pipeline.get(key) or 0)
                    if disturbed:
                        other.incr(key)
                    pipeline.multi()
                    pipeline.set(key, value + 10)
                    if disturbed:
                        with pytest.raises(redis.WatchError):
                            pipeline.execute()
                    else:
                        assert pipeline.execute() in ([True], [b"OK"])  # RedisCluster does not parse it
                    pipeline.reset()
                assert other.get(key) == b"11"

    def test_what_any_client_publishes_every_listener_hears(
        self, client: Any, endpoints: Endpoints, prefix: str
    ) -> None:
        heard: queue.Queue[bytes] = queue.Queue()
        listener = client.pubsub()
        listener.subscribe(**{prefix: lambda message: heard.put(message["data"])})
        listener.psubscribe(**{f"{prefix}:*": lambda message: heard.put(message["channel"])})
        assert [(listener.get_message(timeout=10) or {}).get("type") for _ in range(2)] == ["subscribe", "psubscribe"]
        thread = listener.run_in_thread(sleep_time=0.01)
        talkers: list[Any] = [*map(plain_client, endpoints.plain), cluster_client(endpoints)]
        channels = keys_by_partition(prefix, 16)
        try:
            for number, talker in enumerate(talkers):
                talker.publish(prefix, f"{number}")
                assert heard.get(timeout=10) == b"%d" % number
                for channel in channels:
                    talker.publish(channel, "x")
                    assert heard.get(timeout=10) == channel.encode()
                talker.close()
        finally:
            thread.stop()
            thread.join()
            listener.close()

    def finds(self, client: Any, keys: set[bytes], pattern: str) -> None:
        """Scanning tells these keys and no others."""
        found = set(client.scan_iter(match=pattern, count=100))
        assert found == keys, (type(client), len(found))

    def test_every_client_finds_every_key(self, endpoints: Endpoints, prefix: str) -> None:
        keys = {f"{prefix}:{number}".encode() for number in range(200)}
        clients = [*map(plain_client, endpoints.plain), cluster_client(endpoints)]
        clients[0].mset(dict.fromkeys(keys, 1))
        for client in clients:
            self.finds(client, keys, f"{prefix}*")
            everywhere = {"target_nodes": "primaries"} if isinstance(client, RedisCluster) else {}
            assert client.dbsize(**everywhere) >= len(keys)
            script = client.register_script("return redis.call('INCR', KEYS[1])")
            for key in keys_by_partition(f"script{prefix}", 16):
                assert script(keys=[key]) > 0
            client.close()

    def test_the_keys_of_a_transaction_are_in_one_slot(self, endpoints: Endpoints, prefix: str) -> None:
        keys = keys_by_partition(prefix, 16)
        with plain_client(endpoints.plain[0]) as client:
            pipeline = client.pipeline()
            pipeline.set(keys[0], 1).set(keys[1], 1)
            with pytest.raises(redis.ResponseError, match="same slot: all keys of a transaction must"):
                pipeline.execute()
            assert client.mget(keys[:2]) == [None, None]

    def test_a_pipeline_of_a_cluster_client(self, endpoints: Endpoints, prefix: str) -> None:
        client = cluster_client(endpoints)
        pipeline = client.pipeline()
        for number in range(200):
            pipeline.set(f"{prefix}:{number}", number)
        assert all(pipeline.execute())
        assert [client.get(f"{prefix}:{n}") for n in range(200)] == [str(n).encode() for n in range(200)]
        client.close()

    def test_the_cluster_port_shows_every_slot_once_and_sends_on_what_it_does_not_own(
        self, endpoints: Endpoints, prefix: str
    ) -> None:
        with plain_client(endpoints.cluster[0]) as client:
            slots = client.execute_command("CLUSTER SLOTS")
            ranges = slots if isinstance(slots, list) else [[*span, info["primary"]] for span, info in slots.items()]
            owners = [(slot, it[2][0]) for it in ranges for slot in range(it[0], it[1] + 1)]
            assert sorted(slot for slot, _ in owners) == list(range(SLOTS))
            host_of = {slot: host.decode() if isinstance(host, bytes) else host for slot, host in owners}
            keys = keys_by_partition(prefix, 16)
            own = [key for key in keys if host_of[slot_of_key(key.encode())] == endpoints.cluster[0][0]]
            served = []
            for key in keys:
                try:
                    client.get(key)
                    served.append(key)
                except redis.ResponseError as error:
                    assert "MOVED" in str(error) or type(error).__name__ == "MovedError"
            assert served == own

    def test_a_command_that_is_refused_says_what_to_use_instead(self, endpoints: Endpoints) -> None:
        with plain_client(endpoints.plain[0]) as client:
            for command, remedy in (("CONFIG SET maxmemory 1", "spec.engineConfig"), ("FAILOVER", "delete the pod")):
                with pytest.raises(redis.ResponseError, match=f"is refused by the router: .*{remedy}"):
                    client.execute_command(*command.split())

    def test_every_node_serves_every_key(self, endpoints: Endpoints, prefix: str) -> None:
        keys = keys_by_partition(prefix, 16)
        with plain_client(endpoints.plain[0]) as client:
            client.mset({key: key for key in keys})
        for address in endpoints.plain:
            with plain_client(address) as client:
                assert client.mget(keys) == [key.encode() for key in keys]
