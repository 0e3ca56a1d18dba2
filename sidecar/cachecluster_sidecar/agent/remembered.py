"""RUN/map.json: the last confirmed map, and the entries with the highest epochs that this pod ever took.

It survives the agent's process. The map in it is never authority; the entries are what a lost map is rebuilt from (O8).
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from cachecluster_core.hashring import Entry, HashRing, entry_from_json, entry_to_json

from .engine_process import write_private

log = logging.getLogger(__name__)


class Remembered:
    """What stands in the file, kept in memory too. `ring` is the map that an earlier agent read last: routers may look
    for partitions where it says, as long as this one has not read any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version = ""
        self.taken: dict[int, Entry] = {}
        self.ring: HashRing | None = None

    def load(self) -> None:
        """Read what an earlier agent left; a file that makes no sense counts as none."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            self.taken = {int(partition): entry_from_json(entry) for partition, entry in data["taken"].items()}
            self.ring = HashRing.from_object(data["map"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            log.warning("%s is of no use: %r", self._path, error)

    def take(self, ring: HashRing) -> None:
        """A map was read. The file is written before anything is done about it. OSError when that fails."""
        if ring.version == self._version:
            return
        for partition, entry in enumerate(ring.entries):
            known = self.taken.get(partition)
            if known is None or entry.epoch >= known.epoch:
                self.taken[partition] = entry
        write_private(self._path, json.dumps(self._to_json(ring)))
        self._version = ring.version

    def _to_json(self, ring: HashRing) -> dict[str, Any]:
        metadata = {"name": ring.name, "uid": ring.uid, "resourceVersion": ring.version}
        return {
            "map": {"metadata": metadata, "spec": ring.to_spec()},
            "taken": {str(partition): entry_to_json(entry) for partition, entry in self.taken.items()},
        }
