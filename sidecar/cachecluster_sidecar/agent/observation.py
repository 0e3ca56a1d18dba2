"""What one `INFO replication persistence memory keyspace` of an engine says, as values. Pure; knows no sockets.

One INFO is one command, so all its fields are of one instant. What Redis 7.0.15 and Valkey 9.1.2 were seen to print
as `slave_repl_offset` (the same on both; `tests/unit/test_engine_replication_fields.py` holds them to it):

- a fresh replica, one whose load of a full resync has begun, and one whose load was cut short: 1. The engine starts
  the figure at 1 and overwrites it from its live or cached primary; there is none. No stream can end at 1, because a
  replicated command is longer than one byte, so 1 says exactly "no stream".
- link up: the offset applied, 0 before the first byte of a primary that never had a replica.
- link lost, primary dead, primary answering -NOMASTERLINK, sealed by `REPLICAOF 127.0.0.1 1`: the offset of the cached
  primary, unchanged. The same while a full resync is being prepared or transferred to disk: the data is still whole.
- a former primary that was sealed: its own `master_repl_offset`, 0 when it never had a replica; its replicas stay
  attached and are still listed.

`master_repl_offset` keeps its old value after a load was cut short: it must not be used for a replica.
"""

from __future__ import annotations

from dataclasses import dataclass

from cachecluster_core.agent_view import Attached
from cachecluster_core.hashring import CopyId

SECTIONS = ("INFO", "replication", "persistence", "memory", "keyspace")

_NO_STREAM = 1


@dataclass(frozen=True, slots=True)
class Observation:
    """The replication state of an engine at one instant; the fields are those of `CopyView`."""

    source: tuple[str, int] | None
    link_up: bool
    syncing: bool
    has_stream: bool
    offset: int
    attached: tuple[Attached, ...]
    used_memory: int
    keys: int

    @property
    def settled(self) -> bool:
        """Nothing is on its way: looking again soon would show nothing new. A sealed copy waits for nothing."""
        if self.source is None:
            return all(replica.online for replica in self.attached)
        return self.link_up or self.source[1] == 1


def parse_info(info: bytes) -> Observation:
    """The observation in an INFO reply. ValueError when a needed field is missing or malformed."""
    fields = {name: value for name, _, value in (line.partition(b":") for line in info.split(b"\r\n")) if value}
    try:
        replica = fields[b"role"] == b"slave"
        source = (fields[b"master_host"].decode(), int(fields[b"master_port"])) if replica else None
        offset = int(fields[b"slave_repl_offset" if replica else b"master_repl_offset"])
        loading = fields[b"loading"] == b"1" or fields.get(b"async_loading") == b"1"
        return Observation(
            source=source,
            link_up=replica and fields[b"master_link_status"] == b"up",
            syncing=loading or (replica and fields[b"master_sync_in_progress"] == b"1"),
            has_stream=replica and offset != _NO_STREAM,
            offset=offset,
            attached=tuple(_attached(fields[name]) for name in fields if _is_replica_line(name)),
            used_memory=int(fields[b"used_memory"]),
            keys=_keys(fields.get(b"db0", b"")),
        )
    except KeyError as error:
        raise ValueError(f"INFO has no field {error}") from error


def _is_replica_line(name: bytes) -> bool:
    return name.startswith(b"slave") and name[5:].isdigit()


def _attached(line: bytes) -> Attached:
    """`ip=<announced>,port=..,state=online,offset=..,lag=..[,type=replica]`; old engines leave out nothing we need."""
    values = dict(item.partition(b"=")[::2] for item in line.split(b","))
    try:
        copy = CopyId.parse(values[b"ip"].decode())
    except ValueError:
        copy = None
    if copy is not None and copy.run_id.isdigit():
        copy = None  # a plain IPv4 address: a replica that announces no copy id
    return Attached(copy, values[b"state"] == b"online", int(values[b"offset"]))


def _keys(line: bytes) -> int:
    """`keys=12,expires=0,avg_ttl=0`; the line is missing while the database is empty."""
    return int(line.partition(b"keys=")[2].partition(b",")[0] or 0)
