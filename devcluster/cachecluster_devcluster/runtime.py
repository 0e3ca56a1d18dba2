"""Which of the locked packages the image needs: those that the project depends on, without its extras.

Written as a lock file of its own (requirements-image.lock), so that a build with Docker needs nothing of ours to run.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGE_PYTHON = "3.11.2"  # of Debian 12
IMAGE_ONLY = Path("devcluster/image-only.lock")
HEAD = "# Made by `devcluster image --lock` from pyproject.toml, requirements.lock and devcluster/image-only.lock.\n"


def image_lock(root: Path) -> str:
    """The text of requirements-image.lock for a checkout. What the packages need is asked of those installed here.

    Raises LookupError for a package that is not locked.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    blocks = {**lock_blocks((root / "requirements.lock").read_text()), **lock_blocks((root / IMAGE_ONLY).read_text())}
    names = sorted(closure(map(Requirement, project["dependencies"])))
    missing = [name for name in names if name not in blocks]
    if missing:
        raise LookupError(f"neither requirements.lock nor {IMAGE_ONLY} locks {', '.join(missing)}")
    return HEAD + "".join(blocks[name] for name in names)


def lock_blocks(text: str) -> Mapping[str, str]:
    """The entries of a lock file by package name, each with its hashes."""
    blocks: dict[str, str] = {}
    name = None
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        if not line[0].isspace():
            name = canonicalize_name(re.split(r"[=<>!~;\[\s]", line, maxsplit=1)[0])
            blocks[name] = ""
        if name is not None:
            blocks[name] += line
    return blocks


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """The names of all packages that the requirements bring along in the image."""
    found: set[tuple[str, str]] = set()
    waiting = [part for requirement in requirements for part in _parts(requirement, "")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) not in found:
            found.add((name, extra))
            waiting += [part for text in _needs(name) for part in _parts(Requirement(text), extra)]
    return {name for name, _ in found}


def _needs(name: str) -> Sequence[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []  # of image-only.lock, where everything is named


def _parts(requirement: Requirement, extra: str) -> list[tuple[str, str]]:
    """(package, extra) of a requirement and of each extra that it asks for; nothing when its marker says no."""
    environment = {"python_full_version": IMAGE_PYTHON, "extra": extra}
    if requirement.marker is not None and not requirement.marker.evaluate(environment):
        return []
    return [(canonicalize_name(requirement.name), part) for part in ("", *requirement.extras)]
