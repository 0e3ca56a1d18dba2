"""The control groups under which the kubelets of one development cluster put their pods.

Each node has its own root in every hierarchy; the kubelet demands that it exists before it starts. Version 1 (also
"hybrid") and version 2 layouts; version 1 is the one that is tested.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

MOUNT = Path("/sys/fs/cgroup")
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
REMOVE_SECONDS = 3.0


def make(name: str) -> None:
    """Makes a group, e.g. `devcluster-1a2b/n1`, in every hierarchy."""
    if (MOUNT / "cgroup.controllers").exists():
        _make_v2(name)
        return
    for hierarchy in _v1_hierarchies():
        group = hierarchy
        for part in Path(name).parts:
            parent, group = group, group / part
            group.mkdir(exist_ok=True)
            if hierarchy.name == "cpuset":  # a new cpuset is empty and would take no process
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    if not (group / setting).read_text().strip():
                        (group / setting).write_text((parent / setting).read_text())


def _make_v2(name: str) -> None:
    group = MOUNT
    for part in Path(name).parts:
        available = (group / "cgroup.controllers").read_text().split()
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in V2_CONTROLLERS if c in available))
        group /= part
        group.mkdir(exist_ok=True)


def remove(name: str) -> None:
    """Removes a group with all beneath it from every hierarchy; its processes must have ended."""
    for hierarchy in _all_hierarchies():
        root = hierarchy / name
        if root.is_dir():
            for group in [*sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True), root]:
                _remove_one(group)


def freezer(name: str) -> Path:
    """The folder of a group in the hierarchy that can freeze it."""
    return (MOUNT / "freezer" if (MOUNT / "freezer").is_dir() else MOUNT) / name


def thaw(name: str) -> None:
    """Lets everything go on that stands still in a group and beneath it: what is frozen cannot even be killed."""
    for state in freezer(name).glob("**/freezer.state"):
        with suppress(OSError):  # gone meanwhile, or the root of a hierarchy
            state.write_text("THAWED")


def _remove_one(group: Path) -> None:
    deadline = time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as busy:  # the kernel still counts the processes that just died
            if time.monotonic() > deadline:
                log.warning("control group %s stays: %s", group, busy)
                return
            time.sleep(0.02)


def _v1_hierarchies() -> Iterator[Path]:
    yield from (path for path in _all_hierarchies() if path.name != "unified")


def _all_hierarchies() -> Iterator[Path]:
    """Every mounted hierarchy; "unified" is the version 2 part of a hybrid layout, where runc leaves folders too."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4])
        if after.split()[0] in ("cgroup", "cgroup2") and MOUNT in (point, point.parent):
            yield point
