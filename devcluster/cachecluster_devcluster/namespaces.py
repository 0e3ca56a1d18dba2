"""One machine of the development cluster (the hub or a node): a process tree in its own namespaces.

Nothing of it has a name on the host: no /run/netns, mounts, links or firewall rules. Its first process is a small
program that waits; when that is killed, the kernel kills everything in the machine and its mounts and network vanish,
which is both a tear-down that cannot be left half done and an honest power failure.
"""

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cachecluster_devcluster import network
from cachecluster_devcluster.processes import Ledger, ProcessError, child

SETUP_SECONDS = 10.0
STOP_SECONDS = 15.0

# Order matters: `make-rshared` earlier would carry the unmount of /run/cg over to /sys/fs/cgroup. The sysctls are of
# the whole host and the kubelet would write them; a file that already holds the wanted value is left alone by it.
# READY is the number of an open pipe; dash cannot name a descriptor of two digits, hence the way over /proc.
_SETUP = r"""set -e
hostname "$NAME"
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/lock /run/netns /run/cg
mount --rbind /sys/fs/cgroup /run/cg; mount -t sysfs sysfs /sys; mount --rbind /run/cg /sys/fs/cgroup
umount -R -l /run/cg; rmdir /run/cg
for d in lib log; do mkdir -p "$FOLDER/var$d"; mount --bind "$FOLDER/var$d" /var/$d; done
mkdir -p "$FOLDER/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
               kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file="$FOLDER/sysctl/$(echo ${setting%%=*} | tr / _)"
    echo "${setting##*=}" >"$file"; mount --bind "$file" /proc/sys/${setting%%=*}
done
[ ! -e "$FOLDER/resolv.conf" ] || mount --bind "$FOLDER/resolv.conf" /etc/resolv.conf
mount --make-rshared /
echo ready >"/proc/self/fd/$READY"; exec "$PAUSE"
"""
_UNSHARE = ["unshare", "-m", "-p", "-u", "-i", "-n", "--fork", "--kill-child=KILL", "--mount-proc"]


class Machine:
    """The hub or one node; `folder` keeps its files, `ledger` its processes."""

    def __init__(self, name: str, folder: Path, ledger: Ledger, pause: Path) -> None:
        self.name = name
        self.folder = folder
        self._ledger = ledger
        self._pause = pause

    @property
    def alive(self) -> bool:
        """Whether the machine runs."""
        return self._ledger.pid(self.name) is not None

    @property
    def init(self) -> int:
        """The pid, as the host sees it, of the machine's first process. Raises ProcessError when it does not run."""
        outer = self._ledger.pid(self.name)
        if outer is None:
            raise ProcessError(f"{self.name} does not run")
        return child(outer)

    def start(self) -> None:
        """Starts the machine: empty but for a loopback device, own /run, /sys, /var/lib and /var/log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "init.log"
        read_end, write_end = os.pipe()
        try:
            environment = {
                "NAME": self.name,
                "FOLDER": str(self.folder),
                "PAUSE": str(self._pause),
                "READY": str(write_end),
            }
            argv = [*_UNSHARE, "--propagation", "private", "sh", "-c", _SETUP]
            self._ledger.spawn(self.name, argv, log, environment, pass_fds=[write_end])
            os.close(write_end)
            write_end = -1
            readable, _, _ = select.select([read_end], [], [], SETUP_SECONDS)
            if not readable or os.read(read_end, 16) != b"ready\n":
                raise ProcessError(f"{self.name} was not set up: {log.read_text()[-2000:]}")
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)

    def kill(self) -> bool:
        """Ends everything in the machine at once, like a power failure; False when it did not run."""
        if not self.alive:
            return False
        init = self.init
        handle = os.pidfd_open(init)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            # The kernel lets go of the machine when every dead component was collected by its nsenter, and one that was
            # stopped along with its child never would; without a parent the child goes to the host's init.
            for name in self._ledger.names():
                if name.startswith(f"{self.name}."):
                    self._ledger.stop(name)
            waiter = select.poll()
            waiter.register(handle, select.POLLIN)
            if not waiter.poll(STOP_SECONDS * 1000):
                raise ProcessError(f"{self.name} (pid {init}) lives {STOP_SECONDS:.0f} s after SIGKILL")
        finally:
            os.close(handle)
        self._ledger.stop(self.name)
        return True

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command line that runs `argv` in all namespaces of the machine (as a child: nsenter forks)."""
        return ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "--", *argv]

    def run(self, argv: Sequence[str], input_text: str | None = None) -> str:
        """Runs a command in the machine and returns what it wrote; raises CalledProcessError with its stderr."""
        return run(self.command(argv), input_text)

    def shell(self, script: str) -> str:
        """Runs a shell script in the machine that ends at the first failure."""
        return self.run(["sh", "-ec", script])

    def spawn(self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Starts a component in the machine; its log is `<name>.log` in the machine's folder."""
        log = self.folder / f"{name}.log"
        self._ledger.spawn(f"{self.name}.{name}", self.command(argv), log, environment)

    def reaches_services(self) -> bool:
        """Whether the machine's kube-proxy leads to the API server's Service."""
        return self.reaches(network.API_SERVICE_ADDRESS, 443)

    def reaches(self, address: str, port: int) -> bool:
        """Whether somebody takes a TCP connection from the machine within a second."""
        target = f"TCP:{address}:{port},connect-timeout=1"
        try:
            self.run(["socat", "-u", "OPEN:/dev/null", target])
        except ProcessError:
            return False
        return True

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Sends a signal to a component; False when it does not run.

        Its nsenter gets it too: that one stops itself when its child is stopped, and then never notices its end.
        """
        outer, pid = self._ledger.pid(f"{self.name}.{name}"), self.component(name)
        if outer is None or pid is None:
            return False
        for each in [outer, pid] if number == signal.SIGCONT else [pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)
        return True

    def component(self, name: str) -> int | None:
        """The pid (of the host) of a component of this machine that lives."""
        outer = self._ledger.pid(f"{self.name}.{name}")
        if outer is None:
            return None
        try:
            return child(outer)
        except ProcessError:
            return None


def run(argv: Sequence[str], input_text: str | None = None) -> str:
    """Runs a command to its end and returns its stdout; the error of a failed one holds its stderr."""
    done = subprocess.run(
        argv, input=input_text, stdin=subprocess.DEVNULL if input_text is None else None, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise ProcessError(
            f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout
