"""Finding and ending processes by the directory they work in.

Everything of a node runs with its working directory below the node's: s6 and its services, engines, agent, routers.
That holds whatever becomes of their parents, so it is how they are found, counted and ended. None has a terminal: the
shell of somebody who looks at the logs there is not touched. Linux only (/proc).
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02
PARENT_FIELD, TTY_FIELD = 1, 4
"""Of /proc/PID/stat, counted from the field after the name."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process (zombies are none)."""

    pid: int
    parent: int
    cwd: Path
    name: str
    arguments: tuple[str, ...]


def processes_under(directory: Path) -> list[Process]:
    """All processes without a terminal that work in `directory` (an absolute path) or below it, by pid."""
    prefix = f"{directory}/"
    found = []
    for pid in sorted(int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()):
        try:
            cwd = str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)")
            if f"{cwd}/".startswith(prefix) and (process := _describe(pid, cwd)):
                found.append(process)
        except (OSError, ValueError):
            continue  # gone meanwhile, or somebody else's
    return found


def _describe(pid: int, cwd: str) -> Process | None:
    proc = Path("/proc") / str(pid)
    name, _, rest = (proc / "stat").read_text().partition("(")[2].rpartition(")")
    fields = rest.split()
    if int(fields[TTY_FIELD]) != 0:
        return None
    arguments = (proc / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    return Process(
        pid, int(fields[PARENT_FIELD]), Path(cwd), name, tuple(a.decode(errors="replace") for a in arguments)
    )


def kill_under(*directories: Path, patience_s: float = 5.0) -> None:
    """SIGKILL everything below the directories, children started meanwhile included, until nothing is left.

    TimeoutError when something is still there after `patience_s` (stuck in the kernel).
    """
    deadline = time.monotonic() + patience_s
    while left := [process for directory in directories for process in processes_under(directory)]:
        for process in left:
            send_signal(process.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"still running after SIGKILL: {left}")
        time.sleep(POLL_S)


def send_signal(pid: int, number: signal.Signals) -> bool:
    """False when there is no such process any more."""
    assert pid > 1, f"{pid} is not one process"
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether a process of this pid exists (a zombie counts)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
