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


@cache
def _doc_lines() -> dict[str, bytes]:
    """The entries of command_docs.json by name, as they stand in the file: parsed they would be large."""
    lines = [line.rstrip(b",") for line in _read(DOCS_FILE).splitlines()[1:-1]]
    return {json.loads(line)["name"]: line for line in lines}


def is_known(name: str) -> bool:
    """Whether either engine has this command (`container|subcommand` for a subcommand)."""
    return name in _doc_lines()


def load_doc(name: str) -> dict[str, Any]:
    """The entry of command_docs.json for one command. KeyError when there is none."""
    entry: dict[str, Any] = json.loads(_doc_lines()[name])
    return entry


def _load(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(_read(name))
    return entries


def _read(name: str) -> bytes:
    return (files(__package__) / name).read_bytes()


def load_docs() -> dict[str, dict[str, Any]]:
    """All entries of command_docs.json by name. For tests and tools: they are large."""
    return {name: load_doc(name) for name in _doc_lines()}


@cache
def command_names(engine: str) -> tuple[str, ...]:
    """The names of an engine's commands, without subcommands."""
    return tuple(name for name in _doc_lines() if "|" not in name and engine in load_doc(name)["engines"])
