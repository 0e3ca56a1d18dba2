"""The figures of `make bench-router` as tables for people, on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

RATIOS = ("cpu / twemproxy", "cpu / envoy", "cpu / direct", "cpu / uncounted", "95 %")
COLUMNS = ("cpu us", *RATIOS, "requests/s", "requests/s / 1 worker", "p50 us", "p99 us", "p99.9 us")
RATE_COLUMNS = ("cpu us", "requests/s", "p50 us", "p99 us", "p99.9 us", "p99 us added")
HOSTILE_COLUMNS = ("requests/s", "p50 us", "p50 us added", "p99 us", "p99 us added")


def _write(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table with a line for each row, whose first cell is its name."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    sys.stdout.write("\n".join([f"\n{title}", *lines]) + "\n")
    sys.stdout.flush()


def write_closed(title: str, figures: dict[str, Any]) -> None:
    """One load: a line for each subject, with the ratios that there are, and what went wrong."""
    columns = [column for column in COLUMNS if any(column in seen for seen in figures.values())]
    _write(
        title, ("", *columns), [(name, *(seen.get(column, "") for column in columns)) for name, seen in figures.items()]
    )
    for name, seen in figures.items():
        if "errors" in seen:
            sys.stdout.write(f"{name}: {seen['errors']} errors, the first: {seen['first error']}\n")


def write_open(engine: str, figures: dict[str, Any]) -> None:
    """Latencies at each fixed rate, and the highest rates."""
    for title, seen in figures.items():
        columns = ("requests/s", "by round") if title.startswith("highest") else RATE_COLUMNS
        rows = [(name, *(found.get(column, "") for column in columns)) for name, found in seen.items()]
        _write(f"{engine}, open, {title}", ("", *columns), rows)


def write_memory(engine: str, figures: dict[str, Any], clients: Iterable[int]) -> None:
    """Resident memory of all processes of each subject."""
    columns = ("before", *(f"{number} clients" for number in clients), "after")
    rows = [(name, *(seen.get(column, "") for column in columns)) for name, seen in figures.items()]
    _write(f"{engine}, resident memory, KiB", ("", *columns), rows)


def write_hostile(engine: str, kind: str, figures: dict[str, Any]) -> None:
    """What the others were given beside a client of this kind."""
    rows = [(name, *(seen.get(column, "") for column in HOSTILE_COLUMNS)) for name, seen in figures.items()]
    _write(f"{engine}, beside a hostile client: {kind}", ("", *HOSTILE_COLUMNS), rows)
