"""Where things that are dear to make are kept between runs: one folder a kind and key, filled by one maker at a time.

The cache lies outside the checkout, so that a fresh clone finds it warm. A key names everything that the result
depends on; an entry is never changed after it was made, and nothing here removes one.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def cache_root() -> Path:
    """The cache folder of this user: `$XDG_CACHE_HOME/cachecluster`, or `~/.cache/cachecluster`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cachecluster"


def digest(parts: Iterable[bytes | str]) -> str:
    """16 hex digits over parts; the length of each counts, so that a shifted border gives another key."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(f"{len(data)}:".encode() + data)
    return total.hexdigest()[:16]


def entry(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of one cache entry, made by `make(empty folder)` when it is not there.

    Another process that makes the same entry is waited for. A maker that fails leaves nothing behind.
    """
    folder = cache_root() / kind / key
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(key + ".lock")):
        if not folder.is_dir():
            fresh = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
            try:
                fresh.chmod(0o755)
                make(fresh)
                fresh.rename(folder)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock of a file (made when missing); the kernel frees it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
