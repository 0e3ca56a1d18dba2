"""A fault in a cluster of pods, from the blow to the last copy's return, and the table of what clients saw."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.acknowledged_writers import AcknowledgedWriters
from tests.e2e.cache_in_pods import CacheInPods, Json
from tests.e2e.installed import Release
from tests.e2e.pod_gates import GateWatch
from tests.e2e.pod_load import PodLoad
from tests.waiting import wait_until

ANSWER_S = 30.0
WHOLE_S = 90.0
LEADER_S = 40.0
POLL_S = 0.1
PARTITIONS = 16
REPLICATION_S = 1.0
"""`durability: async` may lose what a primary acknowledged so shortly before it dies."""


@dataclass
class FaultTable:
    """What clients saw of every fault of the session."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """As JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.rows, indent=2) + "\n")

    def lines(self) -> list[str]:
        """For people. Seconds without an answer for all of a partition, for one connection, and until whole again."""
        head = ("fault", "partition", "connection", "whole", "errors", "undone", "late", "errors by kind")
        return [_columns(*head), *map(self._line, self.rows)]

    @staticmethod
    def _line(row: dict[str, Any]) -> str:
        seconds = (f"{row[name]:.2f} s" for name in ("partitionPause", "connectionPause", "wholeAfter"))
        kinds = ", ".join(f"{count} {kind}" for kind, count in row["errors"].items())
        undone = sum(found["writes"] for found in row["undone"])
        counts = (str(sum(row["errors"].values())), str(undone), str(len(row["late"])))
        return _columns(row["fault"], *seconds, *counts, kinds)


def _columns(fault: str, *figures: str) -> str:
    *numbers, kinds = figures
    return f"{fault:48}" + "".join(f"{number:>11}" for number in numbers) + f"  {kinds}"


@dataclass
class Fault:
    """A cluster under load and under watch. `writes` are there with `durability: sync`."""

    cache: CacheInPods
    load: PodLoad
    operator: Release
    table: FaultTable
    copies: int = 2
    writes: AcknowledgedWriters | None = None
    name: str = ""
    struck: float = 0.0
    struck_at: float = 0.0

    def strike(self, name: str, blow: Callable[[], object], within_s: float = ANSWER_S) -> float:
        """Do it, and wait until every connection of every client is answered again; the seconds that took."""
        self.begin(name)
        blow()
        return self.wait_answers(within_s)

    def begin(self, name: str) -> None:
        """From now on it counts, under this name."""
        self.name = name if self.writes is None else f"sync, {self.copies} copies: {name}"
        self.load.ask("reset")
        if self.writes is not None:
            self.writes.ask("next")
        self.struck_at, self.struck = time.time(), time.monotonic()

    def wait_answers(self, within_s: float = ANSWER_S) -> float:
        """Until every connection has an answer to something that it sent after now; the seconds that took."""
        began = time.monotonic()
        while not self.load.everybody_answered_since(began):
            if time.monotonic() - began > within_s:
                report = self.load.ask("report")
                raise AssertionError(f"{self.name}: clients wait for {within_s} s: {report}\n{self.cache.story()}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def finish(self, within_s: float = WHOLE_S, *, primary_lost: bool = False) -> list[str]:
        """Wait until all copies are back; check the data; enter it in the table. Returns the events since the blow.

        With `primary_lost`, a primary was lost with what it had not yet replicated. Otherwise, and in any case with
        `durability: sync`, every acknowledged write must be there.
        """
        self.cache.wait_whole(within_s, self.copies)
        whole_s = time.monotonic() - self.struck
        self.wait_answers()
        missing, report = self.load.ask("check")["missing"], self.load.ask("report")
        if missing:
            told = f"{self.name}: {len(missing)} old keys are gone: {missing[:20]}"
            raise AssertionError(f"{told}\n{report}\n{self.cache.ring()}\n{self.cache.story()}")
        assert not report["emptied"], f"{self.name}: served empty: {report}"
        assert not report["wrong"], f"{self.name}: {report['wrong']}"
        events = self.cache.events_since(self.struck_at)
        row = {"fault": self.name, **report, "wholeAfter": round(whole_s, 2), "events": events}
        self.table.rows.append(row | self._acknowledged())
        self._check_undone(report["undone"], primary_lost and self.writes is None)
        assert not [event for event in events if event.startswith("DataLost")], events
        return events

    def _check_undone(self, undone: list[dict[str, Any]], primary_lost: bool) -> None:
        """All that may be gone of a key is what was acknowledged in the last moment before its primary was lost."""
        for found in undone:
            first, last = found["acknowledgedAt"]
            in_the_window = first > self.struck - REPLICATION_S and last - first < REPLICATION_S
            assert primary_lost and in_the_window, f"{self.name}, struck at {self.struck}: acknowledged, gone: {found}"

    def _acknowledged(self) -> dict[str, Any]:
        """What the writers know; nothing of it is missing."""
        if self.writes is None:
            return {}
        self.writes.wait_goes_on(ANSWER_S)
        seen, missing = self.writes.ask("look"), self.writes.missing()
        assert not missing, f"{self.name}: acknowledged and missing, by partition: {missing}\n{self.cache.story()}"
        return {"acknowledged": sum(seen["acknowledged"]), "acknowledgementPause": seen["pause_s"]}

    # -- who is who --

    def primary_pod(self, partition: int) -> Json:
        """The pod that the map names primary of a partition."""
        view = self.cache.view()
        assert view.ring is not None
        primary = view.ring.entries[partition].primary
        assert primary is not None, view.ring.entries[partition]
        return view.pod(primary.pod)

    def busiest_pod(self) -> Json:
        """The pod that leads most partitions."""
        view = self.cache.view()
        assert view.ring is not None
        leads = Counter(entry.primary.pod for entry in view.ring.entries if entry.primary is not None)
        return view.pod(leads.most_common(1)[0][0])

    def lead_elsewhere(self, node: str) -> None:
        """See that the leading operator is not on this node: a fault of the node is to be one of the data only.

        After faults of nodes both operators may be on one; with the node cordoned, those that replace them are not.
        """
        if self._leader()[1] != node:
            return
        kubectl = self.operator.cluster.kubectl
        kubectl("cordon", node)
        try:
            here = ("-l", "app.kubernetes.io/name=cachecluster-operator", f"--field-selector=spec.nodeName={node}")
            kubectl("--namespace", self.operator.namespace, "delete", "pod", *here, "--wait=true")
            wait_until(lambda: self._leader()[1] not in ("", node), LEADER_S, "another operator leads")
        finally:
            kubectl("uncordon", node)

    def _leader(self) -> tuple[str, str]:
        """Name and node of the operator that holds the Lease; '' while there is none."""
        system = ("--namespace", self.operator.namespace)
        lease = json.loads(self.operator.cluster.kubectl(*system, "get", "lease", self.operator.name, "-o", "json"))
        holder = lease["spec"].get("holderIdentity") or ""
        pods = json.loads(self.operator.cluster.kubectl(*system, "get", "pods", "-o", "json"))["items"]
        nodes = {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in pods}
        return holder, nodes.get(holder, "")

    def wait_replaced(self, pod: Json, seconds: float = WHOLE_S) -> None:
        """Until a deleted pod's object is gone."""
        uid = pod["metadata"]["uid"]
        gone = "the deleted pod is gone"
        wait_until(lambda: uid not in [it["metadata"]["uid"] for it in self.cache.view().pods], seconds, gone)


@contextmanager
def under_load(cache: CacheInPods, operator: Release, table: FaultTable, copies: int = 2) -> Iterator[Fault]:
    """A cluster that is whole, with a load on it and its gates watched; with `durability: sync` also with writers."""
    cache.wait_whole(copies=copies)
    sync = cache.get("cc", cache.name)["spec"]["durability"] == "sync"
    with ExitStack() as stack:
        gates = stack.enter_context(GateWatch(cache.cluster, cache.namespace, cache.name, cache.token()))
        load = stack.enter_context(PodLoad(cache.cluster.hub_command, cache.host, PARTITIONS))
        writes = stack.enter_context(AcknowledgedWriters(cache)) if sync else None
        gates.wait_sees([pod["metadata"]["uid"] for pod in cache.view().pods])
        fault = Fault(cache, load, operator, table, copies, writes)
        fault.wait_answers()
        yield fault
