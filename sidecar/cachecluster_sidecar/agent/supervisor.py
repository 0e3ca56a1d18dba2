"""Engine processes through s6: one service directory per copy in the scan directory of the redis container.

Control goes straight into the FIFOs of s6-svscan and s6-supervise, the letters being those of s6-svscanctl(1) and
s6-svc(1): starting those programs instead costs a fork of the agent and 2 ms each. Events come out of a FIFO in the
service's event directory, as for s6-ftrig-listen: s (supervisor runs), u (process started), d (process ended), D (and
its finish script), x (supervisor ended). Every service has a `down` file and is started once (`o`), so that nothing
but the agent ever starts an engine. Process ids belong to the other container and are never used.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from .engine_files import EngineFiles


class NotSupervised(Exception):
    """Nobody listens on the control FIFO: the redis container is down, or not up yet."""


class Supervisor:
    """The scan directory: adding and removing services."""

    def __init__(self, files: EngineFiles) -> None:
        self._files = files

    def running(self) -> bool:
        """s6-svscan is there and takes commands."""
        try:
            self._command(b"")
        except NotSupervised:
            return False
        return True

    def partitions(self) -> list[int]:
        """Partitions that have a service directory."""
        names = [path.name for path in self._files.scan_dir.iterdir()] if self._files.scan_dir.is_dir() else []
        return sorted(int(name[1:]) for name in names if name[:1] == "p" and name[1:].isdigit())

    def add(self, partition: int, run_script: str) -> None:
        """Make the service, for `scan` to take up; an existing one only gets the new run script."""
        service = self._files.service(partition)
        if service.is_dir():
            _write_script(service / "run", run_script)
        else:
            new = service.with_name(f".new-{service.name}")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            _make_event_dir(new / "event")
            (new / "down").touch()
            _write_script(new / "run", run_script)
            new.rename(service)

    def scan(self) -> None:
        """Let s6-svscan take up new services."""
        self._command(b"a")

    def remove(self, partition: int) -> None:
        """Take the service of an ended process away; s6-svscan, when there is one, ends its supervisor."""
        service = self._files.service(partition)
        gone = service.with_name(f".rm-{service.name}-{secrets.token_hex(4)}")
        if service.is_dir():
            service.rename(gone)
        with contextlib.suppress(NotSupervised):
            self._command(b"an")
        shutil.rmtree(gone, ignore_errors=True)

    def _command(self, letters: bytes) -> None:
        write_control(self._files.scan_dir / ".s6-svscan" / "control", letters)


class Service:
    """Events and control of one service. `on_event` is called with each event letter as it comes."""

    def __init__(self, directory: Path, on_event: Callable[[str], None]) -> None:
        self._control = directory / "supervise" / "control"
        self._fifo = directory / "event" / f"ftrig1:@{'4' + '0' * 23}:{secrets.token_hex(3)}"  # of this length exactly
        self._on_event = on_event
        if not self._fifo.parent.is_dir():
            _make_event_dir(self._fifo.parent)
        # Hidden until it has a reader: a supervisor that starts removes FIFOs that nobody reads.
        hidden = self._fifo.with_name(f".{self._fifo.name}")
        os.mkfifo(hidden)
        hidden.chmod(0o622)
        # Opened for both directions, so that it never reads as ended while no supervisor writes.
        self._fd = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        hidden.rename(self._fifo)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def send(self, letters: str) -> None:
        """Letters of s6-svc(1): `o` start once, `k` kill, `d` end and stay down. NotSupervised when nobody listens."""
        write_control(self._control, letters.encode())

    def supervised(self) -> bool:
        """s6-supervise runs for this service."""
        try:
            write_control(self._control, b"")
        except NotSupervised:
            return False
        return True

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fifo.unlink(missing_ok=True)

    def _read(self) -> None:
        for letter in os.read(self._fd, 256).decode("ascii", "replace"):
            self._on_event(letter)


def write_control(fifo: Path, letters: bytes) -> None:
    """Write to a control FIFO without ever waiting. NotSupervised when it is missing or nobody reads it."""
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT, errno.ENOTDIR):
            raise NotSupervised(f"nobody listens on {fifo}") from error
        raise
    try:
        if letters:
            os.write(fd, letters)
    finally:
        os.close(fd)


def _make_event_dir(path: Path) -> None:
    """With the mode that s6-supervise gives it, or it would refuse it."""
    path.mkdir()
    path.chmod(0o3730)


def _write_script(path: Path, text: str) -> None:
    """Replace a script; s6-supervise may run it at any moment, so it is never half there."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o700)
    temporary.replace(path)
