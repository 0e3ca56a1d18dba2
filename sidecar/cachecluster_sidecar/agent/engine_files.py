"""The files that an engine runs by: its configuration, the users, the service's run script. Pure texts, no I/O.

Passwords stand in the configuration file and (hashed) in the ACL file, both 0600; never in arguments.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Settings of how the processes of a pod work together: nobody else may set them.
_OWN = """\
daemonize no
logfile ""
databases 1
protected-mode yes
unixsocketperm 700
tcp-backlog 128
tcp-keepalive 5
timeout 0
io-threads 1
replicaof 127.0.0.1 1
masteruser repl
save ""
appendonly no
rdb-del-sync-files yes
stop-writes-on-bgsave-error no
repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-diskless-load on-empty-db
repl-timeout 6
repl-ping-replica-period 1
repl-backlog-ttl 0
replica-read-only yes
replica-serve-stale-data yes
client-output-buffer-limit replica 64mb 32mb 10
"""

_GATE_COMMANDS = (
    "+@all -@admin -@dangerous +sort +sort_ro +restore +keys +flushall +flushdb +info +role +client|unblock"
)


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """Where the files of one pod's engines are; contract between the two containers of a pod."""

    run_dir: Path
    data_dir: Path

    @property
    def scan_dir(self) -> Path:
        """The scan directory of s6-svscan."""
        return self.run_dir / "scan"

    @property
    def acl(self) -> Path:
        """The ACL file, one for all engines of the pod."""
        return self.run_dir / "conf" / "users.acl"

    def service(self, partition: int) -> Path:
        """The s6 service directory of a copy."""
        return self.scan_dir / f"p{partition}"

    def socket(self, partition: int) -> Path:
        """The unix socket of a copy."""
        return self.run_dir / "sock" / f"p{partition}.sock"

    def config(self, partition: int) -> Path:
        """The configuration file of a copy."""
        return self.run_dir / "conf" / f"p{partition}.conf"

    def data(self, partition: int) -> Path:
        """The working directory of a copy."""
        return self.data_dir / f"p{partition}"


def acl_text(passwords: Mapping[str, str]) -> str:
    """The ACL file: `default` off, and the users repl, gate and agent with the SHA-256 of their passwords."""
    digest = {user: hashlib.sha256(password.encode()).hexdigest() for user, password in passwords.items()}
    return (
        "user default off resetchannels -@all\n"
        f"user repl on #{digest['repl']} resetchannels -@all +psync +replconf +ping\n"
        f"user gate on #{digest['gate']} ~* &* {_GATE_COMMANDS}\n"
        f"user agent on #{digest['agent']} ~* &* +@all\n"
    )


def config_text(
    files: EngineFiles, partition: int, host: str, port: int, repl_password: str, settings: Mapping[str, str]
) -> str:
    """The configuration of a new copy. `settings` are those of the map; of one that stands here too, they lose."""
    own = _OWN + (
        f"port {port}\n"
        f"bind {host}\n"
        f"dir {quoted(str(files.data(partition)))}\n"
        f"unixsocket {quoted(str(files.socket(partition)))}\n"
        f"aclfile {quoted(str(files.acl))}\n"
        f"masterauth {quoted(repl_password)}\n"
    )
    taken = {line.split(" ", 1)[0] for line in own.splitlines()} - {"client-output-buffer-limit"}
    chosen = [f"{name} {_value(value)}\n" for name, value in sorted(settings.items()) if name not in taken]
    return own + "".join(chosen)


def run_script(files: EngineFiles, partition: int, binary: str) -> str:
    """The service's run script. It empties the working directory first: a copy never starts with old data (A0)."""
    data, config = shlex.quote(str(files.data(partition))), shlex.quote(str(files.config(partition)))
    return (
        "#!/bin/sh\n"
        "exec 2>&1\n"
        f"mkdir -p {data} && cd {data} && rm -f -- ./*.rdb || exit 1\n"
        f"exec {shlex.quote(binary)} {config}\n"
    )


def quoted(value: str) -> str:
    """A value as a double-quoted word of an engine's configuration file."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _value(value: str) -> str:
    """Settings of several words stay words; an empty one needs its quotes."""
    return " ".join(quoted(word) for word in value.split()) or '""'
