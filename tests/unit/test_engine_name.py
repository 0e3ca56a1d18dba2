"""The agent tells which engine its copies run, by the word of the binary."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachecluster_sidecar.agent.engine_name import engine_name

pytestmark = pytest.mark.t0


@pytest.mark.parametrize(
    ("kind", "says", "name"),
    [
        ("redis", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7", "redis 7.0.15"),
        ("valkey", "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150", "valkey 9.1.2"),
        ("valkey", "something else", "valkey"),
        ("valkey", "", "valkey"),
    ],
)
def test_name_and_version(tmp_path: Path, kind: str, says: str, name: str) -> None:
    binary = tmp_path / f"{kind}-server"
    binary.write_text(f"#!/bin/sh\necho '{says}'\n")
    binary.chmod(0o755)
    assert engine_name(kind, str(binary)) == name


def test_a_binary_that_is_not_there_has_no_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert engine_name("redis", str(tmp_path / "none")) == "redis"
    assert "is not known" in caplog.text
