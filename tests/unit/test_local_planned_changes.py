"""Planned changes of a `cachecluster-local` under load: scale, roll, drain, pause; no key is lost, and status tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.datapath import plain_client
from tests.local_process import LocalProcess
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(300)]

KEYS = {f"key-{number}": f"value-{number}".encode() for number in range(500)}


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalProcess]:
    local = LocalProcess.start(tmp_path / "run", "valkey", 3, "--partitions", "8", "--repair-delay", "3")
    with plain_client(local.endpoints().plain[0]) as client:
        client.mset(KEYS)
    yield local
    local.stop()


def assert_nothing_is_lost(local: LocalProcess) -> None:
    with plain_client(local.endpoints().plain[0]) as client:
        assert client.mget(list(KEYS)) == list(KEYS.values())


def names(local: LocalProcess) -> list[str]:
    return [node["name"] for node in local.state()["nodes"]]


def events(local: LocalProcess) -> str:
    return (local.directory / "log").read_text()


def test_nodes_come_and_go(local: LocalProcess) -> None:
    local.wait_complete()
    local.scale(5)
    wait_until(lambda: local.progressing()[0] == "ScalingOut", 10, "the scale-out is told")
    local.wait_complete()
    assert names(local) == [f"local-{number}" for number in range(5)]
    assert all(member["primaries"] + member["replicas"] >= 3 for member in local.status()["members"])
    assert_nothing_is_lost(local)
    local.scale(3)
    local.wait_complete()
    assert len(names(local)) == 3
    assert_nothing_is_lost(local)
    assert all(reason in events(local) for reason in ("ScalingOut", "ScalingIn", "PodEmptied", "ScalingCompleted"))


def test_a_roll_replaces_every_node(local: LocalProcess) -> None:
    local.wait_complete()
    before = {node["uid"] for node in local.state()["nodes"]}
    local.roll()
    wait_until(lambda: local.progressing()[0] == "Rolling", 10, "the roll is told")
    local.wait_complete()
    assert not before & {node["uid"] for node in local.state()["nodes"]}
    assert_nothing_is_lost(local)
    assert all(reason in events(local) for reason in ("RollStarted", "PodReplaced", "RollCompleted"))


def test_a_node_that_is_deleted_hands_over_first(local: LocalProcess) -> None:
    local.wait_complete()
    before = {node["uid"] for node in local.state()["nodes"]}
    local.delete_node("local-1")
    wait_until(lambda: before != {node["uid"] for node in local.state()["nodes"]}, 40, "another takes its place")
    local.wait_complete()
    assert_nothing_is_lost(local)
    assert "ElectionStarted" not in events(local), "nothing failed over"


def test_a_pause_holds_back_what_is_planned(local: LocalProcess) -> None:
    local.wait_complete()
    before = {node["uid"] for node in local.state()["nodes"]}
    local.pause()
    local.scale(4)
    local.roll("local-0")
    wait_until(lambda: local.progressing()[0] == "Paused", 10, "the pause is told")
    assert "replacing local-0" in local.progressing()[1]
    assert "making 1 of 4 pods" in local.progressing()[1]
    assert {node["uid"] for node in local.state()["nodes"]} == before
    local.pause(False)
    local.wait_complete()
    assert len(names(local)) == 4
    assert_nothing_is_lost(local)


def test_a_scale_in_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    local = LocalProcess.start(tmp_path / "run", "valkey", 4, "--partitions", "4", "--memory", "16Mi")
    try:
        local.wait_complete()
        with plain_client(local.endpoints().plain[0]) as client:
            for number in range(700):
                client.set("{one}" + str(number), b"x" * 10_000)
        wait_until(lambda: float(local.status()["memory"]["used"].rstrip("Mi")) > 10, 20, "it is reported")
        assert "4 nodes stay" in local.scale(2)[0]
        wait_until(lambda: local.progressing()[0] == "ScaleInRefused", 10, "the refusal is told")
        assert "4 nodes stay" in local.progressing()[1] and len(names(local)) == 4
        with plain_client(local.endpoints().plain[0]) as client:
            for number in range(700):
                client.delete("{one}" + str(number))
        local.wait_complete()
    finally:
        local.stop()
