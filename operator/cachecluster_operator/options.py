"""The operator's flags. Each may also be given in the environment, as CACHECLUSTER_OPERATOR_<FLAG>."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cachecluster_core.usage import UsageParser

from .election import ElectionTiming
from .kube_config import own_namespace

PREFIX = "CACHECLUSTER_OPERATOR_"


@dataclass(frozen=True, slots=True)
class Options:
    """`namespaces` None means all. `kubeconfig` None means the pod's ServiceAccount."""

    namespaces: tuple[str, ...] | None
    image: str
    metrics_port: int
    leader_election: bool
    lease_name: str
    operator_namespace: str
    timing: ElectionTiming
    kubeconfig: str | None
    identity: str
    observability: bool
    verbose: bool


def parse_options(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Options:
    """The options; exits 64 with the usage when they are wrong."""
    parser = _build_parser(environment)
    given = parser.parse_args(arguments)
    timing = ElectionTiming(given.lease_duration, given.renew_deadline, given.retry_period)
    if given.leader_election and (reason := timing.reject_reason()):
        parser.error(reason)
    if not given.image:
        parser.error(f"--image (or {PREFIX}IMAGE) is required: the image of the cache pods")
    namespace = given.operator_namespace or own_namespace()
    if not namespace:
        parser.error("--operator-namespace is required outside of a pod")
    return Options(
        namespaces=tuple(given.namespace) or None,
        image=given.image,
        metrics_port=given.metrics_port,
        leader_election=given.leader_election,
        lease_name=given.lease_name,
        operator_namespace=namespace,
        timing=timing,
        kubeconfig=given.kubeconfig or None,
        identity=given.identity,
        observability=given.observability,
        verbose=given.verbose,
    )


def _build_parser(environment: Mapping[str, str]) -> UsageParser:
    parser = UsageParser(
        prog="cachecluster-operator",
        description="Runs CacheClusters: watches them, keeps their pods, elects primaries, repairs copies.",
        epilog=f"Every flag can be given as {PREFIX}<FLAG>, in upper case, with _ for -.",
    )

    def default(flag: str, fallback: str = "") -> str:
        return environment.get(PREFIX + flag.upper().replace("-", "_"), fallback)

    def switch(flag: str, text: str, fallback: bool) -> None:
        value = default(flag, "true" if fallback else "false").lower() in ("1", "true", "yes")
        parser.add_argument(f"--{flag}", action=argparse.BooleanOptionalAction, default=value, help=text)

    def add(flag: str, text: str, fallback: str = "", kind: type = str, metavar: str | None = None) -> None:
        # argparse converts a default that is text as it converts what is given.
        parser.add_argument(f"--{flag}", type=kind, default=default(flag, fallback), help=text, metavar=metavar)

    namespaces = [name for name in default("namespace").split(",") if name]
    parser.add_argument(
        "--namespace", action=_Append, default=namespaces, metavar="NS",
        help="a namespace to work in; may be repeated; all when there is none",
    )  # fmt: skip
    add("image", "image of the cache pods, unless a CacheCluster names another")
    add(
        "metrics-port", "port of /metrics, /healthz and /readyz; 0 for any free one (default 9120)", "9120", int, "PORT"
    )
    switch("leader-election", "work only while holding a Lease (default); without it, always", True)
    add("lease-name", "name of that Lease (default cachecluster-operator)", "cachecluster-operator", metavar="NAME")
    add("operator-namespace", "namespace of the Lease, dashboards and alerts (default: the pod's own)", metavar="NS")
    add("lease-duration", "seconds until another may take an unchanged Lease over (default 15)", "15", float, "S")
    add("renew-deadline", "seconds without renewal until this one stops working (default 10)", "10", float, "S")
    add("retry-period", "seconds between two looks at the Lease (default 2)", "2", float, "S")
    add("kubeconfig", "kubeconfig for running outside of a pod", metavar="FILE")
    add("identity", "name in the Lease (default: the pod's name, or host and pid)", _identity(environment))
    switch("observability", "apply dashboards, alert rules and scrape configurations (default)", True)
    switch("verbose", "log debug messages", False)
    return parser


class _Append(argparse.Action):
    """Like append, but what is given replaces the default."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        given = [] if getattr(namespace, "_appended", False) is False else list(getattr(namespace, self.dest))
        namespace._appended = True
        setattr(namespace, self.dest, [*given, values])


def _identity(environment: Mapping[str, str]) -> str:
    # A pod's container that starts again is the same candidate; elsewhere two processes may share a host.
    return environment.get("POD_NAME") or f"{socket.gethostname()}_{os.getpid()}"
