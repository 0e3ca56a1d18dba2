"""The paths and commands by which a `cachecluster-local` that runs is changed: what is asked, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cachecluster_local import commands
from cachecluster_local.api import LocalApi
from cachecluster_local.control_api import Change, control_routes
from cachecluster_local.map_store import MemoryMapStore

pytestmark = pytest.mark.t0


class Asked:
    """A cluster of two nodes that notes what it is asked."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    def status(self) -> dict[str, Any]:
        return {"nodes": 2}

    def change(self, wanted: Change) -> dict[str, Any]:
        nodes = wanted.nodes
        if nodes == 99:
            raise ValueError("nodes: 99 is more than 64")
        engine = None if wanted.engine is None else ("engine", wanted.engine)
        self.log.append(engine or (("evict", nodes) if wanted.evict else (nodes, wanted.paused)))
        return {"nodes": nodes, "paused": wanted.paused, "pending": []}

    def mark_outdated(self, name: str) -> bool:
        self.log.append(("outdated", name))
        return name in ("local-0", "local-1")

    async def delete_node(self, name: str) -> bool:
        self.log.append(("delete", name))
        return name in ("local-0", "local-1")


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
async def url(asked: Asked) -> AsyncIterator[str]:
    api = LocalApi(MemoryMapStore("local"), "127.0.0.1", control_routes(asked))
    await api.start()
    yield api.url
    await api.stop()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"nodes": 99}', "99 is more than 64"),
        ('{"nodes": "5"}', "no whole number"),
        ('{"nodes": true}', "no whole number"),
        ('{"paused": 1}', "no true or false"),
        ('{"engine": 1}', "no text"),
        ('{"node": 5}', "is expected"),
        ("[]", "is expected"),
        ("{", "Expecting"),
    ],
)
async def test_a_wish_that_means_nothing_is_refused(url: str, asked: Asked, body: str, problem: str) -> None:
    async with aiohttp.ClientSession() as session, session.put(url + "/v1/desired", data=body) as answer:
        assert answer.status == 400 and problem in (await answer.json())["error"]
    assert asked.log == []


async def _run(url: str, directory: Path, *arguments: str) -> int:
    state = directory / "state.json"
    state.write_text(json.dumps({"api": url, "nodes": [{"name": "local-0"}, {"name": "local-1"}]}))
    return await asyncio.to_thread(commands.run, [*arguments, "--state-file", str(state)])


@pytest.mark.parametrize(
    ("arguments", "asks"),
    [
        (("scale", "5"), [(5, None)]),
        (("scale", "5", "--evict"), [("evict", 5)]),
        (("pause",), [(None, True)]),
        (("resume",), [(None, False)]),
        (("roll",), [("outdated", "local-0"), ("outdated", "local-1")]),
        (("roll", "local-1"), [("outdated", "local-1")]),
        (("roll", "--engine", "valkey"), [("engine", "valkey")]),
        (("delete", "local-0"), [("delete", "local-0")]),
        (("status",), []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_commands(url: str, asked: Asked, tmp_path: Path, arguments: tuple[str, ...], asks: list[Any]) -> None:
    assert await _run(url, tmp_path, *arguments) == 0
    assert asked.log == asks


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(("scale", "99"), "99 is more than 64"), (("delete", "other"), "no node other"), (("roll", "x"), "no node x")],
)
async def test_commands_that_are_refused_say_why(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    assert await _run(url, tmp_path, *arguments) == 1
    assert problem in capsys.readouterr().err


def test_without_a_running_cluster_commands_fail_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(["scale", "5", "--state-file", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["scale"], ["scale", "five"], ["scale", "5"], ["roll", "--engine", "x"], ["grow"]]
)
def test_bad_flags_exit_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        commands.run(arguments)
    assert stopped.value.code == 64
    assert "usage" in capsys.readouterr().err
