"""The command table's files: what the router routes by, and what it answers to COMMAND."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

ROUTING_FILE = "commands.json"
DOCS_FILE = "command_docs.json"


def load_commands() -> list[dict[str, Any]]:
    """The entries of commands.json, in its order."""
    return _load(ROUTING_FILE)


def load_docs() -> dict[str, dict[str, Any]]:
    """The entries of command_docs.json by name. They are large and rarely wanted: nobody should keep them."""
    return {entry["name"]: entry for entry in _load(DOCS_FILE)}


def _load(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((files(__package__) / name).read_text())
    return entries


@cache
def command_names(engine: str) -> tuple[str, ...]:
    """The names of an engine's commands, without subcommands."""
    return tuple(name for name, entry in load_docs().items() if "|" not in name and engine in entry["engines"])
