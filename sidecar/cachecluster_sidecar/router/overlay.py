"""What the engines' own COMMAND output does not say: how the router serves each command that it cannot simply forward.

A command that has keys, and no entry here, is forwarded to the partition of its keys. Every command without keys must
have an entry: the generator of the table fails otherwise.
"""

from __future__ import annotations

FAMILIES = {
    "bitmap": "string",
    "generic": "generic",
    "geo": "sorted-set",
    "hash": "hash",
    "hyperloglog": "string",
    "list": "list",
    "pubsub": "pubsub",
    "scripting": "scripting",
    "server": "server",
    "set": "set",
    "sorted-set": "sorted-set",
    "stream": "stream",
    "string": "string",
    "transactions": "transactions",
}
"""What commands are told apart by where they are timed, by the engines' groups: few, for each is a histogram."""

SPLIT = ("mget", "mset", "del", "unlink", "exists", "touch")
"""Commands whose keys may lie in several partitions: split by partition, and the replies merged."""

ALL = (
    "dbsize",
    "flushall",
    "flushdb",
    "function|delete",
    "function|dump",
    "function|flush",
    "function|list",
    "function|load",
    "function|restore",
    "keys",
    "randomkey",
    "script|exists",
    "script|flush",
    "script|load",
)
"""Commands about all keys, or about every engine: sent to every partition, and the replies merged."""

SCAN = ("scan",)
"""Commands that go to one partition after the other, by a cursor."""

MEMBERS = ("hscan", "sscan", "zscan")
"""Commands that go through the members of a key, by a cursor that only the process understands which gave it."""

SLOT = ("cluster|countkeysinslot", "cluster|getkeysinslot")
"""Commands about the keys of one slot: its partition is scanned for them."""

LOCAL = (
    "acl|cat",
    "acl|genpass",
    "acl|whoami",
    "asking",
    "auth",
    "client|capa",
    "client|getname",
    "client|getredir",
    "client|id",
    "client|info",
    "client|kill",
    "client|list",
    "client|no-evict",
    "client|no-touch",
    "client|reply",
    "client|setinfo",
    "client|setname",
    "client|trackinginfo",
    "client|unblock",
    "cluster|info",
    "cluster|keyslot",
    "cluster|links",
    "cluster|myid",
    "cluster|myshardid",
    "cluster|nodes",
    "cluster|replicas",
    "cluster|shards",
    "cluster|slaves",
    "cluster|slots",
    "command",
    "command|count",
    "command|docs",
    "command|getkeys",
    "command|info",
    "command|list",
    "config|get",
    "echo",
    "hello",
    "info",
    "lastsave",
    "lolwut",
    "monitor",
    "ping",
    "quit",
    "readonly",
    "readwrite",
    "reset",
    "role",
    "select",
    "time",
    "unwatch",
)
"""Commands that the router answers itself."""

TRANSACTION = ("multi", "exec", "discard")
"""Commands that begin and end a transaction: what is between them goes to one partition, in one piece."""

LATER = (
    "acl|dryrun",
    "clusterscan",
    "command|getkeysandflags",
    "function",
    "script",
)
"""Commands that a later version serves; a container name stands for all its subcommands."""

PUBSUB = (
    "psubscribe",
    "publish",
    "pubsub|channels",
    "pubsub|numpat",
    "pubsub|numsub",
    "pubsub|shardchannels",
    "pubsub|shardnumsub",
    "punsubscribe",
    "ssubscribe",
    "subscribe",
    "sunsubscribe",
    "unsubscribe",
)
"""Commands about subscriptions, which the router keeps for its clients; SPUBLISH goes where its channel's slot is."""

TRACKING = ("client|caching", "client|tracking")
"""Commands by which a client asks to be told of changes of what it has read."""

WAIT = ("wait",)
"""Commands that ask how many copies have what their client has written."""

WATCH = ("watch",)
"""Commands whose connection to the engine is one client's own until its transaction ends."""

REFUSED = {
    "acl": "users stand in the Secret that spec.auth.secretRef names",
    "bgrewriteaof": "copies live on other pods, not on disk",
    "bgsave": "copies live on other pods, not on disk",
    "client|import-source": "the router's connections are not a client's to change",
    "client|pause": "the router's connections are not a client's to change",
    "client|unpause": "the router's connections are not a client's to change",
    "cluster": "the partitions are managed by the operator; change spec of the CacheCluster",
    "commandlog": "read the engine's metrics from the sidecar's port 9121",
    "config|resetstat": "read the metrics of the sidecar's port 9121",
    "config|rewrite": "change spec.engineConfig of the CacheCluster",
    "config|set": "change spec.engineConfig of the CacheCluster",
    "debug": "it would act on one partition only",
    "failover": "fail-over is the operator's; delete the pod to move its primaries",
    "latency": "read the metrics of the sidecar's port 9121",
    "memory": "it would act on one partition only; read the metrics of the sidecar's port 9121",
    "migrate": "use DUMP and RESTORE",
    "module": "modules are not supported",
    "move": "there is only database 0",
    "pfdebug": "it is for tests of the engine",
    "pfselftest": "it is for tests of the engine",
    "psync": "replication is between the copies of a partition only",
    "replconf": "replication is between the copies of a partition only",
    "replicaof": "replication is managed by the operator; change spec.replicationFactor of the CacheCluster",
    "restore-asking": "use RESTORE",
    "save": "copies live on other pods, not on disk",
    "shutdown": "delete the CacheCluster or its pod",
    "slaveof": "replication is managed by the operator; change spec.replicationFactor of the CacheCluster",
    "slowlog": "read the metrics of the sidecar's port 9121",
    "swapdb": "there is only database 0",
    "sync": "replication is between the copies of a partition only",
    "waitaof": "copies live on other pods, not on disk; use WAIT",
}
"""Commands that are never served, and what to do instead; a container name stands for what is left of it."""

CHECKS = {
    "sort": "sort_patterns",
    "sort_ro": "sort_patterns",
}
"""Commands that are served for some arguments only: the function of checks.py that looks at them."""

STORE_AFTER_2: dict[str, object] = {"keyword": "STORE", "from": 2, "last": 0, "step": 1, "limit": 0}

EXTRA_KEYS = {"sort": [STORE_AFTER_2]}
"""Key positions that the engine calls unknown."""

PRIMARY_ONLY = (
    "eval_ro",
    "evalsha_ro",
    "fcall_ro",
    "memory|usage",
    "object|encoding",
    "object|freq",
    "object|idletime",
    "object|refcount",
    "pfcount",
    "touch",
    "xread",
)
"""Commands that only read, and yet go to the primary whatever `spec.reads` says: they may run what is only there, ask
for what is of one copy, change what is no data, or wait."""

READS = (
    "eval_ro",
    "evalsha_ro",
    "fcall_ro",
    "function|dump",
    "function|list",
    "script|exists",
    "script|load",
)
"""Commands that only read though the engine does not flag them `readonly`."""
