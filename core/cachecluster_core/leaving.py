"""Which pods are to be emptied and deleted: those too many after a scale-in, outdated ones one at a time (O6). Pure.

A pod that is `leaving` by the map stays so for ever: its copies are rebuilt elsewhere, its primaries move, and when no
entry names it any more it is deleted. Its replacement, if there is to be one, is made at once, so that copies move
straight to it. A roll goes on to the next pod only when everything is whole and every new pod can serve clients: one
that makes things worse stops. So does one whose new pods have an engine that cannot be filled by the one that there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from .engines import Engines
from .hashring import Entry, HashRing, State
from .operator_view import OperatorView, Pod, PodView, Suspicion
from .pod_number import pod_number


def leaving_pods(ring: HashRing | None) -> frozenset[str]:
    """The pods that the map calls leaving."""
    return frozenset(uid for uid, member in ring.members if member.leaving) if ring is not None else frozenset()


def staying_pods(view: OperatorView) -> tuple[Pod, ...]:
    """Pods that exist, are not ending, have not failed and are not leaving."""
    leaving = leaving_pods(view.map)
    return tuple(pod for pod in view.pods if not pod.terminating and not pod.failed and pod.uid not in leaving)


def newly_leaving(view: OperatorView, entries: tuple[Entry, ...], complete: bool) -> frozenset[str]:
    """The pods to call leaving now. `complete`: all pods that the spec asks for are there and report."""
    if view.paused:
        return frozenset()
    staying = sorted(staying_pods(view), key=lambda pod: _dispensable(view, pod))
    surplus = max(0, len(staying) - view.nodes)
    stillborn = [pod for pod in staying if _never_came_up(view, pod)]
    engines = Engines(view.agents, view.pods)
    unfit = [pod for pod in staying if pod not in stillborn and engines.unfit(entries, pod.uid)]
    idle = [pod for pod in staying if _is_idle(view, pod)]
    useless = [*stillborn[:surplus], *(pod for pod in (*stillborn[surplus:], *unfit, *idle) if pod.outdated)]
    if useless or not complete:
        return frozenset(pod.uid for pod in useless)
    if surplus:
        return frozenset(_surplus(view, staying, surplus))
    outdated = [pod for pod in staying if pod.outdated]
    others = len(staying) != sum(not is_gone(pod, view.agents.get(pod.uid), view.map) for pod in view.pods)
    new = [pod for pod in staying if not pod.outdated]
    if not outdated or others or any(pod in unfit or why_not_serving(view, pod) for pod in new):
        return frozenset()
    if not _is_whole(view, entries, engines):
        return frozenset()
    return frozenset({min(outdated, key=lambda pod: _dispensable(view, pod)).uid})


def _never_came_up(view: OperatorView, pod: Pod) -> bool:
    """A pod without copies that does not report, such as one whose image cannot be pulled. When its template has been
    mended, or it is one too many, it goes first: what waits for the cluster to be complete waits for this very pod."""
    agent = view.agents.get(pod.uid)
    silent = agent is None or agent.report is None
    return silent and not pod.ready and (view.map is None or is_empty(view.map, pod.uid))


def idle_pods(view: OperatorView) -> frozenset[str]:
    """Pods that are not ready and hold no in-sync copy, whether or not they report."""
    held = {copy.pod for entry in view.map.entries for copy in entry.isr} if view.map is not None else frozenset()
    return frozenset(pod.uid for pod in staying_pods(view) if not pod.ready and pod.uid not in held)


def _is_idle(view: OperatorView, pod: Pod) -> bool:
    """A pod that has been idle for longer than the repair delay, such as one whose redis ends again and again. When its
    template has been mended, it goes first, for the same reason."""
    since = view.memory.idle.get(pod.uid)
    return since is not None and view.now - since >= view.timing.repair_delay


def why_not_serving(view: OperatorView, pod: Pod) -> str | None:
    """What a pod still needs to serve clients by itself: None when it does."""
    agent = view.agents.get(pod.uid, PodView())
    if not pod.ready:
        return "to become ready"
    if not agent.reporting or agent.report is None:
        return "to report"
    return None if agent.report.routers else "to have a router"


def is_gone(pod: Pod, agent: PodView | None, ring: HashRing | None) -> bool:
    """A pod that is ending, has stopped to report, and is named by no entry: only its object is there, and stays for as
    long as its node is lost."""
    silent = not pod.host or (agent is not None and agent.suspicion in (Suspicion.SUSPECTED, Suspicion.CONFIRMED))
    return pod.terminating and silent and ring is not None and is_empty(ring, pod.uid)


def _dispensable(view: OperatorView, pod: Pod, crowd: int = 0) -> tuple[bool, bool, int, int]:
    """Sorts pods that should go first in front: silent ones, outdated ones, those in the largest crowd, the highest
    numbers."""
    agent = view.agents.get(pod.uid)
    number = pod_number(view.name, pod.name)
    return agent is not None and agent.reporting, not pod.outdated, -crowd, -(number if number is not None else -1)


def _surplus(view: OperatorView, staying: Sequence[Pod], count: int) -> Iterator[str]:
    """So many pods, one after the other, so that those left are spread over zones and nodes."""
    left = list(staying)
    for _ in range(count):
        zones, nodes = Counter(pod.zone for pod in left), Counter(pod.node for pod in left)
        crowd = {pod.uid: zones[pod.zone] * len(left) + nodes[pod.node] for pod in left}
        first = min(left, key=lambda pod: _dispensable(view, pod, crowd[pod.uid]))
        left.remove(first)
        yield first.uid


def _is_whole(view: OperatorView, entries: tuple[Entry, ...], engines: Engines) -> bool:
    """Every partition is served, and has all its copies in sync, or lacks one that only the next pod can be given."""
    factor = min(view.settings.replication_factor, view.nodes)
    pods = [pod.uid for pod in staying_pods(view)]

    def is_whole(entry: Entry) -> bool:
        return len(entry.isr) >= factor or engines.is_stuck(entry, pods)

    return all(e.state is State.STABLE and not e.learners and is_whole(e) for e in entries)


def is_empty(ring: HashRing, pod: str) -> bool:
    """No entry names the pod, not even as one whose gate may be open."""
    return not any(pod in entry.pods() or pod in {copy.pod for copy in entry.former} for entry in ring.entries)
