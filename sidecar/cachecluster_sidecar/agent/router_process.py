"""One router worker as a process: starting it, finding one that outlived an earlier agent, noticing its end.

A worker holds an flock on RUN/router-<worker>.lock for as long as it lives, on a descriptor it got from the agent that
started it. So there are never two of one worker, and an agent that starts finds the survivors: whoever holds the lock
is the process whose pid stands in the file (it writes it itself, before it becomes the router).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

_BECOME_ROUTER = 'echo $$ > "$0" && exec "$@"'


class RouterProcess:
    """A living process of a worker. `ended` is set when it has ended, if it is watched."""

    def __init__(self, worker: int, pid: int, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        self.worker = worker
        self.pid = pid
        self.ended = asyncio.Event()
        self.started_at = asyncio.get_running_loop().time()
        self._pidfd = pidfd
        self._child = child
        self._on_end: Callable[[], None] = lambda: None

    @classmethod
    def spawn(cls, worker: int, lock: Path, command: Sequence[str]) -> RouterProcess:
        """Start a worker. BlockingIOError when there is one already; OSError when it cannot be started."""
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            child = subprocess.Popen(
                ["/bin/sh", "-c", _BECOME_ROUTER, str(lock), *command], stdin=subprocess.DEVNULL, pass_fds=(fd,)
            )
        finally:
            os.close(fd)
        return cls(worker, child.pid, os.pidfd_open(child.pid), child)

    @classmethod
    async def find(cls, worker: int, lock: Path, patience_s: float = 1.0) -> RouterProcess | None:
        """The survivor that holds the lock, or None. OSError when it is held and nobody can be made out."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + patience_s
        while _is_held(lock):
            with contextlib.suppress(ValueError, ProcessLookupError):
                pid = _read_pid(lock)
                pidfd = os.pidfd_open(pid)
                if _is_held(lock):  # it held the lock after its pid was looked up: the pid is still its own
                    return cls(worker, pid, pidfd, None)
                os.close(pidfd)
            if loop.time() > give_up_at:
                raise OSError(errno.EBUSY, f"{lock} is held by a process that does not stand in it")
            await asyncio.sleep(0.01)
        return None

    def watch(self, on_end: Callable[[], None]) -> None:
        """Call `on_end` once the process has ended."""
        self._on_end = on_end
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process; nothing happens when it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Stop watching; the process goes on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None:
            self._child.poll()
            self._child.returncode = self._child.returncode or 0  # it is meant to outlive us: no warning about it

    def _ended(self) -> None:
        if self._child is not None:
            log.warning("router %d ended with %s", self.worker, self._child.wait())
        else:
            log.warning("router %d, adopted, ended", self.worker)
        self.close()
        self.ended.set()
        self._on_end()


def _read_pid(lock: Path) -> int:
    """ValueError when nothing is written yet, or what can be no process: -1 would mean every process."""
    pid = int(lock.read_text(encoding="ascii"))
    if pid <= 1:
        raise ValueError(f"{pid} is not one process")
    return pid


def _is_held(lock: Path) -> bool:
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
