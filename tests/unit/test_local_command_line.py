"""`cachecluster-local`: flags that make no sense are refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachecluster_local.main import parse_plan

pytestmark = pytest.mark.t0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--nodes", "0"], "--nodes"),
        (["--nodes", "three"], "--nodes"),
        (["--nodes", "65"], "--nodes"),
        (["--nodes", "2", "--replication-factor", "3"], "nodes"),
        (["--partitions", "12"], "partitions"),
        (["--nodes", "5", "--partitions", "4"], "nodes"),
        (["--memory", "lots"], "memory"),
        (["--memory", "1Ki"], "memory"),
        (["--port", "65000"], "--port"),
        (["--engine", "memcached"], "--engine"),
        (["--durability", "always"], "--durability"),
        (["--durability", "sync", "--min-in-sync", "3"], "minInSync"),
        (["--router-workers", "0"], "--router-workers"),
        (["--first-address", "10.0.0.1"], "--first-address"),
        (["--first-address", "127.255.255.254"], "--first-address"),
        (["--lost-after", "1"], "lostAfterSeconds"),
        (["--state-dir", "/tmp/" + "x" * 90], "--state-dir"),
        (["--what"], "--what"),
    ],
)
def test_bad_flags_exit_64_and_name_the_flag(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str], short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_dir))
    with pytest.raises(SystemExit) as stopped:
        parse_plan(flags)
    assert stopped.value.code == 64
    written = capsys.readouterr().err
    assert "usage:" in written and named.lower() in written.lower()
    assert not list(short_dir.iterdir())


def test_the_defaults_are_three_nodes_and_two_copies(short_dir: Path) -> None:
    plan, spec, _ = parse_plan(["--state-dir", str(short_dir / "state")])
    assert (plan.nodes, plan.partitions, plan.replication_factor, plan.port) == (3, 16, 2, 6379)
    assert [plan.address(n) for n in range(3)] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert plan.cluster_port == 7379
    assert spec.nodes == 3 and spec.engine == "valkey"
    assert not plan.remove_state_dir


def test_sync_durability_is_for_the_asking(short_dir: Path) -> None:
    flags = ["--durability", "sync", "--min-in-sync", "2", "--state-dir", str(short_dir / "state")]
    _, spec, _ = parse_plan(flags)
    assert (spec.durability, spec.least_in_sync) == ("sync", 2)


def test_replicas_answer_reads_for_the_asking(short_dir: Path) -> None:
    for flags, reads in (([], "primary"), (["--reads", "replica"], "replica")):
        _, spec, _ = parse_plan([*flags, "--state-dir", str(short_dir / "state")])
        assert spec.reads == reads


def test_one_node_has_one_copy_unless_told_otherwise(short_dir: Path) -> None:
    plan, _, _ = parse_plan(["--nodes", "1", "--state-dir", str(short_dir / "state")])
    assert plan.replication_factor == 1
