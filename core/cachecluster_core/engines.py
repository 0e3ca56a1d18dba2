"""Which engine can load what another one sends, and what that leaves open to a cluster of two engines. Pure.

A copy is *filled* by an RDB file of the primary's engine, whose format it must know. Commands that are streamed
afterwards, and a partial resync, need no format: a replica of an older engine can go on following a newer one, but once
it must be filled it is lost. So while pods of two engines are there, copies are placed anew on the newer ones, and a
primary stays on an older one as long as a copy that will stay there could need it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache

from .hashring import Entry, State
from .operator_view import Pod, PodView

LAST_COMMON = (7, 2)
"""The last version of redis whose files valkey loads: there they parted."""


@cache
def can_fill(source: str, target: str) -> bool:
    """Whether `target` loads what `source` sends; both as in `Report.engine`, such as "redis 7.0.15".

    Releases that differ in the last number only share a format, and later ones know all earlier ones. What is not
    known ('') is taken for able: that is what it was when the cluster was made.
    """
    (source_name, source_version), (target_name, target_version) = _parse(source), _parse(target)
    if not source_name or not target_name:
        return True
    if source_name == target_name:
        return not source_version or not target_version or source_version <= target_version
    return (source_name, target_name) == ("redis", "valkey") and source_version <= LAST_COMMON


def _parse(engine: str) -> tuple[str, tuple[int, ...]]:
    """Name, and the first two numbers of the version ((): not known)."""
    name, _, version = engine.partition(" ")
    numbers = version.split(".")[:2]
    return name, tuple(map(int, numbers)) if all(number.isdigit() for number in numbers) else ()


class Engines:
    """The engines of a cluster's pods, by their agents' reports; by their objects where an agent does not say."""

    def __init__(self, agents: Mapping[str, PodView], pods: Iterable[Pod] = ()) -> None:
        self._of = {pod.uid: pod.engine for pod in pods}
        self._of |= {uid: it.report.engine for uid, it in agents.items() if it.report is not None and it.report.engine}
        names = set(self._of.values())
        self.mixed = any(not can_fill(source, target) for source in names for target in names)

    def name(self, pod: str) -> str:
        """The engine of a pod, '' while it is not known."""
        return self._of.get(pod, "")

    def fills(self, source: str, target: str) -> bool:
        """Whether a copy on pod `target` can be filled by a primary on pod `source`."""
        return not self.mixed or can_fill(self.name(source), self.name(target))

    def fills_all(self, source: str, targets: Collection[str]) -> bool:
        """Whether a primary on pod `source` could fill copies on all of these pods."""
        return all(self.fills(source, pod) for pod in targets)

    def hopeless(self, entry: Entry, pods: Collection[str]) -> frozenset[str]:
        """Those of the pods that the primary cannot fill."""
        if not self.mixed or entry.primary is None:
            return frozenset()
        return frozenset(pod for pod in pods if not self.fills(entry.primary.pod, pod))

    def unfit(self, entries: Sequence[Entry], pod: str) -> str | None:
        """The engine of some primary that cannot fill a pod which holds no in-sync copy; None when there is none."""
        if not self.mixed or any(entry.copy_on(pod) for entry in entries):
            return None
        return next((self.name(e.primary.pod) for e in entries if e.primary and self.hopeless(e, (pod,))), None)

    def barred(self, entry: Entry, places: Collection[str], copies: int) -> frozenset[str]:
        """Those of the pods that are to be given no copy anew: what cannot be filled, and, as long as there are enough
        others for so many copies, older engines, which a primary may leave behind."""
        if not self.mixed or entry.primary is None:
            return frozenset()
        hopeless = self.hopeless(entry, places)
        names = {self.name(pod) for pod in places}
        latest = {target for target in names if all(can_fill(source, target) for source in names)}
        newest = {pod for pod in places if self.name(pod) in latest}
        holders = entry.pods() & set(places)
        enough = len((newest | holders) - hopeless) >= copies
        return hopeless | (frozenset(places) - newest) if enough else hopeless

    def is_stuck(self, entry: Entry, places: Collection[str]) -> bool:
        """Copies are missing that none of the pods can be given: only a pod of a newer engine helps."""
        if not self.mixed or entry.state is not State.STABLE or entry.learners:
            return False
        free = set(places) - entry.pods()
        return self.hopeless(entry, free) == free
