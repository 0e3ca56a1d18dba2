"""The engine is the oracle: the same commands straight to it and through the router get the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.router_conversation import Conversation, conversation
from tests.unit.router_support import ENGINES, GATE_PASSWORD, Cluster, running_cluster

pytestmark = pytest.mark.t1

# `K` becomes a key of the partition under test; `{K}x` others of its slot.
SCRIPT = """
MULTI
SET K 1
INCR K
LPUSH K x
MGET K {K}none
PING
ECHO x
EXEC
MULTI
INCR K
INCR K K
INCR K
EXEC
GET K
WATCH K {K}w
GET K
MULTI
INCR K
EXEC
WATCH K
INCR K
MULTI
INCR K
EXEC
GET K
WATCH K
UNWATCH
INCR K
MULTI
INCR K
UNWATCH
EXEC
WATCH K
WATCH {K}w
DISCARD
MULTI
INCR K
DISCARD
WATCH K
MULTI
EXEC
MULTI
DEL K
DISCARD
EXEC
DISCARD
MULTI
EXEC
MULTI
DEL K
EXEC
SET K hello
GET K
GET {K}none
SET K world NX
SET K world XX GET
APPEND K !
STRLEN K
GETRANGE K 0 2
SETRANGE K 2 XX
GETDEL K
INCR K
INCRBY K 41
INCRBYFLOAT K 0.5
INCR K
TYPE K
EXPIRE K 1000
PERSIST K
TTL K
OBJECT ENCODING K
OBJECT REFCOUNT K
MEMORY USAGE {K}none
DUMP K
DEL K
LPUSH K a b c
LRANGE K 0 -1
LPOS K b
LINSERT K BEFORE b x
LMOVE K {K}2 LEFT RIGHT
RPOPLPUSH K {K}2
LMPOP 2 {K}none K LEFT COUNT 2
GET K
GET {K}2
RPUSH {K}b 1 2 3 4 5 6
BLPOP {K}none {K}b 1
BRPOP {K}b 0
BLMOVE {K}b {K}c LEFT RIGHT 0
BRPOPLPUSH {K}b {K}c 0.5
BLMPOP 0 2 {K}none {K}c LEFT COUNT 2
BLPOP {K}none 0.01
BLMOVE {K}none {K}c LEFT RIGHT 0.01
BZPOPMIN {K}none 0.01
BLPOP {K}b nonsense
BLPOP {K}b -1
BLMPOP 0.01 0 {K}b LEFT
SET {K}c x
BLPOP {K}c 1
DEL {K}c
MULTI
BLPOP {K}none 0
EXEC
SORT {K}2 ALPHA
SORT_RO {K}2 BY nosort
SORT {K}2 ALPHA STORE {K}3
SORT {K}2 NONSENSE
HSET K f 1
HSET {K}h f 1 g 2
HGETALL {K}h
HMGET {K}h f none g
HINCRBYFLOAT {K}h f 1.5
HRANDFIELD {K}none
HSCAN {K}h 0
SADD {K}s a
SADD {K}t a b
SMEMBERS {K}s
SISMEMBER {K}s a
SMISMEMBER {K}s a b
SINTER {K}s {K}t
SDIFFSTORE {K}u {K}t {K}s
SINTERCARD 2 {K}s {K}t
SINTERCARD 0 {K}s
SPOP {K}u
ZADD {K}z 1 a 2.5 b inf c
ZRANGE {K}z 0 -1 WITHSCORES
ZSCORE {K}z b
ZMSCORE {K}z a none
ZRANGEBYSCORE {K}z (1 +inf
ZUNIONSTORE {K}y 2 {K}z {K}s WEIGHTS 2 1
ZUNION 2 {K}y {K}z WITHSCORES
ZPOPMIN {K}y
ZRANK {K}z none
BZPOPMIN {K}z 1
BZPOPMAX {K}none {K}z 0
BZMPOP 0 1 {K}y MIN
BZMPOP 0.01 1 {K}none MIN
GEOADD {K}g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
GEODIST {K}g Palermo Catania km
GEOPOS {K}g Palermo none
GEOSEARCH {K}g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHCOORD
PFADD {K}p a b c
PFCOUNT {K}p
PFMERGE {K}q {K}p
SETBIT {K}b 7 1
BITCOUNT {K}b
BITOP NOT {K}c {K}b
BITFIELD {K}b INCRBY u2 100 1
XADD {K}x 1-1 f v
XADD {K}x 1-1 f v
XLEN {K}x
XRANGE {K}x - +
XREAD COUNT 2 STREAMS {K}x 0
XGROUP CREATE {K}x g 0
XREADGROUP GROUP g c COUNT 1 STREAMS {K}x >
XPENDING {K}x g
XACK {K}x g 1-1
XREAD BLOCK 0 STREAMS {K}x 0
XREAD COUNT 1 BLOCK 10 STREAMS {K}x $
XREADGROUP GROUP g c BLOCK 10 STREAMS {K}x >
XREAD BLOCK nonsense STREAMS {K}x $
XINFO GROUPS {K}x
XINFO STREAM {K}none
COPY {K}s {K}v
RENAME {K}v {K}w
RENAME {K}none {K}w
EXISTS {K}w {K}none {K}w
TOUCH {K}w
UNLINK {K}w {K}none
MSET {K}m1 1 {K}m2 2
MGET {K}m1 {K}none {K}m2
MSETNX {K}m1 1 {K}m9 2
LCS {K}m1 {K}m2
EVAL return{KEYS[1],ARGV[1],1,false,true} 1 K x
EVAL return{err='CUSTOM\x20broken'} 1 K
EVAL return{ok='fine'} 1 K
EVAL return{ARGV[1]} 0 x
EVAL_RO return{err='CUSTOM\x20broken'} 0
EVALSHA ffffffffffffffffffffffffffffffffffffffff 0
EVAL return{} nonsense
MULTI
EVAL return{ARGV[1]} 0 x
EXEC
EVALSHA ffffffffffffffffffffffffffffffffffffffff 1 K
SET
SET K
GET K K
GET
HSET K f
OBJECT FREQ {K}m1
OBJECT NONSENSE K
OBJECT
XGROUP NONSENSE K
NONSENSE K a
nonsense
SET K v EX 0
SET K v EX nonsense
EXPIRE K nonsense
ECHO hello
ECHO
PING
PING hello
PING a b
SELECT 0
SELECT 1
SELECT x
CLIENT GETNAME
CLIENT SETNAME a\x20b
CLIENT SETNAME me
CLIENT GETNAME
CLIENT TRACKINGINFO
CLIENT MAINT_NOTIFICATIONS ON
CLIENT
"""


def script(key: str) -> list[list[bytes]]:
    """The commands with a key put in."""
    found = []
    for line in SCRIPT.strip().splitlines():
        words = [word.replace("{K}", "{" + key + "}").replace("\\x20", " ") for word in line.split(" ")]
        found.append([(key if word == "K" else word).encode() for word in words])
    return found


async def replies(conversation: Conversation, commands: list[list[bytes]]) -> list[bytes]:
    return [await conversation.ask(*command) for command in commands]


async def straight(cluster: Cluster, key: str, protocol: int) -> list[bytes]:
    """What the engine of the key's partition says on its own socket."""
    partition = cluster.partition_of(key.encode())
    copy = cluster.pod_of(partition).copies[partition]
    async with conversation(copy.socket) as engine:
        if protocol == 3:
            await engine.ask("HELLO", "3", "AUTH", "gate", GATE_PASSWORD)
        found = await replies(engine, script(key))
        await engine.ask("AUTH", "default", "x")
        await engine.ask("FLUSHALL")
        return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_replies_are_byte_equal_on_every_way(tmp_path: Path, engine: str, protocol: int) -> None:
    async with running_cluster(tmp_path, engine=engine, pods=2, partitions=2) as cluster:
        for partition in (0, 1):
            key = cluster.keys(partition)[0]
            expected = await straight(cluster, key, protocol)
            ways = {"front port": cluster.pods[0].front, "cluster port": cluster.pod_of(partition).cluster_port}
            for way, where in ways.items():
                async with conversation(where) as router:
                    if protocol == 3:
                        await router.ask("HELLO", "3")
                    found = await replies(router, script(key))
                    for command, theirs, ours in zip(script(key), expected, found, strict=True):
                        assert ours == theirs, f"{way}, partition {partition}: {b' '.join(command).decode()}"
                    await clear(cluster, partition)


async def clear(cluster: Cluster, partition: int) -> None:
    async with conversation(cluster.pod_of(partition).copies[partition].socket) as engine:
        await engine.ask("FLUSHALL")


async def test_one_pipeline_in_every_size_of_pieces_gets_the_same_replies(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, pods=2, partitions=2) as cluster:
        key = cluster.keys(1)[0]
        stream = b"".join(
            b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words) for words in script(key)
        )
        expected: list[bytes] | None = None
        for size in (1, 7, 100, 1 << 20):
            await clear(cluster, 1)
            async with conversation(cluster.pods[0].front) as router:
                for at in range(0, len(stream), size):
                    router.writer.write(stream[at : at + size])
                    await router.writer.drain()
                found = await router.frames(len(script(key)))
            expected = expected or found
            assert found == expected
