"""The commands that change a `cachecluster-local` that runs, by its state file: scale, roll, delete, pause, status."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cachecluster_core.usage import UsageParser

from .engines import ENGINES

COMMANDS = ("scale", "roll", "delete", "pause", "resume", "status")
EXIT_FAILED = 1
TIMEOUT_S = 10.0


def _parser() -> argparse.ArgumentParser:
    parser = UsageParser(prog="cachecluster-local", description="Changes a cachecluster-local that runs.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--state-file", type=Path, required=True, help="the one that the running command was given")
        return added

    scale = command("scale", "change the number of nodes")
    scale.add_argument("nodes", type=int, help="nodes that are wanted")
    scale.add_argument("--evict", action="store_true", help="also if keys must be evicted for it; otherwise refused")
    roll = command("roll", "replace nodes one at a time, emptied first")
    roll.add_argument("names", nargs="*", metavar="NODE", help="names such as local-0 (default: all)")
    roll.add_argument("--engine", choices=ENGINES, help="to this engine: from redis to valkey")
    command("delete", "end a node in order; another takes its place").add_argument("names", nargs=1, metavar="NODE")
    command("pause", "hold back planned changes; fail-over goes on")
    command("resume", "make planned changes again")
    command("status", "the status that a CacheCluster would have, as JSON")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. SystemExit 64 on bad flags."""
    flags = _parser().parse_args(arguments)
    try:
        state = json.loads(flags.state_file.read_text())
        answer = _perform(flags, state["api"], [node["name"] for node in state["nodes"]])
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"cachecluster-local {flags.command}: {_text(error)}\n")
        return EXIT_FAILED
    sys.stdout.write(json.dumps(answer, indent=1) + "\n" if answer else "")
    return 0


def _perform(flags: argparse.Namespace, api: str, nodes: list[str]) -> Any:
    match flags.command:
        case "scale":
            return _ask(api, "PUT", "/v1/desired", {"nodes": flags.nodes, "evict": flags.evict})
        case "pause" | "resume":
            return _ask(api, "PUT", "/v1/desired", {"paused": flags.command == "pause"})
        case "roll" if flags.engine and flags.names:
            raise ValueError("roll --engine rolls every node: name none")
        case "roll" if flags.engine:
            return _ask(api, "PUT", "/v1/desired", {"engine": flags.engine})
        case "roll":
            for name in flags.names or nodes:
                _ask(api, "POST", f"/v1/nodes/{name}/outdated")
        case "delete":
            _ask(api, "DELETE", f"/v1/nodes/{flags.names[0]}")
        case "status":
            return _ask(api, "GET", "/v1/status")
    return None


def _ask(api: str, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(api + path, data, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def _text(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        with error:
            return str(json.load(error).get("error", error))
    return str(error)
