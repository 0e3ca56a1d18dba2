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

`master_replid` names the history that the offset counts in, of primary and replica alike: a seal keeps it, a promotion
begins another, which replicas take over with their next link. `master_repl_offset` keeps its old value after a load was
cut short: it must not be used for a replica.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cachecluster_core.agent_view import Attached
from cachecluster_core.hashring import CopyId

SECTIONS = ("INFO", "replication", "persistence", "memory", "keyspace")
STATE_SECTIONS = SECTIONS[:3]
"""Without the figures for people, which cost the engine more than the rest."""

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
    replid: str
    used_memory: int
    keys: int
    link_silence_s: int = -1

    @property
    def settled(self) -> bool:
        """Nothing is on its way: looking again soon would show nothing new. A sealed copy waits for nothing."""
        if self.source is None:
            return all(replica.online for replica in self.attached)
        return self.link_up or self.source[1] == 1

    @property
    def awaits_link(self) -> bool:
        """It follows a real primary, and neither has a link to it nor is one being made for a full resync."""
        return self.source is not None and self.source[1] != 1 and not self.link_up and not self.syncing


def parse_info(info: bytes, before: Observation | None = None) -> Observation:
    """The observation in an INFO reply; memory and keys are those of `before` when it has no such sections.
    ValueError when a needed field is missing or malformed.

    Fields are searched one by one: splitting a reply of a hundred lines costs five times as much.
    """
    replica = _field(info, b"role") == b"slave"
    source = (_field(info, b"master_host").decode(), int(_field(info, b"master_port"))) if replica else None
    offset = int(_field(info, b"slave_repl_offset" if replica else b"master_repl_offset"))
    loading = _field(info, b"loading") == b"1" or _field(info, b"async_loading", b"0") == b"1"
    used_memory = int(_field(info, b"used_memory", b"-1"))
    figures = (before.used_memory, before.keys) if used_memory < 0 and before is not None else None
    return Observation(
        source=source,
        link_up=replica and _field(info, b"master_link_status") == b"up",
        syncing=loading or (replica and _field(info, b"master_sync_in_progress") == b"1"),
        has_stream=replica and offset != _NO_STREAM,
        offset=offset,
        attached=tuple(_all_attached(info)),
        replid=_field(info, b"master_replid").decode(),
        used_memory=max(0, used_memory) if figures is None else figures[0],
        keys=_keys(_field(info, b"db0", b"")) if figures is None else figures[1],
        link_silence_s=int(_field(info, b"master_last_io_seconds_ago", b"-1")),
    )


def _field(info: bytes, name: bytes, default: bytes | None = None) -> bytes:
    begin = info.find(b"\n%b:" % name)
    if begin < 0:
        if default is None:
            raise ValueError(f"INFO has no field {name.decode()}")
        return default
    begin += len(name) + 2
    end = info.find(b"\r", begin)
    return info[begin:end] if end >= 0 else info[begin:]


def _all_attached(info: bytes) -> Iterator[Attached]:
    """Replicas are listed as slave0, slave1, ... without a gap."""
    for number in range(int(_field(info, b"connected_slaves", b"0"))):
        line = _field(info, b"slave%d" % number, b"")
        if line:
            yield _attached(line)


def _attached(line: bytes) -> Attached:
    """`ip=<announced>,port=..,state=online,offset=..,lag=..[,type=replica]`; old engines leave out nothing we need."""
    values = dict(item.partition(b"=")[::2] for item in line.split(b","))
    if not {b"ip", b"state", b"offset"} <= values.keys():
        raise ValueError(f"not a replica's line: {line!r}")
    copy: CopyId | None
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
