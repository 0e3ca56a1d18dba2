"""A CacheCluster in pods as tests see it: its objects, its processes, and whether it is whole."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.installed import Release
from tests.waiting import wait_until

from cachecluster_core.hashring import HashRing, State
from cachecluster_devcluster.cluster import DevCluster
from cachecluster_devcluster.processes import ProcessError

Json = dict[str, Any]

LOOK_S = 0.3
LOG_LINES = 60
CLONE_NEWNET = 0x40000000
ROUTER_MODULES = ("cachecluster-router", "cachecluster_sidecar.router")
AGENT_MODULES = ("cachecluster-agent", "cachecluster_sidecar.agent")
OPERATOR_MODULES = ("cachecluster-operator", "cachecluster_operator")


@dataclass(frozen=True, slots=True)
class Process:
    """A process in a container. `pid` is the host's; `role` is agent, router, engine, operator or other."""

    pid: int
    role: str
    container: str
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The objects of one moment."""

    cluster: Json | None
    ring: HashRing | None
    pods: tuple[Json, ...]

    def pod(self, uid: str) -> Json:
        """The pod with this UID."""
        return next(pod for pod in self.pods if pod["metadata"]["uid"] == uid)

    def condition(self, kind: str) -> Json:
        """A condition of the status; LookupError when it has none of that type."""
        status = (self.cluster or {}).get("status", {})
        found = [c for c in status.get("conditions", ()) if c["type"] == kind]
        if not found:
            raise LookupError(f"no condition {kind}: {status}")
        condition: Json = found[0]
        return condition

    def why_not_whole(self, copies: int, nodes: int) -> str | None:
        """Why not every partition has all its copies on different nodes and zones, with `nodes` pods ready; or None."""
        if self.ring is None or self.cluster is None:
            return "no map or no CacheCluster"
        ready = {pod["metadata"]["uid"] for pod in self.pods if is_ready(pod)}
        for partition, entry in enumerate(self.ring.entries):
            if entry.state is not State.STABLE or len(entry.isr) != copies or entry.learners:
                return f"partition {partition}: {entry}"
            if not {copy.pod for copy in entry.isr} <= ready:
                return f"partition {partition} is on a pod that is not ready: {entry}"
            members = [self.ring.member(copy.pod) for copy in entry.isr]
            places = {(member.zone, member.node) for member in members if member is not None and member.node}
            if len({zone for zone, _ in places}) != copies:
                return f"partition {partition} is not on different nodes and zones: {members}"
        if len(ready) != nodes:
            return f"{len(ready)} pods are ready"
        wanted = "True" if nodes == self.cluster["spec"]["nodes"] else "False"
        condition = self.condition("Ready")
        return None if condition["status"] == wanted else f"Ready is {condition}"

    def is_balanced(self) -> bool:
        """Whether nothing moves, and every pod leads as many partitions as any other, to within one."""
        if self.ring is None or any(entry.state is not State.STABLE for entry in self.ring.entries):
            return False
        leads = Counter(entry.primary.pod for entry in self.ring.entries if entry.primary is not None)
        counts = [leads[uid] for uid, _ in self.ring.members]
        return max(counts) - min(counts) <= 1


def is_ready(pod: Json) -> bool:
    """Whether the kubelet (or the operator, of a lost node's pod) says so of a pod that is to stay."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))


class CacheInPods:
    """A CacheCluster by its name."""

    def __init__(self, operator: Release, name: str) -> None:
        self.cluster = operator.cluster
        self.namespace = operator.watched
        self.name = name
        self.operator = operator
        self.host = f"{name}.{self.namespace}.svc.cluster.local"

    def kubectl(self, *arguments: str, input_text: str | None = None) -> str:
        """kubectl in the cluster's namespace."""
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, input_text=input_text)

    def get(self, *arguments: str) -> Json:
        """`kubectl get ... -o json`."""
        found: Json = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    # -- its objects --

    def view(self) -> View:
        """All of it, by one kubectl."""
        items = self.get("cacheclusters,hashrings,pods")["items"]

        def named(kind: str) -> Json | None:
            own = (item for item in items if item["kind"] == kind and item["metadata"]["name"] == self.name)
            return next(own, None)

        ring = named("HashRing")
        label = "cachecluster.io/cluster"
        pods = [it for it in items if it["kind"] == "Pod" and it["metadata"].get("labels", {}).get(label) == self.name]
        return View(named("CacheCluster"), HashRing.from_object(ring) if ring else None, tuple(pods))

    def ring(self) -> HashRing | None:
        """The map."""
        text = self.kubectl("get", "hashring", self.name, "--ignore-not-found", "-o", "json")
        return HashRing.from_object(json.loads(text)) if text.strip() else None

    def wait_ready(self, seconds: float = 60.0) -> None:
        """`kubectl wait` until it is Ready."""
        self.kubectl("wait", f"cc/{self.name}", "--for=condition=Ready", f"--timeout={seconds:.0f}s")

    def wait_whole(self, seconds: float = 60.0, copies: int = 2, nodes: int = 3) -> float:
        """Until every partition has all copies on different nodes and zones; the seconds that took."""
        began = time.monotonic()
        while (why_not := self.view().why_not_whole(copies, nodes)) is not None:
            assert time.monotonic() - began < seconds, f"not whole within {seconds} s: {why_not}\n{self.story()}"
            time.sleep(LOOK_S)
        return time.monotonic() - began

    def wait_balanced(self, seconds: float = 60.0) -> None:
        """The same, and until primaries are spread evenly: from then on nothing moves without a reason."""
        self.wait_whole(seconds)
        wait_until(lambda: self.view().is_balanced(), seconds, "primaries are balanced", LOOK_S)
        self.wait_whole(seconds)

    def story(self) -> str:
        """What it looks like, for people who read a failure."""
        parts = [
            self.kubectl("get", "pods", "-o", "wide"),
            self.kubectl("describe", "cc", self.name),
            self.cluster.kubectl("get", "nodes"),
            self._log(self.operator.namespace, "app.kubernetes.io/name=cachecluster-operator"),
            self._log(self.namespace, f"cachecluster.io/cluster={self.name}"),
        ]
        return "\n".join(parts)

    def _log(self, namespace: str, selector: str) -> str:
        where = ("--namespace", namespace, "-l", selector, "--prefix", f"--tail={LOG_LINES}")
        try:
            return self.cluster.kubectl("logs", *where)
        except ProcessError as error:  # a node is away
            return str(error)

    def events_since(self, moment: float) -> list[str]:
        """`reason: note` of the events on the CacheCluster, of which the last was after `moment` (time.time)."""
        items = self.cluster.kubectl("get", "events.events.k8s.io", "-n", self.namespace, "-o", "json")
        found = []
        for item in json.loads(items)["items"]:
            regarding = item.get("regarding", {})
            last = (item.get("series") or {}).get("lastObservedTime") or item.get("eventTime") or ""
            if (regarding.get("kind"), regarding.get("name")) == ("CacheCluster", self.name) and last >= stamp(moment):
                found.append(f"{item['reason']}: {item.get('note', '')}")
        return found

    def token(self) -> str:
        """What routers and agents of the cluster know each other by."""
        name = f"{self.name}-auth-{self.get('cc', self.name)['metadata']['uid'][:8]}"
        return base64.b64decode(self.get("secret", name)["data"]["peer-token"]).decode().strip()

    def cluster_ip(self) -> str:
        """The address of the Service for any client."""
        address: str = self.get("service", self.name)["spec"]["clusterIP"]
        return address

    # -- its processes --

    def processes(self, pod: Json) -> list[Process]:
        """All processes in the containers of a pod (not the sandbox)."""
        return processes_of(self.cluster, pod)

    def kill(self, processes: Sequence[Process]) -> None:
        """SIGKILL to all of them."""
        assert processes, "nothing to kill"
        for process in processes:
            assert process.pid > 1, process
            with suppress(ProcessLookupError):  # the end of another one before it ended this one too
                os.kill(process.pid, signal.SIGKILL)


@contextmanager
def made(operator: Release, name: str, spec: Json) -> Iterator[CacheInPods]:
    """A CacheCluster of one's own, Ready; it is deleted afterwards."""
    cache = CacheInPods(operator, name)
    manifest = {"apiVersion": "cachecluster.io/v1alpha1", "kind": "CacheCluster", "metadata": {"name": name}}
    cache.kubectl("apply", "-f", "-", input_text=json.dumps(manifest | {"spec": spec}))
    try:
        try:
            cache.wait_ready()
        except ProcessError as error:
            raise AssertionError(f"{error}\n{cache.story()}") from error
        yield cache
    finally:
        cache.kubectl("delete", "cc", name, "--ignore-not-found")


def processes_of(cluster: DevCluster, pod: Json) -> list[Process]:
    """All processes in the containers of any pod."""
    statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", [])
    containers = {s["containerID"].rpartition("/")[2]: s["name"] for s in statuses if s.get("containerID")}
    found = []
    for group in cluster.pod_cgroup(pod["spec"]["nodeName"]).glob(f"**/pod{pod['metadata']['uid']}/*/cgroup.procs"):
        name = containers.get(group.parent.name)
        if name is not None:
            found += [_identify(int(pid), name) for pid in group.read_text().split()]
    return found


def _identify(pid: int, container: str) -> Process:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        folder = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:  # it just ended
        return Process(pid, "other", container)
    partition = folder.name
    if container == "redis" and partition[:1] == "p" and partition[1:].isdigit() and "-server" in words:
        return Process(pid, "engine", container, int(partition[1:]))
    for role, names in (("router", ROUTER_MODULES), ("agent", AGENT_MODULES), ("operator", OPERATOR_MODULES)):
        if "s6-" not in words and any(name in words for name in names):
            return Process(pid, role, container)
    return Process(pid, "other", container)


def stamp(moment: float) -> str:
    """RFC 3339 with microseconds in UTC, as in events; compares as text."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment % 1 * 1e6):06d}Z"


@contextmanager
def network_of(pid: int) -> Iterator[None]:
    """Sockets that the calling thread makes within are in the network of a process."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            enter(other)
        finally:
            os.close(other)  # an open one would keep the network of a killed node alive
        try:
            yield
        finally:
            enter(own)
    finally:
        os.close(own)


def until_all_gone(cache: CacheInPods, kinds: str, seconds: float) -> float:
    """Until no object of these kinds has the cluster's label; the seconds that took."""

    def left() -> str:
        return cache.kubectl("get", kinds, "-l", f"cachecluster.io/cluster={cache.name}", "-o", "name").strip()

    try:
        return wait_until(lambda: not left(), seconds, "garbage collection")
    except TimeoutError as error:
        raise AssertionError(f"{error}; left: {left()}") from error
