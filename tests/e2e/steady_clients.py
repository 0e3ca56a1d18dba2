"""`SteadyClients`: the twenty clients of `tests.steady_load` in a cluster's network, as a process beside a test.

They know the cluster by its Services, as applications do.
"""

from __future__ import annotations

from tests.e2e.asked_program import AskedProgram
from tests.e2e.cache_in_pods import CacheInPods

PORT = 6379


class SteadyClients(AskedProgram):
    """Fills `keys` keys and begins the load when entered; `result` is what everybody saw, once it was left.

    It can be asked "look", "next", "check" and "forgive": see the program.
    """

    def __init__(self, cache: CacheInPods, keys: int, clients: int = 20) -> None:
        aware = cache.host.replace(cache.name, f"{cache.name}-cluster", 1)
        addresses = ["--plain", f"{cache.host}:{PORT}", "--cluster", f"{aware}:{PORT}"]
        arguments = ["--keys", str(keys), "--clients", str(clients), *addresses]
        super().__init__(cache, "tests.steady_load", arguments)
