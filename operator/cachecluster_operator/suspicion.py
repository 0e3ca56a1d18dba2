"""Who may be dead: what the operator believes about a pod's agent, from reports, resets and probes (O1). Pure.

Only a peer that itself reports can confirm a suspicion, so that an operator cut off from the agents confirms nothing.
Time is the control loop's monotonic clock in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cachecluster_core.operator_view import PodView, Suspicion
from cachecluster_core.report import Report

MISSED_REPORTS_S = 1.6
"""Three reports of 0.5 s are missing, and 0.1 s for the way."""
FIRST_REPORT_S = 5.0
"""How long an agent that never reported in this operator's life is merely unknown."""


class Answer(StrEnum):
    """What a connection attempt to a port found."""

    REFUSED = "refused"
    """Nobody listens there: the process is dead, as long as the address is the pod's."""
    TIMEOUT = "timeout"
    """Nothing, or an error that proves nothing."""
    ANSWERED = "answered"
    """Somebody accepts."""


class Verdict(StrEnum):
    """What the last probe by a reporting peer says about a suspect's gates."""

    NONE = "none"
    """Nobody has looked yet."""
    AUTHORITY = "authority"
    """At least one gate is open under authority: it serves clients, though it does not report."""
    NO_AUTHORITY = "no authority"
    """Its gates do not answer, or none is open."""


@dataclass(frozen=True, slots=True)
class Probed:
    """One probe of a suspect: its two ports, and its gates as partition -> (epoch, milliseconds of authority left),
    None when they did not answer or were not asked."""

    cluster_port: Answer
    agent_port: Answer
    gates: Mapping[int, tuple[int, int]] | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Probed:
        """From an agent's `probed` message. ValueError when malformed."""
        try:
            gates = data["gates"]
            return cls(
                Answer(data["clusterPort"]),
                Answer(data["agentPort"]),
                None if gates is None else {int(p): (int(epoch), int(left)) for p, (epoch, left) in gates.items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"malformed probe result: {error!r}") from error

    @property
    def refused(self) -> bool:
        """Both ports refuse connections."""
        return self.cluster_port is Answer.REFUSED and self.agent_port is Answer.REFUSED

    @property
    def verdict(self) -> Verdict:
        """What a reporting peer's probe means for the suspicion."""
        serves = any(left_ms > 0 for _, left_ms in (self.gates or {}).values())
        return Verdict.AUTHORITY if serves else Verdict.NO_AUTHORITY


@dataclass(slots=True)
class AgentTrack:
    """What is known of one pod's agent. `since` is when this operator began to wait for it. `terminated` is the
    kubelet's word that the sidecar ended for good, kept when the pod object is gone."""

    uid: str
    host: str
    since: float
    report: Report | None = None
    reported_at: float | None = None
    heard_at: float | None = None
    reset: bool = False
    verdict: Verdict = Verdict.NONE
    round_verdict: Verdict = Verdict.NONE
    refused_at: float | None = None
    terminated: bool = False

    def take_report(self, report: Report, now: float) -> None:
        """The agent is there: whatever was suspected before is over. Evidence of silence in the past stays."""
        self.report, self.reported_at, self.heard_at = report, now, now
        self.reset, self.verdict = False, Verdict.NONE

    def take_probe(self, probed: Probed, began_at: float, *, by_peer: bool, owns_address: bool) -> None:
        """A probe that began at `began_at` ended. Refusals count only while the address is certainly the pod's."""
        if probed.refused and owns_address:
            self.refused_at = max(began_at, self.refused_at or began_at)
        if by_peer and self.round_verdict is not Verdict.AUTHORITY:
            self.verdict = self.round_verdict = probed.verdict

    def begin_round(self) -> None:
        """Peers are asked again: of their answers in one round, one that saw authority outweighs the others."""
        self.round_verdict = Verdict.NONE

    def excuse(self, now: float) -> None:
        """This operator itself was stalled: reports may be waiting unread, so silence until now proves nothing."""
        if self.heard_at is not None and not self.reset:
            self.heard_at = now
        self.since = max(self.since, now - FIRST_REPORT_S + MISSED_REPORTS_S)

    def suspect_at(self) -> float:
        """When the suspicion begins if nothing is heard until then."""
        if self.heard_at is None:
            return self.since + FIRST_REPORT_S
        return self.heard_at + (0.0 if self.reset else MISSED_REPORTS_S)

    def suspicion(self, now: float, *, kubelet_confirms: bool) -> Suspicion:
        """What may be believed now. `kubelet_confirms`: the only pod of its cluster, and not Ready."""
        if now < self.suspect_at():
            return Suspicion.UNKNOWN if self.heard_at is None else Suspicion.NONE
        if self.verdict is Verdict.NO_AUTHORITY or kubelet_confirms:
            return Suspicion.CONFIRMED
        return Suspicion.SUSPECTED

    def view(self, now: float, *, kubelet_confirms: bool) -> PodView:
        """The same for `operator_step`."""
        suspicion = self.suspicion(now, kubelet_confirms=kubelet_confirms)
        silent = suspicion is not Suspicion.NONE
        return PodView(
            report=self.report,
            reported_at=self.reported_at,
            suspicion=suspicion,
            refused_at=self.refused_at,
            unreachable_since=(self.since if self.reported_at is None else self.reported_at) if silent else None,
            terminated=self.terminated,
        )
