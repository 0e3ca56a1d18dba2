"""The sidecar's first process: an agent that is killed comes back and its routers stay; on SIGTERM the agent may drain.

Runs the pod's own command with a stand-in for the agent, in a directory of the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import wait_until

from cachecluster_operator.pod_manifest import SIDECAR_COMMAND, SUPERVISOR_DIR

pytestmark = pytest.mark.t1

DRAIN_S = 1.0
AGENT = f"""#!/bin/bash
trap 'sleep {DRAIN_S}; echo drained >> "$TEST_DIR/log"; exit 0' TERM
[ -e "$TEST_DIR/router" ] || {{ sleep 300 & echo $! > "$TEST_DIR/router"; }}
echo $$ > "$TEST_DIR/agent"
while :; do sleep 0.05; done
"""


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    agent = tmp_path / "bin" / "cachecluster-agent"
    agent.parent.mkdir()
    agent.write_text(AGENT)
    agent.chmod(0o755)
    command = SIDECAR_COMMAND.replace(SUPERVISOR_DIR, str(tmp_path / "supervisor"))
    environment = os.environ | {"PATH": f"{agent.parent}:{os.environ['PATH']}", "TEST_DIR": str(tmp_path)}
    process = subprocess.Popen(["/bin/sh", "-c", command], env=environment, start_new_session=True)
    wait_until((tmp_path / "agent").exists, 10, "the agent starts")
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(10)
    _kill_if_there(_pid(tmp_path / "router"))


def _pid(file: Path) -> int:
    pid = int(file.read_text() or 0)
    assert pid > 1, f"no pid in {file}"
    return pid


def _kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_an_agent_that_is_killed_comes_back_and_its_routers_stay(
    sidecar: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    agent, router = _pid(tmp_path / "agent"), _pid(tmp_path / "router")
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: (tmp_path / "agent").read_text().strip() not in ("", str(agent)), 10, "another agent")
    os.kill(router, 0)
    assert sidecar.poll() is None


def test_the_container_ends_when_the_agent_has_drained(sidecar: subprocess.Popen[bytes], tmp_path: Path) -> None:
    began = time.monotonic()
    sidecar.terminate()
    sidecar.wait(10)
    assert (tmp_path / "log").read_text() == "drained\n"
    assert time.monotonic() - began >= DRAIN_S
