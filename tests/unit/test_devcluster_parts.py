"""The pure parts of the development cluster: address plan, state folder, image archives, locks, command line."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from cachecluster_devcluster import archives, cache, main, network, runtime
from cachecluster_devcluster.certificates import Certificates
from cachecluster_devcluster.image import ROOT
from cachecluster_devcluster.processes import Ledger, start_time
from cachecluster_devcluster.state import Settings, State, this_process

pytestmark = pytest.mark.t0


def docker_archive(path: Path, layers: list[bytes]) -> Path:
    digests = [archives.digest_of(layer) for layer in layers]
    entry = {"Config": "config.json", "RepoTags": ["localhost/x:1"], "Layers": [f"{i}.tar" for i in range(len(layers))]}
    files = {
        "config.json": json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}).encode(),
        "manifest.json": json.dumps([entry]).encode(),
        **{f"{i}.tar": layer for i, layer in enumerate(layers)},
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_thinned_archive_names_every_layer_and_holds_the_unknown_ones(tmp_path: Path) -> None:
    layers = [archives.layer_of([("a", b"low")]), archives.layer_of([("b", b"high")])]
    image = archives.read(docker_archive(tmp_path / "image.tar", layers))
    low, high = (layer.digest for layer in image.layers)
    assert archives.write(image, tmp_path / "thin.tar", lambda digest: digest == low) == 1
    with tarfile.open(tmp_path / "thin.tar") as thin:
        names = thin.getnames()
        index = json.load(thin.extractfile("index.json"))  # type: ignore[arg-type]
        digest = index["manifests"][0]["digest"].replace(":", "/")
        manifest = json.load(thin.extractfile(f"blobs/{digest}"))  # type: ignore[arg-type]
        held = thin.extractfile("blobs/" + high.replace(":", "/"))
        assert held is not None
        assert held.read() == layers[1]
    assert [layer["digest"] for layer in manifest["layers"]] == [low, high]
    assert "blobs/" + low.replace(":", "/") not in names
    assert index["manifests"][0]["annotations"][archives.NAME_ANNOTATION] == "localhost/x:1"


def test_an_image_without_its_last_layer_has_one_diff_id_less(tmp_path: Path) -> None:
    layers = [archives.layer_of([(name, b"x")]) for name in "abc"]
    image = archives.read(docker_archive(tmp_path / "image.tar", layers)).without_last_layer("localhost/y:1")
    assert image.config["rootfs"]["diff_ids"] == [layer.digest for layer in image.layers]
    assert len(image.layers) == 2


def test_a_file_that_is_no_archive_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "odd.tar").write_bytes(b"nothing")
    with pytest.raises(archives.ArchiveError, match=r"odd\.tar"):
        archives.read(tmp_path / "odd.tar")


def test_no_two_machines_share_an_address() -> None:
    nodes = network.node_names(network.MAX_NODES)
    addresses = {network.HUB_ADDRESS, *map(network.node_address, nodes)}
    assert len(addresses) == len(nodes) + 1
    assert len({network.pod_network(node) for node in nodes}) == len(nodes)


@pytest.mark.parametrize("hidden", ["/run/x", "/var/lib/x", "/sys/x"])
def test_a_state_folder_that_nodes_would_not_see_is_refused(hidden: str) -> None:
    with pytest.raises(ValueError, match="choose another place"):
        State(Path(hidden))


def test_settings_survive_and_tell_whether_their_owner_lives(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    assert state.read() is None
    settings = Settings(nodes=3, api_port=1234, owner=this_process(), complete=True)
    state.write(settings)
    assert state.read() == settings
    assert not settings.orphaned
    pid, started = this_process()
    assert Settings(3, 1234, (pid, started + 1)).orphaned


def test_a_pid_that_belongs_to_somebody_else_is_not_ours(tmp_path: Path) -> None:
    started = start_time(os.getpid())
    assert started is not None
    (tmp_path / "other").write_text(f"{os.getpid()} {started + 1}\n")
    (tmp_path / "ours").write_text(f"{os.getpid()} {started}\n")
    ledger = Ledger(tmp_path)
    assert ledger.pid("other") is None
    assert ledger.pid("ours") == os.getpid()


def test_only_the_owner_can_read_keys_and_kubeconfigs(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    Certificates(folder).make({"n1": "10.200.0.11"}, ["127.0.0.1"], "https://10.200.0.1:6443", "https://127.0.0.1:1")
    files = list(folder.iterdir())
    assert {"ca.key", "host.kubeconfig", "kubelet-n1.key", "service-account.key"} <= {file.name for file in files}
    assert all(file.stat().st_mode & 0o077 == 0 for file in [folder, *files])


def test_a_failed_maker_leaves_no_cache_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("made half")

    with pytest.raises(RuntimeError, match="made half"):
        cache.entry("kind", "key", fail)
    made = cache.entry("kind", "key", lambda folder: (folder / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]
    assert cache.entry("kind", "key", fail) == made


def test_the_image_lock_is_what_the_project_needs_of_the_lock() -> None:
    assert (ROOT / "requirements-image.lock").read_text() == runtime.image_lock(ROOT), "run `devcluster image --lock`"


@pytest.mark.parametrize("arguments", [[], ["sideways"], ["up", "--nodes", "0"], ["cut"], ["up", "--colour"]])
def test_a_wrong_command_line_ends_with_64_and_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main.main(arguments)
    assert left.value.code == main.EX_USAGE
    assert "usage: devcluster" in capsys.readouterr().err
