"""Builds the Cython extensions; everything else stands in pyproject.toml."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = {
    "cachecluster_core.gate_step": "core/cachecluster_core/gate_step.py",
    "cachecluster_sidecar.router.resp": "sidecar/cachecluster_sidecar/router/resp.pyx",
    "cachecluster_sidecar.router.feeds": "sidecar/cachecluster_sidecar/router/feeds.pyx",
    "cachecluster_sidecar.router.command_table": "sidecar/cachecluster_sidecar/router/command_table.pyx",
    "cachecluster_sidecar.router.wire": "sidecar/cachecluster_sidecar/router/wire.pyx",
    "cachecluster_sidecar.router.core": "sidecar/cachecluster_sidecar/router/core.pyx",
}

extensions = [
    Extension(name, [path], extra_compile_args=["-O3"]) for name, path in SOURCES.items() if Path(path).exists()
]

setup(ext_modules=cythonize(extensions, include_path=["core", "sidecar"], language_level=3, build_dir="build/cython"))
