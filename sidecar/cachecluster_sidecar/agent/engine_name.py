"""The name and version of the engine that a pod's copies run, by the word of its binary."""

from __future__ import annotations

import logging
import re
import subprocess

TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


def engine_name(kind: str, binary: str) -> str:
    """Such as "valkey 9.1.2"; the name alone when the binary does not say its version."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("the version of %s is not known: %s", binary, error)
        return kind
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", done.stdout)
    return f"{kind} {found[1]}" if found is not None else kind
