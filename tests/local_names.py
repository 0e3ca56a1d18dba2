"""What Service DNS does for pods, for nodes of `cachecluster-local`: two names that resolve to the nodes there are."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.local_process import LocalProcess

PLAIN, CLUSTER = "cache.test", "cache-cluster.test"


@contextmanager
def service_names(local: LocalProcess) -> Iterator[None]:
    """In this process PLAIN and CLUSTER resolve to the nodes that are ready, in random order."""
    resolve = socket.getaddrinfo

    def lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in (PLAIN, CLUSTER):
            return resolve(host, *arguments, **options)
        endpoints = local.endpoints()
        addresses = endpoints.plain if host == PLAIN else endpoints.cluster
        found = [item for address, _ in addresses for item in resolve(address, *arguments, **options)]
        random.shuffle(found)
        return found

    socket.getaddrinfo = lookup
    try:
        yield
    finally:
        socket.getaddrinfo = resolve
