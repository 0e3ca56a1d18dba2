"""Planned changes of a running `cachecluster-local` under load of every kind of client: no error, and nothing lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.local_names import CLUSTER, PLAIN, service_names
from tests.local_process import LocalProcess
from tests.steady_load import SteadyLoad
from tests.unit.conftest import LocalFactory
from tests.waiting import wait_until

from cachecluster_core.hashring import State

pytestmark = [pytest.mark.t1, pytest.mark.timeout(300)]

DONE_S = 120.0


@pytest.fixture(scope="module", params=["valkey", "redis"])
def local(request: pytest.FixtureRequest, local_cluster: LocalFactory) -> LocalProcess:
    return local_cluster("--repair-delay", "5", engine=request.param)


@pytest.fixture
def load(local: LocalProcess) -> Iterator[SteadyLoad]:
    """Twenty clients all the time; in the end none has seen an error, and all keys are there."""
    local.wait_complete(DONE_S)
    with service_names(local):
        load = SteadyLoad(((PLAIN, 6379),), (CLUSTER, 7379), prefix=f"steady{time.time_ns()}")
        load.fill()
        load.start()
        try:
            yield load
            time.sleep(0.5)  # the load goes on after the change
        finally:
            load.stop()
        result = load.result()
    print(f"\n{local.engine}: {result['commands']} commands, longest pauses {result['longest_pause_s']}")  # noqa: T201
    assert (result["errors"], result["wrong"], result["counters"], result["missing"]) == ({}, [], [], 0)


def copies_on(local: LocalProcess) -> dict[str, int]:
    """How many copies each node holds."""
    ring = local.ring()
    assert ring is not None
    return {
        member.name: sum(uid in entry.pods() for entry in ring.entries) for uid, member in ring.members
    }  # fmt: skip


def primaries_on(local: LocalProcess) -> dict[str, int]:
    """How many partitions each node leads."""
    ring = local.ring()
    assert ring is not None
    return {
        member.name: sum(entry.primary is not None and entry.primary.pod == uid for entry in ring.entries)
        for uid, member in ring.members
    }


def test_nodes_are_added_and_removed(local: LocalProcess, load: SteadyLoad) -> None:
    local.scale(5)
    local.wait_complete(DONE_S)
    assert len(copies_on(local)) == 5 and min(copies_on(local).values()) >= 6
    local.scale(3)
    local.wait_complete(DONE_S)
    assert sorted(copies_on(local)) == ["local-0", "local-1", "local-2"]


def test_a_scale_out_is_reversed_while_it_is_under_way(local: LocalProcess, load: SteadyLoad) -> None:
    local.scale(5)
    wait_until(lambda: len(copies_on(local)) == 5, 30, "the new nodes are members")
    local.scale(3)
    local.wait_complete(DONE_S)
    assert len(copies_on(local)) == 3


def test_every_node_is_replaced_in_a_roll(local: LocalProcess, load: SteadyLoad) -> None:
    before = {node["uid"] for node in local.state()["nodes"]}
    local.roll()
    wait_until(lambda: not before & {node["uid"] for node in local.state()["nodes"]}, DONE_S, "all nodes replaced")
    local.wait_complete(DONE_S)


def test_a_node_is_deleted_in_order_and_its_primaries_hand_over(local: LocalProcess, load: SteadyLoad) -> None:
    before = local.ring()
    assert before is not None
    victim = next(uid for uid, member in before.members if primaries_on(local)[member.name])
    terms = {p: entry.epoch for p, entry in enumerate(before.entries) if entry.primary and entry.primary.pod == victim}
    local.delete_node(before.member(victim).name)  # type: ignore[union-attr]
    wait_until(lambda: victim not in dict(local.ring().members), DONE_S, "the node is gone")  # type: ignore[union-attr]
    local.wait_complete(DONE_S)
    after = local.ring()
    assert after is not None
    assert all(after.entries[p].term > epoch for p, epoch in terms.items())


def test_primaries_are_balanced_again_in_the_end(local: LocalProcess, load: SteadyLoad) -> None:
    def balanced() -> bool:
        ring = local.ring()
        counts = primaries_on(local).values()
        settled = ring is not None and all(entry.state is State.STABLE for entry in ring.entries)
        return settled and max(counts) - min(counts) <= 1

    wait_until(balanced, 60, "primaries are balanced to within one")


def test_a_pause_holds_a_scale_back(local: LocalProcess, load: SteadyLoad) -> None:
    local.pause()
    local.scale(4)
    wait_until(lambda: local.progressing()[0] == "Paused", 20, "the pause shows")
    assert len(local.state()["nodes"]) == 3
    local.pause(False)
    local.wait_complete(DONE_S)
    assert len(copies_on(local)) == 4
    local.scale(3)
    local.wait_complete(DONE_S)
