"""Any client on any pod: plain commands, RESP2 and RESP3, keys of every partition."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.router_support import ENGINES, running_cluster

pytestmark = pytest.mark.t1


@pytest.mark.parametrize("engine", ENGINES)
async def test_what_one_client_writes_every_client_reads_on_every_pod(tmp_path: Path, engine: str) -> None:
    async with running_cluster(tmp_path, engine=engine) as cluster:
        writer, reader = cluster.pods[0].client(3), cluster.pods[1].client(2)
        try:
            for number in range(50):
                assert await writer.set(f"key:{number}", f"value {number}")
            assert [await reader.get(f"key:{number}") for number in range(50)] == [
                f"value {number}".encode() for number in range(50)
            ]
        finally:
            await writer.aclose()
            await reader.aclose()
