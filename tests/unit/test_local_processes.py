"""Processes of a node: found and ended by where they work, whoever their parent is, and nobody else."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import wait_until

from cachecluster_local.guard import READY
from cachecluster_local.processes import is_alive, kill_under, processes_under, send_signal

pytestmark = pytest.mark.t0

SLEEP = ["sleep", "60"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_only_what_works_below_the_directory_is_found_and_ended(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    inside, outside = tmp_path / "node-1" / "data" / "p3", tmp_path / "node-10"
    for directory in (inside, outside):
        directory.mkdir(parents=True)
        started.append(subprocess.Popen(SLEEP, cwd=directory, start_new_session=True))
    wait_until(lambda: processes_under(tmp_path / "node-1")[0].arguments == tuple(SLEEP), 5, "it has started")
    found = processes_under(tmp_path / "node-1")
    assert [(it.pid, it.cwd, it.name, it.arguments) for it in found] == [
        (started[0].pid, inside, "sleep", tuple(SLEEP)),
    ]
    assert found[0].parent == os.getpid()
    kill_under(tmp_path / "node-1")
    assert started[0].wait(5) == -signal.SIGKILL
    assert started[1].poll() is None


def test_orphans_are_ended_too(tmp_path: Path) -> None:
    command = f"{' '.join(SLEEP)} >/dev/null & echo $!"
    orphan = int(subprocess.check_output(["sh", "-c", command], cwd=tmp_path, start_new_session=True))
    assert [it.pid for it in processes_under(tmp_path)] == [orphan]
    kill_under(tmp_path)
    assert not processes_under(tmp_path)


def test_a_shell_that_looks_at_the_logs_is_left_alone(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvp(SLEEP[0], SLEEP)
    try:
        wait_until(lambda: Path(f"/proc/{pid}/cwd").readlink() == tmp_path, 5, "the shell has started")
        assert not processes_under(tmp_path)
        kill_under(tmp_path)
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_a_signal_to_a_process_that_is_gone_is_no_error() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert not send_signal(process.pid, signal.SIGTERM)
    assert not is_alive(process.pid)


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_signal_is_ever_sent_to_more_than_one_process(pid: int) -> None:
    with pytest.raises(AssertionError):
        send_signal(pid, signal.SIGCONT)


@pytest.mark.parametrize("what", ["keep", "remove"])
def test_the_guard_ends_what_is_left_when_its_input_ends(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], what: str
) -> None:
    node = tmp_path / "state" / "node-0"
    node.mkdir(parents=True)
    started.append(subprocess.Popen(SLEEP, cwd=node, start_new_session=True))
    command = [sys.executable, "-m", "cachecluster_local.guard", str(tmp_path / "state"), what]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None and guard.stdout is not None
    assert guard.stdout.readline() == READY
    guard.stdout.close()
    guard.send_signal(signal.SIGTERM)
    assert started[0].poll() is None
    guard.stdin.close()
    assert started[0].wait(10) == -signal.SIGKILL
    guard.wait(10)
    assert (tmp_path / "state").exists() == (what == "keep")
