"""Documents that are made from the code, or show what it computes, say what it says now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cachecluster_core.quantity import GIB, MIB, format_bytes, parse_bytes
from cachecluster_core.sizing import engine_limit, engine_request, size_copies
from cachecluster_operator.write_reference import main, reference
from cachecluster_sidecar.router import write_commands

pytestmark = pytest.mark.t0


def test_reference_of_the_fields() -> None:
    assert Path("docs/reference.md").read_text() == reference(), "run `make crds`"


def test_writer_of_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 64
    assert "usage" in capsys.readouterr().err
    assert main([str(tmp_path / "reference.md")]) == 0
    assert (tmp_path / "reference.md").read_text() == reference()


def test_commands_and_how_they_are_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Path("docs/commands.md").read_text() == write_commands.commands(), "run `make commands`"
    assert write_commands.main([]) == 64 and "usage" in capsys.readouterr().err
    assert write_commands.main([str(tmp_path / "commands.md")]) == 0
    assert (tmp_path / "commands.md").read_text() == write_commands.commands()


def _shown(count: int) -> str:
    return f"{count / MIB:.3g} MiB" if count < 1000 * MIB else f"{count / GIB:.3g} GiB"


def test_table_of_memory() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| \d+.*$", Path("docs/memory.md").read_text(), re.MULTILINE)
    ]
    assert len(rows) == 9
    for memory, nodes, *figures in rows:
        count = parse_bytes(memory)
        sizing = size_copies(count, 16, 2, int(nodes))
        limits = [format_bytes(engine_request(count, 16)), format_bytes(engine_limit(count, 16, 2))]
        assert figures == [_shown(sizing.usable), _shown(sizing.share), _shown(sizing.maxmemory), *limits]


def test_guarantees_name_tests_that_are_there() -> None:
    rows = [line for line in Path("docs/guarantees.md").read_text().splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`([\w/]+\.py)`", row.rsplit("|", 2)[1]) for row in rows]
    assert all(named) and all(Path("tests", name).is_file() for names in named for name in names)
