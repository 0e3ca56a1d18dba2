"""The allow-list of engine settings that `spec.engineConfig` may set, with their types, bounds and defaults.

On it is what both engines accept by CONFIG SET on a running process, and what neither the protocol, the memory sizing
nor the routers depend on. A setting that a user takes out of the spec goes back to the default given here, which is
why all of them are always applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Value = int | bool | str
FLAGS = r"^[KEg$lshzxetdmnA]*$"


@dataclass(frozen=True, slots=True)
class EngineSetting:
    """One setting: whole number within bounds, yes/no (`default` is a bool), or text that matches `pattern`."""

    default: Value
    text: str
    minimum: int = 0
    maximum: int = 2**31 - 1
    pattern: str = ""

    def schema(self) -> dict[str, Any]:
        """The OpenAPI schema of the value. No default stands there: a stored object keeps to what its user wrote."""
        described = {"description": f"{self.text} Default: {to_text(self.default) or 'empty'}."}
        if isinstance(self.default, bool):
            return {"type": "boolean", **described}
        if isinstance(self.default, int):
            return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum, **described}
        return {"type": "string", "pattern": self.pattern, "maxLength": 32, **described}

    def reject_reason(self, value: Value) -> str | None:
        """Why a value may not be set, None when it may."""
        if isinstance(self.default, bool):
            return None if isinstance(value, bool) else "must be yes or no (without quotes)"
        if isinstance(self.default, int):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if whole and self.minimum <= int(value) <= self.maximum:
                return None
            return f"must be a whole number between {self.minimum} and {self.maximum}"
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return None
        return f"must be text that matches {self.pattern}"


SETTINGS: dict[str, EngineSetting] = {
    "maxmemory-samples": EngineSetting(
        5, "Keys looked at to find one to evict: more is nearer to true LRU or LFU and costs CPU.", 1, 64
    ),
    "maxmemory-eviction-tenacity": EngineSetting(
        10, "How long a command may evict before it goes on: 0 is least latency, 100 is without limit.", 0, 100
    ),
    "lfu-log-factor": EngineSetting(10, "How slowly the LFU counter of a key saturates.", 0, 10000),
    "lfu-decay-time": EngineSetting(1, "Minutes after which the LFU counter of an idle key is lowered.", 0, 100000),
    "active-expire-effort": EngineSetting(1, "Effort to remove expired keys that nobody reads, 1 to 10.", 1, 10),
    "hz": EngineSetting(10, "Background rounds per second (expiry, client time-outs).", 1, 100),
    "activerehashing": EngineSetting(True, "Use 1 ms of CPU in 100 ms to rehash the main dictionary."),
    "lazyfree-lazy-eviction": EngineSetting(True, "Free the memory of evicted keys in a background thread."),
    "lazyfree-lazy-expire": EngineSetting(True, "Free the memory of expired keys in a background thread."),
    "lazyfree-lazy-server-del": EngineSetting(True, "Free overwritten values in a background thread."),
    "lazyfree-lazy-user-del": EngineSetting(True, "Let DEL behave like UNLINK."),
    "lazyfree-lazy-user-flush": EngineSetting(True, "Let FLUSHALL and FLUSHDB be asynchronous by default."),
    "slowlog-log-slower-than": EngineSetting(
        10000, "Microseconds from which a command enters the slow log; -1 turns it off.", -1
    ),
    "slowlog-max-len": EngineSetting(128, "Entries that the slow log of one copy keeps.", 0, 10000),
    "latency-monitor-threshold": EngineSetting(0, "Milliseconds from which latency events are kept; 0 is off."),
    "latency-tracking": EngineSetting(True, "Keep latency percentiles per command in the engine."),
    "notify-keyspace-events": EngineSetting("", "Keyspace notifications, by the engine's letters.", pattern=FLAGS),
    "busy-reply-threshold": EngineSetting(
        5000, "Milliseconds after which a running script answers others with BUSY.", 1, 3600000
    ),
    "hash-max-listpack-entries": EngineSetting(512, "Fields up to which a hash is kept compact.", 0, 1048576),
    "hash-max-listpack-value": EngineSetting(64, "Bytes of a field up to which a hash is kept compact.", 0, 1048576),
    "list-max-listpack-size": EngineSetting(
        -2, "Entries of a list node, or as -1 to -5 its size of 4, 8, 16, 32 or 64 KiB.", -5, 1048576
    ),
    "list-compress-depth": EngineSetting(0, "List nodes at each end that are not compressed; 0 is off.", 0, 65535),
    "set-max-intset-entries": EngineSetting(512, "Integers up to which a set is kept compact.", 0, 1048576),
    "zset-max-listpack-entries": EngineSetting(128, "Members up to which a sorted set is kept compact.", 0, 1048576),
    "zset-max-listpack-value": EngineSetting(
        64, "Bytes of a member up to which a sorted set is kept compact.", 0, 1048576
    ),
    "hll-sparse-max-bytes": EngineSetting(3000, "Bytes up to which a HyperLogLog is kept sparse.", 0, 16000),
    "stream-node-max-bytes": EngineSetting(4096, "Bytes of a node of a stream; 0 is without limit.", 0, 1 << 30),
    "stream-node-max-entries": EngineSetting(100, "Entries of a node of a stream; 0 is without limit.", 0, 1 << 20),
}


def to_text(value: Value) -> str:
    """A value as CONFIG SET wants it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def reject_reasons(values: dict[str, Value]) -> dict[str, str]:
    """Why settings may not be set, by name; empty when all may."""
    reasons = {}
    for name, value in values.items():
        setting = SETTINGS.get(name)
        reason = setting.reject_reason(value) if setting else "is not on the list of settings that can be changed"
        if reason is not None:
            reasons[name] = reason
    return reasons


def complete(values: dict[str, Value]) -> dict[str, str]:
    """Every setting of the list as text for CONFIG SET: the given values, defaults for the rest."""
    return {name: to_text(values.get(name, setting.default)) for name, setting in SETTINGS.items()}
