"""What is in effect: what would lose data is refused, what must wait waits, and a change under way goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cachecluster_core.hashring import CopyId, Entry, HashRing, Member, State
from cachecluster_core.placement import Holding, Place, place
from cachecluster_core.sizing import size_copies
from cachecluster_core.spec import CacheClusterSpec, parse_spec, settings_of
from cachecluster_operator.capacity import Holdings, holdings_of, nodes_to_size_for
from cachecluster_operator.cluster_key import ClusterKey
from cachecluster_operator.in_effect import InEffect, in_effect
from cachecluster_operator.pod_manifest import build_pod, template_fingerprint

pytestmark = pytest.mark.t0

KEY = ClusterKey("default", "demo")
CLUSTER = {"apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": {"name": "demo", "uid": "u"}}
MEMORY = 256 << 20
MIB = 1 << 20


def spec(**changes: Any) -> CacheClusterSpec:
    return parse_spec({"nodes": 3, "replicationFactor": 2, "memory": "256Mi"} | changes)


def pods(count: int, of: CacheClusterSpec | None = None) -> list[dict[str, Any]]:
    made = [build_pod(KEY, CLUSTER, of or spec(), number, "image:1") for number in range(count)]
    for number, pod in enumerate(made):
        pod["metadata"]["uid"] = f"uid-{number}"
    return made


def held(nodes: int, largest_used: int = 0, memory: int = MEMORY, factor: int = 2, **changes: Any) -> Holdings:
    """A cluster whose map is sized for `nodes`, with copies spread over them."""
    sizing = size_copies(memory, 16, factor, nodes)
    values = {"maxmemory": sizing.maxmemory, "replication_factor": factor, "most_copies": sizing.copies}
    return Holdings(**(values | {"largest_used": largest_used} | changes))


def reasons(effect: InEffect) -> list[str]:
    return [pending.reason for pending in effect.pending]


def maxmemory(effect: InEffect) -> int:
    return int(dict(effect.desired.settings.engine_config)["maxmemory"])


def test_durability_changes_without_a_roll() -> None:
    wanted = spec(durability="sync", minInSync=2, reads="committed", sync={"ackTimeoutSeconds": 5})
    assert template_fingerprint(wanted) == template_fingerprint(spec())
    assert in_effect(wanted, pods(3), held(3)).desired.settings.sync


def of_routers(wanted: CacheClusterSpec, existing: list[dict[str, Any]], **in_map: int) -> tuple[int, int]:
    """MiB that a router may park, and clients that it takes."""
    settings = in_effect(wanted, existing, held(3, **in_map)).desired.settings
    return settings.park_max_bytes // MIB, settings.max_clients


SMALL = spec(router={"maxClients": 500, "limits": {"parkedSize": "8Mi"}})
LARGE = spec(router={"maxClients": 50_000, "limits": {"parkedSize": "512Mi"}})


def test_routers_park_and_accept_no_more_than_the_sidecars_of_all_pods_were_sized_for() -> None:
    assert of_routers(LARGE, pods(3, SMALL)) == (8, 500)
    assert of_routers(LARGE, pods(2, LARGE) + pods(3, SMALL)[2:]) == (8, 500)
    assert of_routers(LARGE, pods(3, LARGE)) == (512, 50_000)
    assert of_routers(SMALL, pods(3, LARGE)) == (8, 500)
    ending = pods(3, LARGE) + pods(4, SMALL)[3:]
    ending[3]["metadata"]["deletionTimestamp"] = "now"
    assert of_routers(LARGE, ending) == (8, 500), "it still serves"


def test_what_pods_of_an_earlier_operator_park_and_accept_is_what_is_in_effect() -> None:
    def unsaid(of: CacheClusterSpec) -> list[dict[str, Any]]:
        made = pods(3, of)
        for pod in made:
            annotations = pod["metadata"]["annotations"]
            pod["metadata"]["annotations"] = {name: annotations[name] for name in annotations if "template" in name}
        return made

    in_map = {"park_max_bytes": 512 * MIB, "max_clients": 50_000}
    rolled = LARGE.model_copy(update={"image": "newer"})
    assert of_routers(rolled, unsaid(LARGE), **in_map) == (512, 50_000), "a roll for something else takes nothing away"
    assert of_routers(LARGE, unsaid(LARGE), **in_map) == (512, 50_000)
    assert of_routers(LARGE, unsaid(SMALL), park_max_bytes=8 * MIB, max_clients=500) == (8, 500)


def test_a_new_cluster_gets_what_it_asks_for() -> None:
    effect = in_effect(spec(), [], Holdings())
    assert effect.desired.nodes == 3 and effect.pending == () and effect.memory == MEMORY
    assert effect.unsettled, "as long as there is no map"
    assert not in_effect(spec(), pods(3), held(3)).unsettled


def test_scale_out_is_in_effect_at_once_but_copies_hold_more_only_when_they_are_spread() -> None:
    out = spec(nodes=5)
    before = held(3)
    effect = in_effect(out, pods(3), before)
    assert effect.desired.nodes == 5 and reasons(effect) == ["CapacityFollows"] and effect.unsettled
    assert maxmemory(effect) == before.maxmemory == effect.sizing.maxmemory
    spread = in_effect(out, pods(5), replace(before, most_copies=7))
    assert reasons(spread) == [] and maxmemory(spread) == size_copies(MEMORY, 16, 2, 5).maxmemory


def test_the_memory_of_containers_is_enough_at_every_step_of_a_scale_out() -> None:
    for nodes in range(3, 17):
        for copies in range(1, 17):
            sized = nodes_to_size_for(MEMORY, 16, 2, nodes, held(3, most_copies=copies))
            sizing = size_copies(MEMORY, 16, 2, sized)
            assert sizing.maxmemory >= held(3).maxmemory, "nothing is taken away"
            assert sizing.copies >= copies or sizing.maxmemory == held(3).maxmemory, (nodes, copies)


def test_losing_nodes_takes_nothing_away_from_copies() -> None:
    crowded = held(5, largest_used=30 * MIB, most_copies=16)
    effect = in_effect(spec(nodes=5), pods(2), crowded)
    assert effect.desired.nodes == 5 and maxmemory(effect) == crowded.maxmemory


def test_scale_in_that_fits_is_in_effect_at_once() -> None:
    effect = in_effect(spec(nodes=3), pods(5), held(5, largest_used=10 * MIB))
    assert effect.desired.nodes == 3 and effect.pending == ()
    assert maxmemory(effect) == size_copies(MEMORY, 16, 2, 3).maxmemory


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_scale_in_that_does_not_fit_is_refused_with_figures_until_it_does(policy: str) -> None:
    small = spec(nodes=3, eviction=policy)
    effect = in_effect(small, pods(5), held(5, largest_used=30 * MIB))
    assert effect.desired.nodes == 5 and reasons(effect) == ["ScaleInRefused"] and effect.unsettled
    assert "spec.nodes is 3, and 5 nodes stay" in effect.pending[0].message
    assert "26.2 MiB" in effect.pending[0].message and "30.0 MiB" in effect.pending[0].message
    assert maxmemory(effect) == held(5).maxmemory
    assert in_effect(small, pods(5), held(5, largest_used=26 * MIB)).desired.nodes == 3


def test_scale_in_of_a_full_cache_that_may_evict_waits_for_it_with_all_its_nodes() -> None:
    small = spec(nodes=3, scaleIn={"whenFull": "evict"})
    full = in_effect(small, pods(5), held(5, largest_used=30 * MIB))
    later = size_copies(MEMORY, 16, 2, 3).maxmemory
    assert full.desired.nodes == 5 and maxmemory(full) == later and reasons(full) == ["ScaleInEvicting"]
    assert full.unsettled and "copies evict until they fit" in full.pending[0].message
    still = in_effect(small, pods(5), held(3, largest_used=28 * MIB, most_copies=7))
    assert still.desired.nodes == 5 and maxmemory(still) == later and reasons(still) == ["ScaleInEvicting"]
    unknown = in_effect(small, pods(5), held(3, largest_used=26 * MIB, most_copies=7, unreported=(1,)))
    assert unknown.desired.nodes == 5
    evicted = in_effect(small, pods(5), held(3, largest_used=later + MIB, most_copies=7))
    assert evicted.desired.nodes == 3 and evicted.pending == () and maxmemory(evicted) == later
    begun = held(3, largest_used=28 * MIB, most_copies=9, leaving=frozenset({"uid-4"}))
    assert in_effect(small, pods(5), begun).desired.nodes == 3


def test_scale_in_that_evicts_can_be_taken_back() -> None:
    back = in_effect(
        spec(nodes=5, scaleIn={"whenFull": "evict"}), pods(5), held(3, largest_used=28 * MIB, most_copies=7)
    )
    assert back.desired.nodes == 5 and back.pending == () and maxmemory(back) == held(5).maxmemory


def test_where_nothing_may_be_evicted_a_scale_in_that_may_evict_is_refused() -> None:
    full = held(5, largest_used=30 * MIB)
    refused = in_effect(spec(nodes=3, eviction="noeviction", scaleIn={"whenFull": "evict"}), pods(5), full)
    assert reasons(refused) == ["ScaleInRefused"] and "whenFull" not in refused.pending[0].message
    told = in_effect(spec(nodes=3), pods(5), full).pending[0].message
    assert "set spec.scaleIn.whenFull to evict (keys are lost)" in told


def test_scale_in_settings_replace_no_pod() -> None:
    assert template_fingerprint(spec(scaleIn={"whenFull": "evict"})) == template_fingerprint(spec())


def placed(zones: str, nodes: int) -> HashRing:
    """The map of a cluster that was scaled to pods in these zones, each a letter, and has its copies in place."""
    places = tuple(Place(f"uid-{i}", f"demo-{i}", zone, f"n{i}") for i, zone in enumerate(zones))
    entries = []
    for holds in place(places, 2, tuple(Holding() for _ in range(16)), nodes):
        copies = tuple(CopyId(pod, "r") for pod in holds)
        entries.append(Entry(5, State.STABLE, copies[0], tuple(sorted(copies)), term=5))
    members = tuple((it.pod, Member(it.name, "h", it.zone, it.node)) for it in places)
    return HashRing("demo", members, tuple(entries), settings_of(spec(nodes=3)))


@pytest.mark.parametrize("zones", ["aaab", "aabb", "aabbc", "aaaab", "abcd"])
def test_capacity_follows_where_zones_are_uneven_too(zones: str) -> None:
    """The zone of a single pod has a copy of each partition, more than an even share, and that stays so."""
    out = spec(nodes=len(zones))
    there = holdings_of(placed(zones, len(zones)), {})
    assert there.maxmemory == held(3).maxmemory and there.spread_over == len(zones)
    effect = in_effect(out, pods(len(zones)), there)
    assert reasons(effect) == [] and maxmemory(effect) == held(len(zones)).maxmemory
    assert there.most_copies <= effect.sizing.copies_after_loss, "what containers are sized for"


def test_capacity_follows_only_when_all_nodes_are_there_and_none_holds_too_much() -> None:
    three = holdings_of(placed("abc", 3), {})
    assert three.spread_over == 3 and reasons(in_effect(spec(nodes=5), pods(3), three)) == ["CapacityFollows"]
    ring = placed("abcd", 4)
    crowd = replace(ring, members=tuple((uid, replace(it, leaving=uid == "uid-3")) for uid, it in ring.members))
    assert holdings_of(crowd, {}).spread_over == 0


def test_scale_in_waits_until_it_is_known_what_copies_hold() -> None:
    silent = held(5, unreported=(4,))
    effect = in_effect(spec(nodes=3), pods(5), silent)
    assert effect.desired.nodes == 5 and reasons(effect) == ["ScaleInUndecided"] and effect.unsettled
    no_map = in_effect(spec(nodes=3), pods(5), Holdings())
    assert no_map.desired.nodes == 5 and reasons(no_map) == ["ScaleInUndecided"]


def test_scale_in_that_is_under_way_goes_on_whatever_copies_hold_and_whoever_reports() -> None:
    begun = held(3, largest_used=30 * MIB, unreported=(1, 2), most_copies=11)
    for there in (5, 4, 3):
        effect = in_effect(spec(nodes=3), pods(there), begun)
        assert effect.desired.nodes == 3 and effect.pending == ()


def test_scale_in_can_be_taken_back_in_the_middle() -> None:
    effect = in_effect(spec(nodes=5), pods(4), held(3, most_copies=11))
    assert effect.desired.nodes == 5 and maxmemory(effect) == held(3).maxmemory


def test_pods_that_are_emptied_in_a_roll_are_no_nodes_that_stay() -> None:
    rolling = held(5, largest_used=30 * MIB, leaving=frozenset({"uid-2"}))
    assert in_effect(spec(nodes=3), pods(6), rolling).desired.nodes == 5


def test_a_lost_pod_and_its_replacement_are_no_scale_in() -> None:
    lost = pods(4)
    lost[1]["metadata"]["deletionTimestamp"] = "2026-11-24T07:00:00Z"
    effect = in_effect(spec(), lost, held(3, largest_used=20 * MIB))
    assert effect.desired.nodes == 3 and effect.pending == ()


def test_more_memory_counts_once_all_pods_have_it() -> None:
    bigger = spec(memory="512Mi")
    mixed = pods(2) + pods(3, bigger)[2:]
    effect = in_effect(bigger, mixed, held(3))
    assert effect.memory == MEMORY and maxmemory(effect) == held(3).maxmemory
    assert effect.template == template_fingerprint(bigger), "pods are made from the new template"
    assert in_effect(bigger, pods(3, bigger), held(3)).memory == 512 << 20


def test_less_memory_is_refused_only_where_nothing_may_be_evicted() -> None:
    full = held(3, largest_used=20 * MIB)
    evicting = in_effect(spec(memory="128Mi"), pods(3), full)
    assert evicting.memory == MEMORY // 2 and evicting.pending == ()
    refused = in_effect(spec(memory="128Mi", eviction="noeviction"), pods(3), full)
    assert refused.memory == MEMORY and reasons(refused) == ["MemoryRefused"]
    assert refused.template == template_fingerprint(spec()), "no pod is replaced for it"
    fits = in_effect(spec(memory="128Mi", eviction="noeviction"), pods(3), held(3, largest_used=10 * MIB))
    assert fits.memory == MEMORY // 2 and fits.pending == ()


def test_more_copies_in_the_same_memory_are_refused_where_nothing_may_be_evicted() -> None:
    one = spec(replicationFactor=1)
    wanted = spec(replicationFactor=2, eviction="noeviction")
    effect = in_effect(wanted, pods(3, one), held(3, largest_used=30 * MIB, factor=1))
    assert reasons(effect) == ["MemoryRefused"] and effect.desired.settings.replication_factor == 1
    assert in_effect(wanted, pods(3, one), held(3, factor=1)).desired.settings.replication_factor == 2


def test_the_engine_changes_from_redis_to_valkey_and_never_back() -> None:
    forth = in_effect(spec(engine="valkey"), pods(3, spec(engine="redis")), held(3))
    assert forth.spec.engine == "valkey" and forth.pending == ()
    back = in_effect(spec(engine="redis"), pods(3), held(3))
    assert back.spec.engine == "valkey" and reasons(back) == ["EngineChangeRefused"]
    assert back.template == template_fingerprint(spec()), "no pod is replaced for it"


def test_an_image_with_an_older_engine_is_told_until_its_pods_are_outdated() -> None:
    older = held(3, unfit={"uid-3": ("redis 7.0.15", "redis 7.2.4")})
    effect = in_effect(spec(image="old:1"), pods(3) + pods(4, spec(image="old:1"))[3:], older)
    assert reasons(effect) == ["EngineChangeRefused"] and effect.unsettled
    assert "redis 7.0.15" in effect.pending[0].message and "set spec.image back" in effect.pending[0].message
    assert reasons(in_effect(spec(), pods(3) + pods(4, spec(image="old:1"))[3:], older)) == []


def test_a_pause_reaches_the_control_loop() -> None:
    assert in_effect(spec(), [], Holdings(), paused=True).desired.paused
    assert not in_effect(spec(), [], Holdings()).desired.paused


def test_holdings_of_no_map_are_unknown() -> None:
    assert holdings_of(None, {}) == Holdings() and not Holdings().known
