"""`make demo` and `make demo-down`: from nothing to a value read back through the Service, and no trace left."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachecluster_devcluster import demo

pytestmark = [pytest.mark.t4, pytest.mark.timeout(300)]


def test_the_demo_comes_up_answers_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], helm: Path
) -> None:
    monkeypatch.setattr(demo, "FOLDER", tmp_path / "demo")
    way = demo.Development()
    try:
        demo.up(way)
        said = capfd.readouterr().out
        assert "hello from a pod" in said
        assert "demo   True    3/3     16/16" in said
        assert (tmp_path / "demo/kubectl").exists() and (tmp_path / "demo/kubeconfig").exists()
    finally:
        demo.down(way)
    assert not (tmp_path / "demo").exists()


@pytest.mark.timeout(10)
def test_a_machine_without_any_kubernetes_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.shutil, "which", lambda name: None)
    monkeypatch.setattr(demo.os, "geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="make demo CONTEXT=name"):
        demo.provider(None)
