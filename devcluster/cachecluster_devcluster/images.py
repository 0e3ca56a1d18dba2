"""Brings images onto nodes quickly.

Importing an image costs seconds of both cores a node. So the lower layers are imported once a machine into an image
store (containerd's root folder) that is kept in the cache and laid under each new node by hard links; an image's last
layer, the one that changes with every edit, is imported into each node in an archive that holds nothing else.
"""

import logging
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cachecluster_devcluster import api, archives, cache, components
from cachecluster_devcluster.archives import Image
from cachecluster_devcluster.namespaces import Machine
from cachecluster_devcluster.processes import ProcessError

log = logging.getLogger(__name__)

CTR = ["ctr", "--address", components.CONTAINERD_SOCKET, "--namespace", "k8s.io"]
CONTAINERD_START_SECONDS = 20.0
CONTAINERD_STOP_SECONDS = 15.0
FOUNDATION_IMAGE = "localhost/devcluster-foundation"
BLOBS = "varlib/containerd/io.containerd.content.v1.content/blobs/sha256"


def pause_binary() -> Path:
    """The static program that is the first process of sandboxes and machines; compiled once."""
    source = Path(__file__).with_name("pause.c")

    def make(folder: Path) -> None:
        subprocess.run(["cc", "-Os", "-static", "-s", "-o", str(folder / "pause"), str(source)], check=True)

    return cache.entry("bin", f"pause-{cache.digest([source.read_bytes()])}", make) / "pause"


def start_containerd(machine: Machine, cni_folder: Path) -> None:
    """Starts containerd in a machine and waits until it answers."""
    config = machine.folder / "containerd.toml"
    config.write_text(components.containerd_config(cni_folder))
    machine.spawn("containerd", ["containerd", "--config", str(config)])

    def answers() -> bool:
        try:
            machine.run([*CTR, "version"])
        except ProcessError:
            return False
        return True

    api.wait(f"containerd of {machine.name}", answers, CONTAINERD_START_SECONDS)


def import_images(machine: Machine, images: Sequence[Image]) -> None:
    """Imports images into a machine's containerd, each without the layers that the machine has."""
    known = machine.folder / BLOBS
    for image in images:
        with tempfile.TemporaryDirectory(dir=machine.folder, prefix="import-") as folder:
            thin = Path(folder) / "image.tar"
            archives.write(image, thin, lambda digest: (known / digest.partition(":")[2]).exists())
            machine.run([*CTR, "images", "import", str(thin)])


def load(machines: Sequence[Machine], images: Sequence[Image]) -> None:
    """Imports images into several machines side by side."""
    with ThreadPoolExecutor(max(1, len(machines))) as threads:
        for done in [threads.submit(import_images, machine, images) for machine in machines]:
            done.result()


class ImageStore:
    """The store that every new node begins with: the pause image and the lower layers of the given images."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = images

    def key(self) -> str:
        """The cache key: which layers, which containerd."""
        version = subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True).stdout
        layers = [layer.digest for image in self._images for layer in image.layers[:-1]]
        return cache.digest([version, str(pause_binary()), *layers])

    def folder(self, machine: Machine) -> Path:
        """The kept store; when there is none yet, it is made in `machine`, which must not have been started."""
        return cache.entry("image-store", self.key(), lambda folder: self._make(machine, folder)) / "containerd"

    def _make(self, machine: Machine, folder: Path) -> None:
        log.info("importing the lower layers of the images once")
        machine.start()
        try:
            start_containerd(machine, machine.folder / "cni")
            import_images(machine, [self._pause(machine.folder), *self._foundations()])
            if machine.signal("containerd", signal.SIGTERM):  # a clean end, so that its databases are whole
                api.wait("end of containerd", lambda: machine.component("containerd") is None, CONTAINERD_STOP_SECONDS)
        finally:
            machine.kill()
        shutil.move(machine.folder / "varlib" / "containerd", folder / "containerd")

    def _pause(self, folder: Path) -> Image:
        archive = folder / "pause.tar"
        layer = archives.layer_of([("pause", pause_binary().read_bytes())])
        settings = {"Cmd": ["/pause"], "User": "65535:65535"}
        archives.write_single_layer(archive, components.PAUSE_IMAGE, layer, settings)
        return archives.read(archive)

    def _foundations(self) -> list[Image]:
        layered = [image for image in self._images if len(image.layers) > 1]
        return [image.without_last_layer(f"{FOUNDATION_IMAGE}:{number}") for number, image in enumerate(layered)]


def lay_store(store: Path, target: Path) -> None:
    """Puts a store under a new node: immutable blobs and layers by hard link, the databases as copies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    links = ["-l"] if store.stat().st_dev == target.parent.stat().st_dev else []
    subprocess.run(["cp", "-a", *links, str(store), str(target)], check=True)
    for database in store.rglob("*.db") if links else ():
        copy = target / database.relative_to(store)
        copy.unlink()
        shutil.copy2(database, copy)
