"""The state folder of one development cluster: what is decided once, where files lie, and who may change it.

Everything that could collide with another cluster on the machine follows from the folder's path or is chosen free: the
API's port on 127.0.0.1 and the name of the control groups. Addresses do not count, they live in network namespaces.
"""

import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cachecluster_devcluster import cache
from cachecluster_devcluster.processes import start_time

# A machine has its own of these, so that a state folder beneath one would vanish from inside it.
HIDDEN_IN_MACHINES = ("/run", "/var/run", "/sys", "/proc", "/dev", "/var/lib", "/var/log")


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for the life of a cluster; `owner` is pid and start time of a process that it shall not outlive."""

    nodes: int
    api_port: int
    owner: tuple[int, int] | None = None
    complete: bool = False

    @property
    def orphaned(self) -> bool:
        """Whether the cluster had an owner and that one is gone."""
        return self.owner is not None and start_time(self.owner[0]) != self.owner[1]


class State:
    """One state folder; raises ValueError for a place that cannot serve."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        for hidden in HIDDEN_IN_MACHINES:
            if self.folder.is_relative_to(hidden):
                raise ValueError(f"state folder {self.folder}: nodes have their own {hidden}; choose another place")
        self._file = self.folder / "cluster.json"
        self._away = self.folder / "api-was-away"
        self.key = cache.digest([str(self.folder)])[:8]

    @property
    def cgroup_root(self) -> str:
        """The control group of all nodes of this cluster."""
        return f"devcluster-{self.key}"

    @property
    def api_was_away(self) -> bool:
        """Whether parts of the cluster may still wait before they ask the API server again."""
        return self._away.exists()

    @api_was_away.setter
    def api_was_away(self, away: bool) -> None:
        if away:
            self._away.touch()
        else:
            self._away.unlink(missing_ok=True)

    @property
    def pki(self) -> Path:
        """The folder of certificates and kubeconfigs."""
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for processes of the host."""
        return self.pki / "host.kubeconfig"

    def read(self) -> Settings | None:
        """The settings, or None when no cluster was begun here (or its launcher died before it wrote them)."""
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return None
        owner = found["owner"]
        return Settings(found["nodes"], found["api_port"], tuple(owner) if owner else None, found["complete"])

    def write(self, settings: Settings) -> None:
        """Keeps the settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(dataclasses.asdict(settings), indent=1))
        fresh.rename(self._file)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other launchers of the same cluster out; the kernel frees the lock when the holder dies."""
        with cache.locked(cache.cache_root() / "locks" / self.key):
            yield


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def this_process() -> tuple[int, int]:
    """Pid and start time of the calling process, for Settings.owner."""
    pid = os.getpid()
    started = start_time(pid)
    assert started is not None
    return pid, started
