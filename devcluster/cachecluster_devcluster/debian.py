"""The Debian packages that the development cluster and the image build use, and how they get installed."""

import logging
import os
import shutil
import subprocess
from collections.abc import Sequence

log = logging.getLogger(__name__)

CLUSTER = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iproute2",
    "nftables",
    "iptables",
    "conntrack",
    "socat",
    "util-linux",
    "gcc",
    "libc6-dev",
)
IMAGE = ("mmdebstrap", "buildah", "uidmap", "git")
# What tests and cachecluster-local run on the host.
ENGINES = ("s6", "redis-tools")
ALL = (*CLUSTER, *IMAGE, *ENGINES)
# Tests scrape with a real Prometheus and check alert rules with its promtool.
PURPOSES = {
    "local": ENGINES,
    "cluster": ALL,
    "tests": (*ALL, "prometheus"),
    "fuzz": ("clang", "libclang-rt-14-dev"),
}


def missing(packages: Sequence[str] = ALL) -> list[str]:
    """Those of the packages that are not installed. Raises RuntimeError on a system without dpkg."""
    if shutil.which("dpkg-query") is None:
        raise RuntimeError("no dpkg here: the development cluster is built from packages of Debian 12 or later")
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
    )
    installed = {line.split()[0] for line in shown.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in installed]


def install(packages: Sequence[str] = ALL) -> list[str]:
    """Installs what is missing and returns it; apt's own output is the progress. Raises RuntimeError without root."""
    wanted = missing(packages)
    if not wanted:
        return []
    if os.geteuid() != 0:
        raise RuntimeError(f"installing needs root; run: apt-get install {' '.join(wanted)}")
    log.info("installing %s", " ".join(wanted))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *wanted]):
        subprocess.run(["apt-get", *command], check=True, env=environment, stdin=subprocess.DEVNULL)
    return wanted
