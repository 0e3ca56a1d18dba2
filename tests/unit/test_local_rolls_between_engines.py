"""A `cachecluster-local` rolls to another engine under load: no error, nothing lost; the way back is refused."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from tests.local_names import CLUSTER, PLAIN, service_names
from tests.local_process import LocalProcess
from tests.steady_load import SteadyLoad
from tests.unit.agent_support import engine_binary, free_port_range
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(300)]

DONE_S = 150.0


@contextmanager
def steady_load(local: LocalProcess) -> Iterator[None]:
    """Twenty clients all the time; in the end none has seen an error, and all keys are there."""
    with service_names(local):
        load = SteadyLoad(((PLAIN, 6379),), (CLUSTER, 7379), prefix=f"steady{time.time_ns()}")
        load.fill()
        load.start()
        try:
            yield
        finally:
            load.stop()
        result = load.result()
    print(f"\n{local.engine}: {result['commands']} commands, longest pauses {result['longest_pause_s']}")  # noqa: T201
    assert (result["errors"], result["wrong"], result["counters"], result["missing"]) == ({}, [], [], 0)


@pytest.mark.parametrize("copies", [2, 3])
def test_redis_rolls_to_valkey_under_load_and_back_is_refused(local_cluster: LocalFactory, copies: int) -> None:
    local = local_cluster("--repair-delay", "5", "--replication-factor", str(copies), engine="redis")
    local.wait_complete(DONE_S, copies)
    before = {node["uid"] for node in local.state()["nodes"]}
    with steady_load(local):
        assert local.roll_to("valkey") == []
        wait_until(lambda: not before & {node["uid"] for node in local.state()["nodes"]}, DONE_S, "all nodes replaced")
        local.wait_complete(DONE_S, copies)
        assert local.engines() == {"valkey"}
        after = local.state()["nodes"]
        (refused,) = local.roll_to("redis")
        assert "spec.engine" in refused and "Set it back to valkey" in refused
        up_to_date = next(c for c in local.status()["conditions"] if c["type"] == "UpToDate")
        assert (up_to_date["status"], up_to_date["reason"]) == ("False", "EngineChangeRefused")
        time.sleep(3.0)  # nothing may happen now, and that cannot be awaited
        assert local.state()["nodes"] == after and local.engines() == {"valkey"}
        assert local.roll_to("valkey") == []


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[dict[str, redis.Redis]]:
    """One bare process of each engine."""
    with ExitStack() as stack:
        clients = {}
        for kind in ("redis", "valkey"):
            port = free_port_range(1)
            command = [engine_binary(kind, tmp_path), "--port", str(port), "--save", "", "--dir", tmp_path]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            stack.callback(process.kill)
            clients[kind] = stack.enter_context(redis.Redis(port=port))
            wait_until(lambda client=clients[kind]: _answers(client), 10, f"{kind} answers")  # type: ignore[misc]
        yield clients


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _follow(client: redis.Redis, of: redis.Redis) -> None:
    client.replicaof("127.0.0.1", of.connection_pool.connection_kwargs["port"])
    wait_until(lambda: client.info("replication").get("master_link_status") == "up", 20, "the link is up")


def test_an_old_primary_on_redis_follows_its_successor_on_valkey_by_partial_resync(
    bare: dict[str, redis.Redis],
) -> None:
    """What makes a hand-over to the newer engine possible at all: a full resync would not be."""
    old, new = bare["redis"], bare["valkey"]
    old.mset({f"before{n}": n for n in range(1000)})
    _follow(new, old)
    old.replicaof("127.0.0.1", 1)
    offset = old.info("replication")["master_repl_offset"]
    wait_until(lambda: new.info("replication")["slave_repl_offset"] == offset, 10, "the successor has it all")
    new.replicaof("NO", "ONE")
    new.set("between", 1)
    _follow(old, new)
    new.set("after", 2)
    wait_until(lambda: old.get("after") == b"2", 10, "the old primary follows")
    assert old.get("between") == b"1" and old.dbsize() == 1002
    stats = new.info("stats")
    assert (stats["sync_partial_ok"], stats["sync_full"]) == (1, 0)
