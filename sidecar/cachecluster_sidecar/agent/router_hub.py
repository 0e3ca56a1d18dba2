"""The routers of the pod: keeping them running, and telling them routes and gates (contract with the router).

A router begins with every gate shut. It is *admitted*, told the gates' generations, only after a quorum read that was
sent after it registered: what an earlier agent may have promised is over by then. While the map cannot be read it is
told of single gates, those for which all promises were asked after it registered: as long as they hold nobody else is
elected, whatever the operator took for proof of silence while this router was not there. It has *confirmed* a
generation when it says so; one that ended has confirmed everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clock import boottime_ns
from .router_link import Message, RouterLink
from .router_process import RouterProcess

log = logging.getLogger(__name__)

DISMISS = {"dismiss": True}

GateNotice = tuple[int, int] | tuple[int, int, dict[str, Any]]
"""Partition and generation, and what is to be known with it: `patient`, what is in flight there must not be given up;
`required`, the copies that must have what is told from this generation on (as before where it does not stand)."""


@dataclass(frozen=True, slots=True)
class RouterTimes:
    """Seconds. A router that died younger than `young` is started again after a pause, doubling. `first_word` is what a
    new process may take until it registers."""

    ping: float = 0.5
    silence: float = 2.0
    first_word: float = 10.0
    young: float = 1.0
    first_pause: float = 0.1
    longest_pause: float = 5.0
    term: float = 2.5
    counters: float = 0.3
    counters_period: float = 2.0


@dataclass(frozen=True, slots=True)
class Users:
    """What a router that has to know users says of them: whether any is known, and why not all are (or empty)."""

    known: bool
    trouble: str


@dataclass(slots=True)
class _Worker:
    """What is known of one worker index. `told` is True once its process may have heard of any generation, `heard` are
    the partitions of which it may have before. `gates` are those that it was told of since it registered."""

    process: RouterProcess | None = None
    link: RouterLink | None = None
    registered_ns: int = 0
    admitted: bool = False
    told: bool = False
    heard: set[int] = field(default_factory=set)
    gates: set[int] = field(default_factory=set)
    confirmed: dict[int, int] = field(default_factory=dict)
    dismissed: bool = False
    patience_ends: float = 0.0
    pause: float = 0.0
    users: Users | None = None

    def has_confirmed(self, partition: int, generation: int) -> bool:
        """Nothing let through under an older generation is in flight in this worker."""
        if self.process is None or not (self.told or partition in self.heard):
            return True
        return self.confirmed.get(partition, 0) >= generation


class RouterHub:
    """`on_change` is called with the partitions of which a confirmation came, without any when a router registered or
    ended. `on_register` wants a read."""

    def __init__(
        self,
        run_dir: Path,
        workers: int,
        command: Callable[[int], Sequence[str]],
        on_change: Callable[..., None],
        on_register: Callable[[], None],
        on_start: Callable[[], None] = lambda: None,
        times: RouterTimes | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._command = command
        self._on_change = on_change
        self._on_register = on_register
        self._on_start = on_start
        self._times = times or RouterTimes()
        self._workers = [_Worker() for _ in range(workers)]
        self._routes: dict[str, Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._counters: dict[int, tuple[int, asyncio.Future[Message]]] = {}
        self._request = 0
        self.clients = 0
        self._dismissing: asyncio.Event | None = None
        self._stopping = False

    @property
    def admitted(self) -> int:
        """How many routers know the gates, or some of them."""
        return sum(worker.admitted or bool(worker.gates) for worker in self._workers)

    @property
    def waiting(self) -> bool:
        """Some router that has registered may not know all gates."""
        return any(worker.link is not None and not worker.admitted for worker in self._workers)

    @property
    def users(self) -> Users | None:
        """The worst that a router says of its users; None when not every one has said anything."""
        told = [worker.users for worker in self._workers if worker.users is not None]
        if len(told) < len(self._workers):
            return None
        return min(told, key=lambda users: (users.known, not users.trouble))

    @property
    def pids(self) -> list[int]:
        """The routers' process ids."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    async def start(self) -> None:
        """Listen, take over routers that outlived an earlier agent, start the others. OSError when that fails."""
        path = self._run_dir / "agent.sock"
        path.unlink(missing_ok=True)
        self._server = await self._loop.create_unix_server(lambda: RouterLink(self._heard, self._link_ended), str(path))
        path.chmod(0o600)
        for index, worker in enumerate(self._workers):
            process = await RouterProcess.find(index, self._lock(index))
            if process is None:
                self._spawn(index)
            else:
                log.info("router %d (pid %d) outlived an earlier agent", index, process.pid)
                worker.told = True
                self._take_process(index, process, self._times.silence)
        self._run(self._ping_forever())
        self._run(self._count_forever())

    async def stop(self) -> None:
        """End all routers: TERM, then KILL."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        processes = [worker.process for worker in self._workers if worker.process is not None]
        for number, patience_s in ((signal.SIGTERM, self._times.term), (signal.SIGKILL, 1.0)):
            for process in processes:
                process.signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await asyncio.gather(*(process.ended.wait() for process in processes))
        await self.close()

    async def close(self) -> None:
        """Stop listening and watching; routers go on."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        for worker in self._workers:
            if worker.link is not None:
                worker.link.close()
            if worker.process is not None:
                worker.process.close()
        if self._server is not None:
            self._server.close()
            (self._run_dir / "agent.sock").unlink(missing_ok=True)
        await asyncio.sleep(0)

    async def dismiss_clients(self, timeout_s: float) -> None:
        """Have the routers take no more clients and end the connections of those they have, each when nothing is
        outstanding on it; for at most so long. Peers, and whatever waits for a gate, are served as before."""
        self._dismissing = asyncio.Event()
        for worker in self._workers:
            if worker.link is not None:
                worker.link.send(DISMISS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not all(worker.dismissed or worker.process is None for worker in self._workers):
                    self._dismissing.clear()
                    await self._dismissing.wait()

    def set_routes(self, routes: dict[str, Any]) -> None:
        """Tell every router, if something changed."""
        if routes == self._routes:
            return
        self._routes = routes
        for worker in self._workers:
            if worker.link is not None:
                worker.link.send({"routes": routes})

    def read_succeeded(self, sent_ns: int, gates: Iterable[GateNotice]) -> None:
        """A quorum read that was sent at `sent_ns` succeeded: admit the routers that had registered by then."""
        current = [list(notice) for notice in gates]
        for worker in self._workers:
            if worker.link is not None and not worker.admitted and worker.registered_ns < sent_ns:
                worker.admitted = worker.told = True
                worker.link.send({"gates": current})

    def promised(self, since: Mapping[int, int], notice: Callable[[int], GateNotice]) -> None:
        """All promises for these partitions were asked for after then (ns): routers that had registered by then may
        know their gates."""
        for worker in self._workers:
            if worker.link is None or worker.admitted:
                continue
            told = {p for p, asked_at_ns in since.items() if worker.registered_ns < asked_at_ns} - worker.gates
            if told:
                worker.gates |= told
                worker.heard |= told
                worker.link.send({"gates": [list(notice(partition)) for partition in sorted(told)]})

    def announce(self, changed: Iterable[GateNotice]) -> None:
        """Gate records with these generations have been written: have every router that knows the gate take it over."""
        every = [list(notice) for notice in changed]
        for worker in self._workers:
            known = every if worker.admitted else [notice for notice in every if notice[0] in worker.gates]
            if known and worker.link is not None:
                worker.link.send({"gates": known})

    def confirmed(self, partition: int, generation: int) -> bool:
        """Every router has confirmed this generation, or has ended."""
        return all(worker.has_confirmed(partition, generation) for worker in self._workers)

    async def counters(self) -> dict[int, Message]:
        """The counters of every router that answers in time, by worker."""
        asked = {}
        for index, worker in enumerate(self._workers):
            if worker.link is not None:
                self._request += 1
                asked[index] = self._loop.create_future()
                self._counters[self._request] = (index, asked[index])
                worker.link.send({"metrics": self._request})
        if asked:
            await asyncio.wait(asked.values(), timeout=self._times.counters)
        self._counters = {n: entry for n, entry in self._counters.items() if entry[1] not in asked.values()}
        return {index: future.result() for index, future in asked.items() if future.done()}

    # Messages

    def _heard(self, link: RouterLink, message: Message) -> None:
        match message:
            case {"register": {"worker": int(index), "pid": int(pid)}}:
                self._register(link, index, pid)
            case {"confirm": list(pairs)}:
                worker = self._worker_of(link)
                for partition, generation in pairs:
                    worker.confirmed[int(partition)] = max(generation, worker.confirmed.get(int(partition), 0))
                self._on_change(*(int(partition) for partition, _ in pairs))
            case {"metrics": {"id": int(number)} as counters}:
                _, future = self._counters.get(number, (0, None))
                if future is not None and not future.done():
                    future.set_result(counters)
            case {"users": {"known": bool(known), "trouble": str(trouble)}}:
                self._worker_of(link).users = Users(known, trouble)
                self._on_change()
            case {"dismissed": _}:
                self._worker_of(link).dismissed = True
                self._note_dismissal()
            case {"pong": _}:
                pass
            case _:
                raise ValueError(f"unknown message {list(message)}")

    def _register(self, link: RouterLink, index: int, pid: int) -> None:
        if not 0 <= index < len(self._workers):
            raise ValueError(f"there is no router {index}")
        worker = self._workers[index]
        if worker.process is None or worker.process.pid != pid:
            raise ValueError(f"pid {pid} is not router {index}")
        if worker.link is not None and worker.link is not link:
            worker.link.close()
        worker.link, worker.admitted, worker.registered_ns, worker.gates = link, False, boottime_ns(), set()
        if self._routes is not None:
            link.send({"routes": self._routes})
        if self._dismissing is not None:
            link.send(DISMISS)
        self._on_register()
        self._on_change()

    def _note_dismissal(self) -> None:
        if self._dismissing is not None:
            self._dismissing.set()

    def _worker_of(self, link: RouterLink) -> _Worker:
        for worker in self._workers:
            if worker.link is link:
                return worker
        raise ValueError("a message before registering")

    def _link_ended(self, link: RouterLink) -> None:
        for worker in self._workers:
            if worker.link is link:
                worker.link, worker.admitted, worker.gates = None, False, set()
                worker.patience_ends = self._loop.time() + self._times.silence

    # Processes

    def _lock(self, index: int) -> Path:
        return self._run_dir / f"router-{index}.lock"

    def _spawn(self, index: int) -> None:
        worker = self._workers[index]
        try:
            process = RouterProcess.spawn(index, self._lock(index), self._command(index))
        except OSError as error:
            log.error("router %d cannot be started: %r", index, error)
            self._run(self._spawn_later(index))
            return
        worker.told, worker.heard, worker.confirmed, worker.dismissed = False, set(), {}, False
        worker.users = None
        self._take_process(index, process, self._times.first_word)
        self._on_start()
        log.info("router %d started (pid %d)", index, process.pid)

    def _take_process(self, index: int, process: RouterProcess, patience_s: float) -> None:
        self._workers[index].process = process
        self._workers[index].patience_ends = self._loop.time() + patience_s
        process.watch(lambda: self._process_ended(index))

    def _process_ended(self, index: int) -> None:
        worker = self._workers[index]
        lived = self._loop.time() - worker.process.started_at if worker.process is not None else 0.0
        worker.process = None
        self._note_dismissal()
        if worker.link is not None:
            worker.link.close()
        if self._stopping:
            return
        if lived >= self._times.young:
            worker.pause = 0.0
            self._spawn(index)
        else:
            self._run(self._spawn_later(index))
        self._on_change()

    async def _spawn_later(self, index: int) -> None:
        worker = self._workers[index]
        worker.pause = min(self._times.longest_pause, worker.pause * 2 or self._times.first_pause)
        await asyncio.sleep(worker.pause)
        self._spawn(index)

    async def _ping_forever(self) -> None:
        """Kill routers that are silent: connected and not answering, or alive and not connected."""
        number = 0
        while True:
            due = self._loop.time() + self._times.ping
            await asyncio.sleep(self._times.ping)
            number += 1
            now = self._loop.time()
            stalled_s = now - due  # their answers were not read meanwhile
            for index, worker in enumerate(self._workers):
                if worker.process is None:
                    continue
                if worker.link is not None:
                    worker.patience_ends = worker.link.heard_at + self._times.silence
                if stalled_s > self._times.ping:
                    worker.patience_ends = max(worker.patience_ends, now + 2 * self._times.ping)
                if now > worker.patience_ends:
                    log.warning("router %d is silent: killing it", index)
                    worker.process.signal(signal.SIGKILL)
                elif worker.link is not None:
                    worker.link.send({"ping": number})

    async def _count_forever(self) -> None:
        """Keep `clients`, the clients connected to all routers, roughly current."""
        while True:
            await asyncio.sleep(self._times.counters_period)
            self.clients = sum(int(counters.get("clients", 0)) for counters in (await self.counters()).values())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
