"""The workers of a pod share its connections evenly.

The kernel hands a connection to any of those that listen on a port, by its addresses: many come to each, but of the few
that a pool keeps for long most may come to one worker, which then has no more than one CPU for them. So a worker that
accepts a connection passes it to the one that has fewest, over that one's datagram socket in the run directory. Figures
may be a moment old, and a connection that cannot be passed on stays with whom it came to: nothing but evenness depends
on it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import os
import socket
from array import array
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("cachecluster.router")

FIGURE_BYTES = 8
NOBODY = -1
"""The figure of a worker that takes no connections, or is none."""
AT_ONCE = 8
"""Connections accepted before others have their turn; a datagram socket holds ten that were not taken yet."""
PAUSE_S = 1.0
"""After a connection could not be accepted because files have run out."""
OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """A port on which connections are accepted; `place` does something with each."""

    def __init__(self, host: str, port: int, backlog: int, place: Callable[[socket.socket], None]) -> None:
        self._place = place
        self._loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=backlog, reuse_port=True)
        self._socket.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_FILES:
                    raise
                log.error("no connection can be accepted for a second: %s", error)
                self._loop.remove_reader(self._socket)
                self._loop.call_later(PAUSE_S, self._listen)
                return
            self._place(connection)

    def close(self) -> None:
        """Accept no more."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()


class Figures:
    """What the workers tell each other, in a file that all of them map: how many connections each has (NOBODY: it takes
    none), how many it was passed, and how many it has passed to each. Each figure has one writer."""

    def __init__(self, path: Path, worker: int, workers: int) -> None:
        self._worker, self._workers = worker, workers
        self._row = 2 + workers
        self._mine = worker * self._row
        self._all = _mapped(path, workers * self._row)
        self.tell(NOBODY)
        self._all[self._mine + 1] = self._passed_to(worker)  # what was on its way to an earlier process has ended

    def tell(self, count: int) -> None:
        """How many this worker has now."""
        self._all[self._mine] = count

    def received(self) -> None:
        """This worker was passed one, and counts it."""
        self._all[self._mine + 1] += 1

    def passed(self, worker: int, count: int) -> None:
        """This worker passes so many to another, which does not count them yet."""
        self._all[self._mine + 2 + worker] += count

    def fewer(self) -> list[int]:
        """The workers that have fewer than this one, with what is on its way to them; the one that has fewest first."""
        loads = []
        for worker in range(self._workers):
            count, received = self._all[worker * self._row : worker * self._row + 2]
            on_its_way = self._passed_to(worker) - received  # below 0 where one could not be passed
            loads.append((count + max(0, on_its_way) if count != NOBODY else count, worker))
        mine, _ = loads[self._worker]
        return [worker for load, worker in sorted(loads) if NOBODY < load < mine]

    def _passed_to(self, worker: int) -> int:
        return sum(self._all[2 + worker :: self._row])


def _mapped(path: Path, figures: int) -> memoryview:
    """As many figures, 0 until they were told."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(file).st_size < figures * FIGURE_BYTES:
            os.truncate(file, figures * FIGURE_BYTES)
        return memoryview(mmap.mmap(file, figures * FIGURE_BYTES)).cast("q")
    finally:
        os.close(file)


class Share:
    """This worker's part of the pod's connections. `serve` serves one, of the port for cluster-aware clients or of the
    other; `served` tells how many are."""

    def __init__(
        self,
        run_dir: Path,
        worker: int,
        workers: int,
        serve: Callable[[bool, socket.socket], None],
        served: Callable[[], int],
    ) -> None:
        self._run_dir, self._worker = run_dir, worker
        self._serve, self._served = serve, served
        self._loop = asyncio.get_running_loop()
        self._figures = Figures(run_dir / f"router-shares-{workers}", worker, workers)
        self._takes = False
        path = self._path(worker)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self._loop.add_reader(self._socket, self._receive)

    def listen(self, host: str, port: int, backlog: int, *, cluster: bool) -> Listener:
        """Accept connections on a port, for this worker and the others."""
        self._takes = True
        self.note()
        return Listener(host, port, backlog, lambda connection: self._place(cluster, connection))

    def leave(self) -> None:
        """Others pass nothing on to this worker any more."""
        self._takes = False
        self.note()

    def _path(self, worker: int) -> Path:
        return self._run_dir / f"router-{worker}.take"

    def note(self) -> None:
        """Tell how many connections there are, after one came or went."""
        self._figures.tell(self._served() if self._takes else NOBODY)

    def _place(self, cluster: bool, connection: socket.socket) -> None:
        self.note()
        if any(self._pass(worker, cluster, connection) for worker in self._figures.fewer()):
            connection.close()
        else:
            self._take(cluster, connection)

    def _pass(self, worker: int, cluster: bool, connection: socket.socket) -> bool:
        port = b"c" if cluster else b"f"
        file = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [connection.fileno()]))
        self._figures.passed(worker, 1)
        try:
            self._socket.sendmsg([port], [file], 0, str(self._path(worker)))
        except OSError as error:  # it has ended, or takes them more slowly than they come
            self._figures.passed(worker, -1)
            log.debug("worker %d was passed no connection: %s", worker, error)
            return False
        return True

    def _take(self, cluster: bool, connection: socket.socket) -> None:
        self._serve(cluster, connection)
        self.note()

    def _receive(self) -> None:
        for _ in range(AT_ONCE):
            try:
                port, files, _, _ = socket.recv_fds(self._socket, 1, 1)
            except BlockingIOError:
                break
            self._figures.received()
            if not files:
                log.error("a connection was lost: no file is left for it")
            for file in files:
                self._take(port == b"c", socket.socket(fileno=file))
        self.note()
