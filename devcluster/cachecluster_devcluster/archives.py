"""Reads image archives as Docker and buildah write them, and writes them anew without the layers a node has already.

What is read is a "docker archive" (a tar with manifest.json and uncompressed layers); what is written is the OCI
layout, because there containerd does not ask for a layer that it knows.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
NAME_ANNOTATION = "io.containerd.image.name"
CREATED = "2024-01-01T00:00:00Z"


class ArchiveError(ValueError):
    """A file is no docker archive, or holds no single image with one name."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its digest, its bytes, and the member of the archive that holds it."""

    digest: str
    size: int
    member: str


@dataclass(frozen=True, slots=True)
class Image:
    """One image of an archive: its name, its parsed config, and its layers, lowest first."""

    archive: Path
    name: str
    config: Mapping[str, Any]
    layers: Sequence[Layer]

    def without_last_layer(self, name: str) -> "Image":
        """The same image without its last layer, under another name."""
        layers = self.layers[:-1]
        rootfs = {**self.config["rootfs"], "diff_ids": [layer.digest for layer in layers]}
        config = {key: value for key, value in self.config.items() if key != "history"} | {"rootfs": rootfs}
        return Image(self.archive, name, config, layers)


def read(archive: Path) -> Image:
    """The image of an archive; raises ArchiveError when it is none, or more than one, or compressed."""
    try:
        with tarfile.open(archive) as tar:
            (entry,) = _document(tar, "manifest.json")
            config = _document(tar, entry["Config"])
            (name,) = entry["RepoTags"]
            pairs = zip(config["rootfs"]["diff_ids"], entry["Layers"], strict=True)
            layers = [Layer(digest, tar.getmember(member).size, member) for digest, member in pairs]
    except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
        raise ArchiveError(f"{archive} is no docker archive of one named image: {error}") from error
    return Image(archive, name, config, layers)


def _document(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    if member is None:
        raise KeyError(name)
    return json.load(member)


def write(image: Image, target: Path, is_known: Callable[[str], bool] = lambda digest: False) -> int:
    """Writes an image without the layers that `is_known(digest)`; returns how many layers the file holds."""
    config = json.dumps(image.config).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": part.digest, "size": part.size} for part in image.layers],
        }
    ).encode()
    described = {"mediaType": MANIFEST_TYPE, "digest": digest_of(manifest), "size": len(manifest)}
    index = {"schemaVersion": 2, "manifests": [{**described, "annotations": {NAME_ANNOTATION: image.name}}]}
    wanted = {layer.digest: layer for layer in image.layers if not is_known(layer.digest)}
    with tarfile.open(target, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        _add(tar, _blob(digest_of(manifest)), manifest)
        _add(tar, _blob(digest_of(config)), config)
        if wanted:
            with tarfile.open(image.archive) as source:
                for layer in wanted.values():
                    member = tarfile.TarInfo(_blob(layer.digest))
                    member.size = layer.size
                    tar.addfile(member, source.extractfile(layer.member))
    return len(wanted)


def write_single_layer(target: Path, name: str, layer: bytes, settings: Mapping[str, Any]) -> None:
    """Writes a docker archive of an image with one layer (a tar); `settings` are the config's (Cmd, User, ...)."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "manifest.json", json.dumps(manifest).encode())
        _add(tar, "layer.tar", layer)


def layer_of(files: Sequence[tuple[str, bytes]]) -> bytes:
    """An uncompressed layer of executable files {path in the image, contents}, the same bytes for the same input."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files:
            _add(tar, path, data, mode=0o755)
    return buffer.getvalue()


def digest_of(data: bytes) -> str:
    """The digest of a blob, as the OCI layout writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = mode
    tar.addfile(member, io.BytesIO(data))
