"""Fuzzes the RESP scanner, or whole conversations with a router, until so many inputs were run or one fails.

First compiles the extensions with coverage counters and the address sanitizer into build/fuzz, so that inputs are
chosen by what they reach in compiled code, and a byte read beyond a buffer ends the run. `--as-installed` takes the
extensions as they are. What was found interesting is kept and is where the next run goes on; an input that failed is
written beside it, and is run alone by giving its path.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tests.fuzz", "tests.unit", "cachecluster_sidecar"]):
    from tests.fuzz import conversation, scanner

    from cachecluster_sidecar.router import resp

from cachecluster_core.usage import UsageParser

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz"
CORPUS = Path(__file__).parent / "corpus"
TARGETS = {"scanner": scanner.check, "conversation": conversation.check}
MAX_BYTES = {"scanner": 300, "conversation": 400}
COMPILED = "CACHECLUSTER_FUZZ_COMPILED"
FLAGS = "-O1 -g -fsanitize=address,fuzzer-no-link"


def main() -> None:
    """Read the flags, and fuzz in this process or, with extensions made for it, in one that takes its place."""
    parser = UsageParser(prog="python -m tests.fuzz", description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("inputs", nargs="*", type=Path, help="run these files and no others")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs to run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs; 0: another one every time")
    parser.add_argument("--found", type=Path, default=BUILD, help="keep what was found here (default: build/fuzz)")
    parser.add_argument("--as-installed", action="store_true", help="compile nothing")
    options = parser.parse_intermixed_args()
    if not options.as_installed and COMPILED not in os.environ:
        _again_with_compiled(_compile())
    assert COMPILED not in os.environ or Path(resp.__file__).is_relative_to(BUILD), (
        "the installed extensions were found"
    )
    found = options.found / options.target
    found.mkdir(parents=True, exist_ok=True)
    shared = [
        f"-max_len={MAX_BYTES[options.target]}",
        f"-artifact_prefix={options.found}/{options.target}-",
        "-len_control=0",
    ]
    chosen = [str(path) for path in options.inputs]
    if not chosen:
        chosen = [f"-runs={options.runs}", f"-seed={options.seed}", str(found), str(CORPUS / options.target)]
    logging.disable(logging.CRITICAL)  # what routers say of the garbage they get
    atheris.Setup(["fuzz", *shared, *chosen], TARGETS[options.target])
    atheris.Fuzz()


def _compile() -> Path:
    """The folder of the sources with extensions that count what they reach."""
    folder = BUILD / "compiled"
    for part in ("core", "sidecar"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("*.so"), dirs_exist_ok=True)
    shutil.copy(ROOT / "setup.py", folder)
    clang = {"CC": "clang", "LDSHARED": "clang -shared", "CFLAGS": FLAGS}
    packages = ["cachecluster_core", "cachecluster_sidecar", "cachecluster_sidecar.router"]
    places = "\n".join(f"{it} = {it.split('_')[1].split('.')[0]}/{it.replace('.', '/')}" for it in packages)
    (folder / "setup.cfg").write_text(f"[options]\npackages =\npy_modules =\npackage_dir =\n{_indented(places)}\n")
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=folder, env={**os.environ, **clang}, check=True)
    return folder


def _indented(lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines.splitlines())


def _again_with_compiled(folder: Path) -> None:
    """This command once more, with the sanitizer loaded first and the compiled sources before the installed ones."""
    environment = {
        **os.environ,
        COMPILED: "1",
        "LD_PRELOAD": str(Path(atheris.path()) / "asan_with_fuzzer.so"),
        "ASAN_OPTIONS": "detect_leaks=0,allocator_may_return_null=1",
        "PYTHONPATH": os.pathsep.join(str(it) for it in (folder / "core", folder / "sidecar", ROOT)),
    }
    os.execve(sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
