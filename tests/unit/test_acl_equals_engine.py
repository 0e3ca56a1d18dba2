"""What users may do: as the engine judges it by ACL DRYRUN, for random rules and commands."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from tests.unit.router_support import ENGINES, EngineServer

from cachecluster_sidecar.router.access import objection, touched
from cachecluster_sidecar.router.acl import AclError, Commands, matches, parse

pytestmark = pytest.mark.t1

RUNS, CALLS = 150, 20
SAMPLES = [
    tuple(line.replace("@0", "\0").split())
    for line in """
        get a:1
        set a:1 v
        set b:1 v GET
        set a:1 GET
        bitfield a:1 SET u8 0 1
        zadd b:1 1 m
        xreadgroup GROUP g c STREAMS a:1 >
        lmpop 1 a:1 LEFT
        geosearchstore a:1 b:1 FROMMEMBER m BYRADIUS 1 m
        getex a:1
        pfcount a:1
        psubscribe news o*
        ssubscribe other
        mset a:1 v b:1 v
        mget a:1 b:1
        del a:1
        exists b:1
        smove a:1 b:1 m
        copy a:1 b:1
        sort a:1 STORE b:1
        zunionstore b:1 2 a:1 a:2
        eval return 1 1 a:1
        xread STREAMS a:1 b:1 0 0
        blpop a:1 b:1 0
        bitfield a:1 GET u8 0
        ping
        flushall
        client list
        client kill ID 1
        config get x
        object encoding a:1
        publish news m
        spublish other m
        subscribe news other
        xread STREAMS@0 a:1 0
        sort a:1 STORE@0 b:1
        georadius a:1 15 37 200 km STORE@0 b:1
        georadiusbymember a:1 m 1 m STOREDIST b:1
        set a:1 v GET@0
        bitfield a:1 SET@0 u8 0 1
    """.strip().splitlines()
]
RULES = [
    "+@all", "-@all", "+@read", "+@write", "-@dangerous", "+@connection", "-@slow", "+get", "+set", "-set", "+client",
    "-client|kill", "+client|list", "+@pubsub", "+object", "-object|encoding", "+eval", "allcommands", "nocommands",
    "~*", "~a:*", "~b:?", "%R~a:*", "%W~b:*", "%RW~[ab]:1", "allkeys", "resetkeys",
    "&*", "&news", "&o*", "allchannels", "resetchannels", "(+@all ~a:*)", "(+set %W~b:* &other)", "clearselectors",
]  # fmt: skip


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[redis.asyncio.Redis]:
    server = EngineServer(request.param, tmp_path, "e")
    await server.start()
    async with server.client() as client:
        yield client
    server.kill()


async def commands_of(engine: redis.asyncio.Redis) -> Commands:
    names: set[str] = set()
    for info in (await engine.execute_command("COMMAND")).values():
        names |= {info["name"], *(sub[0].decode() for sub in info.get("subcommands", []))}
    categories = {}
    for category in await engine.execute_command("ACL", "CAT"):
        found = await engine.execute_command("ACL", "CAT", category)
        categories[_text(category)] = frozenset(map(_text, found))
    return Commands(frozenset(names), categories)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def test_the_keys_of_a_command_are_read_and_written_as_the_engine_says(engine: redis.asyncio.Redis) -> None:
    for words in SAMPLES:
        try:
            found = await engine.execute_command("COMMAND GETKEYSANDFLAGS", *words)
        except redis.ResponseError:
            found = []
        flags = [(key, {_text(flag) for flag in flags}) for key, flags in found]
        told = [(key, "access" in has, bool(has & {"insert", "update", "delete"})) for key, has in flags]
        name = "|".join(words[:2]) if words[0] in ("object", "client", "config") else words[0]
        keys = list(touched(name, [word.encode() for word in words]))
        assert keys == told or (not keys and name in ("spublish", "ssubscribe")), words


async def test_random_users_may_do_what_the_engine_lets_them(engine: redis.asyncio.Redis) -> None:
    commands, dice = await commands_of(engine), random.Random()
    for _ in range(RUNS):
        rules = dice.sample(RULES, dice.randint(1, 8))
        try:
            await engine.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "clearselectors", *rules)
        except redis.ResponseError:
            with pytest.raises(AclError):
                parse(f"user app {' '.join(rules)}", commands)
            continue
        user = parse(f"user app {' '.join(rules)}", commands)["app"]
        for words in dice.sample(SAMPLES, CALLS):
            name = "|".join(words[:2])
            name = name if name in commands.names else words[0]
            told = _text(await engine.execute_command("ACL", "DRYRUN", "app", *words))
            why = objection(user, name, [word.encode() for word in words])
            if name != "eval" or why is None:  # of scripts we ask for more
                assert (why is None) == (told == "OK"), (rules, words, told, why)


async def test_random_globs_match_what_the_engine_finds(engine: redis.asyncio.Redis) -> None:
    dice = random.Random()
    names = ["a", "b", "ab", "ba", "abc", "a*c", "a-c", "a]", "[a", "^a", "a\\b", "aa", "?"]
    await engine.mset(dict.fromkeys(names, "1"))
    for _ in range(2000):
        glob = "".join(dice.choice("ab*?[]^-\\c") for _ in range(dice.randint(1, 7)))
        found = {key.decode() for key in await engine.keys(glob)}
        assert {name for name in names if matches(glob.encode(), name.encode())} == found, glob
