"""The spec: defaults, what it becomes in the map, and refusals that name the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.bad_resources import CONDITIONED, GOOD, REJECTED, Bad

from cachecluster_core.engine_config import SETTINGS, complete
from cachecluster_core.hashring import Entry, HashRing, State, entry_to_json
from cachecluster_core.quantity import parse_bytes
from cachecluster_core.sizing import ENGINE_BASELINE
from cachecluster_core.spec import InvalidSpec, parse_spec, settings_of, timing_of
from cachecluster_sidecar.agent.routes import build_routes

pytestmark = pytest.mark.t0

EXAMPLES = sorted(Path("crds/examples").glob("*.yaml"))
BY_SCHEMA_ONLY = {"setting of the engine not on the list", "unknown field", "a label key with a space"}
BY_SCHEMA_ONLY |= {"a node label with a bad key"}
VACANT = Entry(epoch=1, state=State.VACANT)


def test_three_lines_are_enough() -> None:
    spec = parse_spec(GOOD)
    assert (spec.partitions, spec.engine, spec.eviction, spec.durability) == (16, "valkey", "allkeys-lru", "async")
    assert (spec.router.workers, spec.repair.delay_seconds, spec.lost_after_seconds) == (1, 30, 60)
    assert spec.fencing.trust_connection_refused
    assert (spec.placement.zones, spec.placement.nodes) == ("prefer", "prefer")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_served(path: Path) -> None:
    resource = yaml.safe_load(path.read_text())
    parse_spec(resource["spec"])


def test_minimal_example_has_three_lines_of_spec() -> None:
    assert yaml.safe_load(Path("crds/examples/minimal.yaml").read_text())["spec"] == GOOD


@pytest.mark.parametrize(
    "bad",
    [bad for bad in (*REJECTED, *CONDITIONED) if not bad.name and bad.title not in BY_SCHEMA_ONLY],
    ids=lambda bad: bad.title,
)
def test_operator_refuses_what_an_older_server_lets_through(bad: Bad) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(bad.resource("x")["spec"])
    fields = [problem.field for problem in refused.value.problems]
    assert any(bad.names.startswith(name) or name.startswith(bad.names) for name in fields), fields


@pytest.mark.parametrize(
    ("reads", "durability", "reads_from"),
    [
        ("primary", "async", "primary"),
        ("committed", "sync", "primary"),
        ("replica", "async", "replica"),
        ("replica", "sync", "replica"),
        ("nearest-zone", "async", "nearest-zone"),
    ],
)
def test_who_answers_reads_in_the_map(reads: str, durability: str, reads_from: str) -> None:
    settings = settings_of(parse_spec(GOOD | {"reads": reads, "durability": durability}))
    assert (settings.reads_from, settings.committed_reads) == (reads_from, reads == "committed")


def test_durability_in_the_map() -> None:
    settings = settings_of(parse_spec(GOOD))
    assert (settings.sync, settings.min_in_sync, settings.committed_reads) == (False, 1, False)
    wanted = {"durability": "sync", "reads": "committed", "sync": {"ackTimeoutSeconds": 5}}
    settings = settings_of(parse_spec(GOOD | wanted))
    assert (settings.sync, settings.min_in_sync, settings.ack_timeout_s, settings.committed_reads) == (
        True,
        1,
        5.0,
        True,
    )
    assert settings_of(parse_spec(GOOD | {"replicationFactor": 3})).min_in_sync == 2
    assert settings_of(parse_spec(GOOD | {"replicationFactor": 3, "minInSync": 1})).min_in_sync == 1


def test_settings_of_the_map_hold_what_agents_apply() -> None:
    spec = parse_spec(GOOD | {"eviction": "volatile-ttl", "engineConfig": {"hz": 20, "lazyfree-lazy-user-del": False}})
    settings = settings_of(spec)
    config = dict(settings.engine_config)
    sizing = spec.sizing()
    assert config["maxmemory"] == str(sizing.share + sizing.backlog + ENGINE_BASELINE)
    assert config["maxmemory-policy"] == "volatile-ttl"
    assert config["hz"] == "20"
    assert config["lazyfree-lazy-user-del"] == "no"
    assert config["maxmemory-samples"] == "5", "a setting that is not given is set back to its default"
    assert settings.maxmemory_cluster == sizing.usable <= 3 * spec.memory_bytes // 2


LIMITS = {
    "pipelinedCommands": 7,
    "requestSize": "2Mi",
    "unreadReplies": 3 << 20,
    "unreadMessages": "4Mi",
    "parkedSize": "5Mi",
    "parkedSeconds": 6,
    "idleSeconds": 60,
}


def test_limits_of_clients_reach_the_routers() -> None:
    settings = settings_of(parse_spec(GOOD | {"router": {"limits": LIMITS}}))
    spec = HashRing(name="demo", settings=settings).to_spec()
    ring = HashRing.from_object({"metadata": {"name": "demo"}, "spec": spec | {"entries": [entry_to_json(VACANT)]}})
    told = build_routes(ring, "uid", 7379, {}, "9.1.0", {})["settings"]
    assert told["pipelinedCommands"] == 7 and told["requestMaxBytes"] == 2 << 20
    assert told["unreadRepliesBytes"] == 3 << 20 and told["unreadMessagesBytes"] == 4 << 20
    assert told["parkMaxBytes"] == 5 << 20 and told["parkTimeoutMs"] == 6000 and told["idleTimeoutMs"] == 60_000


def test_limits_that_nobody_has_set_are_those_of_maps_without_them() -> None:
    """A map that an operator made before there were limits is not written again for their sake."""
    settings = settings_of(parse_spec(GOOD))
    spec = HashRing(name="demo", settings=settings).to_spec() | {"entries": [entry_to_json(VACANT)]}
    for name in ("pipelinedCommands", "requestMaxBytes", "unreadRepliesBytes", "unreadMessagesBytes", "idleSeconds"):
        del spec["settings"][name]
    assert HashRing.from_object({"metadata": {"name": "demo"}, "spec": spec}).settings == settings


def test_the_sidecar_has_the_memory_for_what_is_parked() -> None:
    limits = [
        parse_bytes(
            parse_spec(GOOD | {"router": {"workers": 2, "limits": given}}).pod_resources()["sidecar"]["limits"][
                "memory"
            ]
        )
        for given in ({}, {"parkedSize": "65Mi"}, {name: LIMITS[name] for name in LIMITS if name != "parkedSize"})
    ]
    assert limits[1] - limits[0] == 2 << 20 and limits[2] == limits[0]


def test_settings_survive_the_map() -> None:
    settings = settings_of(parse_spec(GOOD))
    ring = HashRing(name="demo", settings=settings)
    ring = HashRing(name="demo", settings=settings, entries=ring.entries)
    stored = {"metadata": {"name": "demo"}, "spec": ring.to_spec() | {"entries": [{"epoch": 1, "state": "Vacant"}]}}
    assert HashRing.from_object(stored).settings == settings


def test_memory_of_existing_pods_bounds_what_copies_may_hold() -> None:
    spec = parse_spec(GOOD | {"memory": "1Gi"})
    bounded = dict(settings_of(spec, memory=256 << 20).engine_config)
    assert bounded == dict(settings_of(parse_spec(GOOD)).engine_config)


def test_timing_follows_the_spec() -> None:
    timing = timing_of(parse_spec(GOOD | {"repair": {"delaySeconds": 5, "maxConcurrentSyncs": 2}}))
    assert (timing.repair_delay, timing.max_concurrent_syncs) == (5.0, 2)


@pytest.mark.parametrize("name", SETTINGS)
def test_default_of_an_engine_setting_is_allowed(name: str) -> None:
    assert SETTINGS[name].reject_reason(SETTINGS[name].default) is None


def test_every_engine_setting_is_applied() -> None:
    assert set(complete({})) == set(SETTINGS)


@pytest.mark.parametrize("value", [True, "10", 101, 0, 1.5])
def test_engine_setting_of_a_wrong_kind(value: Any) -> None:
    assert SETTINGS["hz"].reject_reason(value) is not None
