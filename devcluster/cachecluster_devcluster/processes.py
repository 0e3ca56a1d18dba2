"""Starts processes that outlive the launcher, remembers them, and ends exactly those.

A process is remembered by pid and start time (field 22 of /proc/PID/stat), written by the process itself before it
becomes what it shall be: a launcher that dies at any point leaves nothing unrecorded, and a pid that the kernel gave to
somebody else since is never signalled. A zombie counts as gone.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# The inner shell records itself and then becomes the program; the outer one ends at once, so that the program belongs
# to the init of the machine and not to the launcher.
_DETACH = '"$@" </dev/null >>"$DEVCLUSTER_LOG" 2>&1 &'
_RECORD = 'echo "$$ $(cut -d" " -f22 /proc/$$/stat)" >"$0"; exec "$@"'
CHILD_SECONDS = 5.0


class ProcessError(RuntimeError):
    """A process did not start or did not end in time."""


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Ledger:
    """The processes of one development cluster, one file each in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """The names of all that were ever started here."""
        return sorted(path.name for path in self._folder.glob("*"))

    def pid(self, name: str) -> int | None:
        """The pid of a recorded process that still lives."""
        recorded = self._read(name)
        if recorded is None:
            return None
        pid, started = recorded
        return pid if start_time(pid) == started else None

    def _read(self, name: str) -> tuple[int, int] | None:
        try:
            pid, started = map(int, (self._folder / name).read_text().split())
        except (OSError, ValueError):
            return None
        return pid, started

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> int:
        """Starts a detached process that writes to `log`; returns its pid. The launcher is not its parent."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        record = self._folder / name
        record.unlink(missing_ok=True)
        subprocess.run(
            ["sh", "-c", _DETACH, "sh", "sh", "-c", _RECORD, str(record), *argv],
            env={**os.environ, **(environment or {}), "DEVCLUSTER_LOG": str(log)},
            start_new_session=True,
            pass_fds=pass_fds,
            check=True,
        )
        deadline = time.monotonic() + CHILD_SECONDS
        while (recorded := self._read(name)) is None:
            if time.monotonic() > deadline:
                raise ProcessError(f"{name} did not start; see {log}")
            time.sleep(0.002)
        return recorded[0]

    def stop(self, name: str, signal_number: int = signal.SIGKILL, seconds: float = 10.0) -> bool:
        """Signals a recorded process and waits for its end; False when it was not there.

        Raises ProcessError when it is still there after `seconds`.
        """
        pid = self.pid(name)
        if pid is None:
            return False
        if not end(pid, signal_number, seconds):
            raise ProcessError(f"{name} (pid {pid}) lives {seconds:.0f} s after signal {signal_number}")
        return True


def end(pid: int, signal_number: int, seconds: float) -> bool:
    """Signals a process and waits at most `seconds` for its end; True when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal_number)
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        return bool(waiter.poll(seconds * 1000))
    finally:
        os.close(handle)


def child(pid: int) -> int:
    """The only child of a process, waited for: of `unshare --fork` or `nsenter -p` the process that they started."""
    deadline = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < deadline:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError as gone:
            raise ProcessError(f"process {pid} ended at once") from gone
        if children:
            return int(children[0])
        time.sleep(0.002)
    raise ProcessError(f"process {pid} started nothing in {CHILD_SECONDS:.0f} s")
