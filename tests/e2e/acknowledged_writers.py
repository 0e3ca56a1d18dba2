"""`AcknowledgedWriters`: the writers of `tests.acknowledged` in a cluster's network, as a process beside a test."""

from __future__ import annotations

from collections.abc import Sequence

from tests.e2e.asked_program import AskedProgram
from tests.e2e.cache_in_pods import CacheInPods, Json
from tests.waiting import wait_until

PORT = 6379
PARTITIONS = 16
PERIOD_S = 0.03
"""Between two writes of a partition: sixteen writers must not take the cores from what they measure."""
FEW = 5
BEGIN_S = 30.0


class AcknowledgedWriters(AskedProgram):
    """One writer for every partition of a cluster; without `hosts` they know it by its Service.

    It can be asked "look", "next" and "missing": see the program.
    """

    def __init__(self, cache: CacheInPods, hosts: Sequence[str] = (), period_s: float = PERIOD_S) -> None:
        addresses = [word for host in hosts or (cache.host,) for word in ("--address", f"{host}:{PORT}")]
        arguments = [*addresses, "--partitions", str(PARTITIONS), "--period", str(period_s)]
        super().__init__(cache, "tests.acknowledged", arguments)

    def __enter__(self) -> AcknowledgedWriters:
        super().__enter__()
        self.wait_goes_on(BEGIN_S)
        self.ask("next")
        return self

    def wait_goes_on(self, seconds: float, but: Sequence[int] = ()) -> float:
        """Until some more writes of every partition (`but` those) were acknowledged; the seconds that took."""
        before = self.ask("look")["acknowledged"]

        def more() -> bool:
            now = self.ask("look")["acknowledged"]
            return all(now[p] > before[p] + FEW for p in range(PARTITIONS) if p not in but)

        return wait_until(more, seconds, "writes of every partition go on")

    def missing(self) -> dict[int, list[int]]:
        """By partition, the numbers that were acknowledged and are not there."""
        return {int(partition): numbers for partition, numbers in self.ask("missing").items()}


def address_of(pod: Json) -> str:
    """Of a pod that runs."""
    address: str = pod["status"]["podIP"]
    return address
