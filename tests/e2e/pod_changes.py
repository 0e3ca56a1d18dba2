"""Planned changes of a cluster in pods: phases under load, what status told meanwhile, and the table of figures."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.e2e.cache_in_pods import CacheInPods
from tests.e2e.steady_clients import SteadyClients
from tests.waiting import wait_until

from cachecluster_devcluster.cluster import kubectl_binary

DONE_S = 180.0
FEW_S = 2.0
"""Clients wait for no answer longer than that when a fault is over for them."""
EVENT_S = 20.0
"""Events are written beside what they tell of."""
KINDS = ("RESP2", "RESP3", "RedisCluster")
CONDITIONS = (
    "jsonpath={.metadata.generation}{range .status.conditions[*]}"
    "{' '}{.type}={.status}/{.reason}/{.observedGeneration}{end}{'\\n'}"
)


@dataclass(frozen=True, slots=True)
class Told:
    """What the status said at a moment (monotonic seconds): by type status, reason and generation."""

    at: float
    generation: int
    conditions: dict[str, tuple[str, str, int]]

    def reason(self, kind: str) -> str:
        """A condition's reason; '' when there is none, or when it is about an older generation."""
        _, reason, generation = self.conditions.get(kind, ("", "", -1))
        return reason if generation == self.generation else ""


class Story:
    """Follows the conditions of a CacheCluster by `kubectl get --watch`."""

    def __init__(self, cache: CacheInPods) -> None:
        # By its name alone, kubectl drops the first event that it hears, which may be one of after it has looked.
        chosen = f"--field-selector=metadata.name={cache.name}"
        what = ["--namespace", cache.namespace, "get", "cc", chosen, "--watch", "-o", CONDITIONS]
        self._command = [str(kubectl_binary()), f"--kubeconfig={cache.cluster.kubeconfig}", *what]
        self._told: list[Told] = []
        self._ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._told, 20, "the first status")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(10)

    @property
    def last(self) -> Told:
        """What it says now."""
        return self._told[-1]

    def reasons(self, kind: str, since: float) -> list[str]:
        """The reasons of a condition since a moment, without repetitions; what it said then comes first."""
        found: list[str] = []
        for told, after in zip(self._told, [*self._told[1:], None], strict=True):
            reason = told.reason(kind)
            if (after is None or after.at > since) and reason and found[-1:] != [reason]:
                found.append(reason)
        return found

    def _follow(self) -> None:
        while not self._ended.is_set():  # a watch ends now and then
            with subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True) as self._process:
                assert self._process.stdout is not None
                for line in self._process.stdout:
                    generation, *conditions = line.split()
                    self._told.append(Told(time.monotonic(), int(generation), dict(map(_condition, conditions))))


def _condition(word: str) -> tuple[str, tuple[str, str, int]]:
    kind, _, rest = word.partition("=")
    status, reason, generation = rest.split("/")
    return kind, (status, reason, int(generation))


@dataclass
class ChangeTable:
    """What clients saw of every planned change."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """As JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.rows, indent=2) + "\n")

    def lines(self) -> list[str]:
        """For people: the longest that a client of each kind waited for an answer, and seconds until all was done."""
        head = [f"{'planned change':44}{'commands':>9}{'errors':>8}", *(f"{kind:>13}" for kind in KINDS)]
        return ["".join([*head, f"{'done after':>12}"]), *map(self._line, self.rows)]

    @staticmethod
    def _line(row: dict[str, Any]) -> str:
        pauses = "".join(f"{row['longest_pause_s'].get(kind, 0.0) * 1000:>10.0f} ms" for kind in KINDS)
        errors = sum(row["errors"].values())
        return f"{row['change']:44}{row['commands']:>9}{errors:>8}{pauses}{row['seconds']:>10.1f} s"


@dataclass
class Changes:
    """A cluster that its clients use all the time."""

    cache: CacheInPods
    clients: SteadyClients
    story: Story
    table: ChangeTable
    copies: int = 2

    @contextmanager
    def phase(self, name: str, counted: bool = True) -> Iterator[Phase]:
        """What clients see within counts under this name; with `counted` they must see no error, and miss nothing."""
        self.clients.ask("next")
        phase = Phase(self, time.monotonic(), time.time())
        yield phase
        seconds = time.monotonic() - phase.began
        seen = self.clients.ask("next")
        missing = self.clients.ask("check")
        events = self.cache.events_since(phase.began_at)
        told = {"progressing": phase.reasons("Progressing"), "events": events}
        row = {"change": name, **seen, "missing": missing, "seconds": round(seconds, 1), **told}
        self.table.rows.append(row)
        assert missing == 0, f"{name}: {missing} keys are missing\n{row}"
        if counted:
            assert not seen["errors"] and not seen["wrong"], f"{name}: {row}\n{self.cache.story()}"

    def patch(self, **spec: Any) -> None:
        """Change the spec."""
        text = json.dumps({"spec": spec})
        self.cache.kubectl("patch", "cc", self.cache.name, "--type=merge", "-p", text)

    def scale(self, nodes: int) -> None:
        """`kubectl scale`."""
        self.cache.kubectl("scale", "cc", self.cache.name, f"--replicas={nodes}")

    def pause(self, paused: bool) -> None:
        """The annotation that holds planned changes back."""
        value = "cachecluster.io/paused=true" if paused else "cachecluster.io/paused-"
        self.cache.kubectl("annotate", "cc", self.cache.name, value)

    def redis_cli(self, *words: str) -> str:
        """One command by `redis-cli`."""
        return self.cache.cluster.hub_exec(["redis-cli", "-e", "-h", self.cache.host, *words])

    def wait_complete(self, nodes: int | None = None, seconds: float = DONE_S) -> None:
        """Until status says that nothing is left to do, and every partition has its copies in different zones."""
        began = time.monotonic()
        while (why_not := self._why_not_complete(nodes)) is not None:
            assert time.monotonic() - began < seconds, f"not within {seconds} s: {why_not}\n{self.cache.story()}"
            time.sleep(0.2)

    def wait_balanced(self, nodes: int | None = None, seconds: float = DONE_S) -> None:
        """The same, and until every pod leads as many partitions as any other, to within one."""
        self.wait_complete(nodes, seconds)
        wait_until(lambda: self.cache.view().is_balanced(), seconds, "primaries are balanced", 0.2)
        self.wait_complete(nodes, seconds)

    def _why_not_complete(self, nodes: int | None) -> str | None:
        told = self.story.last
        if told.reason("Progressing") != "Complete" or told.conditions["Ready"][0] != "True":
            return f"status says {told}"
        view = self.cache.view()
        assert view.cluster is not None
        wanted = nodes if nodes is not None else view.cluster["spec"]["nodes"]
        if len(view.pods) != wanted:
            return f"{len(view.pods)} pods are there"
        return view.why_not_whole(self.copies, wanted)

    def wait_told(self, kind: str, reason: str, seconds: float = 30.0) -> None:
        """Until a condition has this reason, about the spec of now."""
        try:
            wait_until(lambda: self.story.last.reason(kind) == reason, seconds, f"{kind} says {reason}")
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.story.last}\n{self.cache.story()}") from error

    def wait_answers(self, seconds: float = 40.0) -> None:
        """After a fault: until no client waits for an answer, nor gets an error, for a few seconds."""

        seen: dict[str, Any] = {}

        def quiet() -> bool:
            self.clients.ask("next")
            time.sleep(FEW_S)
            seen.update(self.clients.ask("look"))
            return not seen["errors"] and seen["waits_s"] < FEW_S

        try:
            wait_until(quiet, seconds, "clients are answered again")
        except TimeoutError as error:
            raise AssertionError(f"{error}: {seen}") from error


@dataclass(frozen=True, slots=True)
class Phase:
    """One change and what was told since it began (monotonic seconds, and time.time for events)."""

    changes: Changes
    began: float
    began_at: float

    def reasons(self, kind: str) -> list[str]:
        """The reasons of a condition since it began."""
        return self.changes.story.reasons(kind, self.began)

    def assert_told(self, *reasons: str, events: tuple[str, ...] = ()) -> None:
        """Progressing had all of these reasons, there were all of these events, and no primary had to be elected."""
        seen = self.reasons("Progressing")
        assert set(reasons) <= set(seen), (reasons, seen)
        for event in events:
            wait_until(lambda event=event: self._told(event), EVENT_S, f"an event {event}")
        elections = self._told("ElectionStarted")
        assert not elections, elections

    def _told(self, event: str) -> list[str]:
        """The texts of such events since it began."""
        return [it for it in self.changes.cache.events_since(self.began_at) if it.startswith(f"{event}: ")]
