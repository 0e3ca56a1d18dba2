"""ioredis and go-redis, plain and cluster-aware, RESP2 and RESP3, with what they offer their users."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.clients import programs
from tests.unit.conftest import LocalFactory

pytestmark = [pytest.mark.t1, pytest.mark.timeout(300)]


@pytest.mark.parametrize("engine", ["valkey", "redis"])
@pytest.mark.parametrize("build", [programs.ioredis, programs.goredis])
def test_a_client_of_another_language_has_all_it_offers(
    local_cluster: LocalFactory, build: Callable[[], list[str]], engine: str
) -> None:
    command, endpoints = build(), local_cluster(engine=engine).endpoints()
    count, failed = programs.failures(command, endpoints.plain[0], endpoints.cluster[1])
    assert not failed, "\n".join(failed)
    assert count >= 60
