"""What the status and the events of a real cluster say while nodes come, are replaced, and may not go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.datapath import plain_client
from tests.local_process import LocalProcess
from tests.waiting import wait_until

pytestmark = [pytest.mark.t1, pytest.mark.timeout(240)]


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalProcess]:
    local = LocalProcess.start(tmp_path / "run", "valkey", 3, "--partitions", "4", "--memory", "16Mi")
    local.wait_complete()
    yield local
    local.stop()


def events(local: LocalProcess) -> str:
    return (local.directory / "log").read_text()


def test_scale_out_pause_and_roll_are_told(local: LocalProcess) -> None:
    local.scale(4)
    wait_until(lambda: local.progressing()[0] == "ScalingOut", 10, "the scale-out is told")
    local.wait_complete()
    local.pause()
    local.roll("local-0")
    wait_until(lambda: local.progressing()[0] == "Paused", 10, "the pause is told")
    assert "held back: replacing local-0" in local.progressing()[1]
    local.pause(False)
    wait_until(lambda: "3 of 4 pods are made from the new template" in local.progressing()[1], 10, "the roll is told")
    local.wait_complete()
    told = ("ScalingOut", "ScalingCompleted", "RollStarted", "PodEmptied", "PodReplaced", "RollCompleted")
    assert [reason for reason in told if f" {reason}: " not in events(local)] == []


def test_a_scale_in_that_does_not_fit_is_refused_until_it_does(local: LocalProcess) -> None:
    keys = ["{one}" + str(number) for number in range(650)]
    with plain_client(local.endpoints().plain[0]) as client:
        for key in keys:
            client.set(key, b"x" * 8_000)
    wait_until(lambda: float(local.status()["memory"]["used"].rstrip("Mi")) > 9, 20, "it is reported")
    assert "3 nodes stay" in local.scale(2)[0]
    local.nodes = 3
    wait_until(lambda: local.progressing()[0] == "ScaleInRefused", 10, "the refusal is told")
    with plain_client(local.endpoints().plain[0]) as client:
        for key in keys:
            client.delete(key)
    local.nodes = 2
    local.wait_complete()
    assert len(local.state()["nodes"]) == 2
