"""What cluster-aware clients are told while a partition has no primary: every slot has somebody to ask."""

from __future__ import annotations

import pytest

from cachecluster_sidecar.router.cluster import Routes, answer, runs

pytestmark = pytest.mark.t0


def routes(*primaries: str | None) -> Routes:
    members = {
        uid: {"name": f"demo-{uid}", "host": f"10.0.0.{n}", "port": 7379, "leaving": False}
        for n, uid in enumerate("ab", 1)
    }
    return {
        "version": "1",
        "name": "demo",
        "self": "a",
        "partitions": len(primaries),
        "members": members,
        "primaries": list(primaries),
        "announced": list(primaries),
        "replicas": [[] for _ in primaries],
        "epochs": [3 for _ in primaries],
        "local": {},
        "settings": {},
    }


def test_a_partition_without_primary_is_shown_as_the_asked_pods() -> None:
    shown = list(runs(routes("b", None, "b", "a")))
    assert [(run.primary, run.first, run.last) for run in shown] == [
        ("b", 0, 4095),
        ("a", 4096, 8191),
        ("b", 8192, 12287),
        ("a", 12288, 16383),
    ]


def test_the_state_of_the_cluster_stays_honest() -> None:
    whole = answer(routes("a", "b"), [b"CLUSTER", b"INFO"], 2)
    broken = answer(routes("a", None), [b"CLUSTER", b"INFO"], 2)
    assert b"cluster_state:ok" in whole
    assert b"cluster_state:fail" in broken and b"cluster_slots_fail:8192" in broken


def test_slots_cover_everything_when_nothing_is_served() -> None:
    assert sum(run.last - run.first + 1 for run in runs(routes(None, None, None, None))) == 16384


def test_a_pod_has_one_role() -> None:
    for primaries, replicas, shown in ((("a", "b"), (["b"], ["a"]), [(), ()]), (("a", "a"), (["b"], ["b"]), [("b",)])):
        told = routes(*primaries) | {"replicas": list(replicas)}
        assert [run.replicas for run in runs(told)] == shown


def test_a_pod_that_leaves_is_not_shown_while_another_stands_in_for_it() -> None:
    told = routes("a", "b") | {"announced": ["a", "a"], "replicas": [[], ["a"]]}
    told["members"]["b"]["leaving"] = True
    for command in (b"SLOTS", b"SHARDS", b"NODES"):
        assert b"10.0.0.2" not in answer(told, [b"CLUSTER", command], 2), command
        assert b"10.0.0.1" in answer(told, [b"CLUSTER", command], 2), command
    info = answer(told, [b"CLUSTER", b"INFO"], 2)
    assert b"cluster_state:ok" in info and b"cluster_known_nodes:1" in info
    assert b"myself" in answer(told | {"self": "b"}, [b"CLUSTER", b"NODES"], 2), "a pod knows itself"


def test_a_pod_that_leaves_does_not_show_itself_where_there_is_no_primary() -> None:
    told = routes(None, "b") | {"replicas": [[], []]}
    told["members"]["a"]["leaving"] = True
    assert [(run.primary, run.first) for run in runs(told)] == [("b", 0)]
    told["members"]["b"]["leaving"] = True
    assert [run.primary for run in runs(told)] == ["a", "b"]
    lost = routes(None, None)
    lost["members"]["a"]["leaving"] = True
    assert [run.primary for run in runs(lost)] == ["a"], "it parks what another one might not even hear"


def test_a_pod_that_leaves_is_shown_where_nobody_stands_in_for_it() -> None:
    told = routes("a", "b")
    told["members"]["b"]["leaving"] = True
    for command in (b"SLOTS", b"SHARDS", b"NODES"):
        assert b"10.0.0.2" in answer(told, [b"CLUSTER", command], 2), command
