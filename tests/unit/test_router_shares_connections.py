"""Several workers in a pod: the few connections that a pool keeps are spread evenly over them."""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.router_conversation import Conversation, conversation, conversations
from tests.unit.router_support import Pod, running_cluster, until

from cachecluster_sidecar.router.main import WORKER_BITS
from cachecluster_sidecar.router.share import Listener

pytestmark = pytest.mark.t1

WORKERS = 3


@contextlib.asynccontextmanager
async def pod_of_workers(root: Path) -> AsyncIterator[Pod]:
    async with running_cluster(root, pods=1, partitions=1, workers=0) as cluster:
        (pod,) = cluster.pods
        for worker in range(WORKERS):
            pod.start_router(worker, WORKERS)
        await until(lambda: pod.log().count("listening on") == 2 * WORKERS)
        yield pod


@contextlib.asynccontextmanager
async def one_by_one(where: tuple[str, int], count: int) -> AsyncIterator[list[Conversation]]:
    """Connections, each made when the one before is served."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(await stack.enter_async_context(conversation(where)))
            await clients[-1].ask("PING")
        yield clients


async def worker_of(client: Conversation) -> int:
    return int((await client.ask("CLIENT", "ID"))[1:]) >> WORKER_BITS


async def by_worker(clients: list[Conversation]) -> list[int]:
    counts = Counter([await worker_of(client) for client in clients])
    return [counts[worker] for worker in range(WORKERS)]


async def test_connections_are_spread_evenly_over_the_workers_of_a_pod(tmp_path: Path) -> None:
    async with (
        pod_of_workers(tmp_path) as pod,
        one_by_one(pod.front, 6) as front,
        one_by_one(pod.cluster_port, 6) as cluster,
    ):
        counts = await by_worker(front + cluster)
        assert sum(counts) == 12 and max(counts) - min(counts) <= 1, counts
        assert [await client.ask("SET", "a", "1") for client in front] == [b"+OK\r\n"] * 6
        assert b"cluster_enabled:1" in await cluster[0].ask("INFO", "cluster")
        assert b"cluster_enabled:0" in await front[0].ask("INFO", "cluster")


async def test_connections_that_come_at_once_are_spread_as_well(tmp_path: Path) -> None:
    async with pod_of_workers(tmp_path) as pod, conversations([pod.front] * 60) as clients:
        counts = await by_worker(clients)
        assert sum(counts) == 60 and min(counts) >= 10, counts


async def test_workers_that_others_have_left_are_filled_again(tmp_path: Path) -> None:
    async with pod_of_workers(tmp_path) as pod, one_by_one(pod.front, 9) as clients:
        leaving = [client for client in clients if await worker_of(client) == 0]
        for client in leaving:
            client.send(("QUIT",))
            assert await client.frames(2) == [b"+OK\r\n", b""]
        async with one_by_one(pod.front, 9) as coming:
            counts = await by_worker([client for client in clients if client not in leaving] + coming)
            assert sum(counts) == 15 and max(counts) - min(counts) <= 1, counts


async def test_a_pool_that_connects_again_is_spread_every_time(tmp_path: Path) -> None:
    async with pod_of_workers(tmp_path) as pod:
        for _ in range(10):
            async with one_by_one(pod.front, WORKERS) as clients:
                counts = await by_worker(clients)
                assert counts == [1] * WORKERS
                for client in clients:
                    client.send(("QUIT",))
                    assert await client.frames(2) == [b"+OK\r\n", b""]


async def test_a_worker_that_has_ended_is_passed_nothing(tmp_path: Path) -> None:
    async with pod_of_workers(tmp_path) as pod, one_by_one(pod.front, 6):
        pod.workers[1].kill()
        pod.workers[1].wait()
        async with one_by_one(pod.front, 12) as clients:
            counts = await by_worker(clients)
            assert counts[1] == 0 and counts[0] + counts[2] == 12, counts


async def test_a_worker_that_starts_again_is_filled(tmp_path: Path) -> None:
    async with pod_of_workers(tmp_path) as pod:
        pod.workers[1].kill()
        pod.workers[1].wait()
        async with one_by_one(pod.front, 4):
            pod.start_router(1, WORKERS)
            await until(lambda: pod.log().count("listening on") == 2 * WORKERS + 2)
            async with one_by_one(pod.front, 5) as clients:
                counts = await by_worker(clients)
                assert sum(counts) == 5 and counts[1] == max(counts), counts


async def test_connections_wait_while_there_are_no_files_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cachecluster_sidecar.router.share.PAUSE_S", 0.01)
    accepted = []
    listener = Listener("127.0.0.1", 0, 1, accepted.append)
    inner = listener._socket
    refusals = iter([OSError(errno.EMFILE, "too many open files")] * 3)

    class Scarce:
        """A socket that finds no file for the first connections."""

        fileno, close = inner.fileno, inner.close

        @staticmethod
        def accept() -> object:
            for refusal in refusals:
                raise refusal
            return inner.accept()

    monkeypatch.setattr(listener, "_socket", Scarce)
    async with conversation(inner.getsockname()):
        await until(lambda: bool(accepted))
    accepted[0].close()
    listener.close()
    assert caplog.text.count("no connection can be accepted") == 3
