"""Reads and writes image archives in the OCI layout (a tar of `blobs/sha256/...` and an index.json).

Layers are kept as they are, so that an archive made with uncompressed layers can be taken apart and thinned out: a node
that has a layer already needs not be given it again.
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
REFERENCE_ANNOTATION = "org.opencontainers.image.ref.name"
CREATED = "2024-01-01T00:00:00Z"


class ArchiveError(ValueError):
    """A file is no image archive of the OCI layout, or holds no single named image."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of an archive: its name, the parsed manifest and config, and where the blobs are."""

    archive: Path
    name: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def layers(self) -> list[str]:
        """The digests of the layers' blobs, lowest first."""
        return [layer["digest"] for layer in self.manifest["layers"]]

    def without_last_layer(self, name: str) -> "Image":
        """The same image without its last layer, under another name."""
        rootfs = {**self.config["rootfs"], "diff_ids": self.config["rootfs"]["diff_ids"][:-1]}
        config = {key: value for key, value in self.config.items() if key != "history"} | {"rootfs": rootfs}
        return Image(self.archive, name, {**self.manifest, "layers": self.manifest["layers"][:-1]}, config)


def read(archive: Path) -> Image:
    """The image of an archive; raises ArchiveError when it is none, or more than one."""
    try:
        with tarfile.open(archive) as tar:

            def document(name: str) -> dict[str, Any]:
                member = tar.extractfile(name)
                assert member is not None
                found: dict[str, Any] = json.load(member)
                return found

            (entry,) = document("index.json")["manifests"]
            manifest = document(_blob(entry["digest"]))
            config = document(_blob(manifest["config"]["digest"]))
    except (tarfile.TarError, KeyError, ValueError, AssertionError) as error:
        raise ArchiveError(f"{archive} is no OCI archive with one image: {error}") from error
    annotations = entry.get("annotations", {})
    name = annotations.get(NAME_ANNOTATION) or annotations.get(REFERENCE_ANNOTATION)
    if name is None:
        raise ArchiveError(f"{archive} holds an image without a name")
    return Image(archive, name, manifest, config)


def write(image: Image, target: Path, is_known: Callable[[str], bool] = lambda digest: False) -> int:
    """Writes an archive of an image without the layers that `is_known(digest)`; returns how many layers it holds."""
    config = json.dumps(image.config).encode()
    manifest_document = {
        **image.manifest,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
    }
    manifest = json.dumps(manifest_document).encode()
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": MANIFEST_TYPE,
                "digest": digest_of(manifest),
                "size": len(manifest),
                "annotations": {NAME_ANNOTATION: image.name},
            }
        ],
    }
    wanted = [digest for digest in dict.fromkeys(image.layers) if not is_known(digest)]
    with tarfile.open(target, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        _add(tar, _blob(digest_of(manifest)), manifest)
        _add(tar, _blob(digest_of(config)), config)
        if wanted:
            with tarfile.open(image.archive) as source:
                for digest in wanted:
                    member = source.getmember(_blob(digest))
                    tar.addfile(member, source.extractfile(member))
    return len(wanted)


def write_single_layer(target: Path, name: str, layer: bytes, settings: Mapping[str, Any]) -> None:
    """Writes an archive of one image of one layer, an uncompressed tar; `settings` are the config's (Cmd, User, ...)."""
    digest = digest_of(layer)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "layers": [{"mediaType": LAYER_TYPE, "digest": digest, "size": len(layer)}],
    }
    write(Image(target, name, manifest, config), target, is_known=lambda _: True)
    with tarfile.open(target, "a") as tar:
        _add(tar, _blob(digest), layer)


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
