"""The guard: a small process that outlives `cachecluster-local` and leaves nothing of it behind, however it ended.

It waits for the end of its standard input, which the launcher holds open, then ends every process of a node in the
state directory, and removes that when told to. The launcher's own orderly stop ends with it too.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
from pathlib import Path

from .plan import node_directories
from .processes import kill_under

READY = b"guarding\n"
"""Written to standard output once nothing but the end of its input ends the guard."""


def main() -> None:
    """`python -m cachecluster_local.guard DIRECTORY keep|remove`."""
    directory, remove = Path(sys.argv[1]), sys.argv[2] == "remove"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.buffer.write(READY)
    sys.stdout.close()
    sys.stdin.buffer.read()
    try:
        kill_under(*node_directories(directory))
    except TimeoutError as error:
        logging.error("%s", error)
    if remove:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
