"""Suspicions: what silence, resets, probes and the kubelet's word make of a pod."""

from __future__ import annotations

import pytest

from cachecluster_core.operator_view import Suspicion
from cachecluster_core.report import Report
from cachecluster_operator.suspicion import (
    FIRST_REPORT_S,
    MISSED_REPORTS_S,
    AgentTrack,
    Answer,
    Probed,
    Verdict,
)

pytestmark = pytest.mark.t0

REFUSED = Probed(Answer.REFUSED, Answer.REFUSED)
SILENT = Probed(Answer.TIMEOUT, Answer.TIMEOUT)
SERVING = Probed(Answer.ANSWERED, Answer.REFUSED, {3: (7, 1200)})
LAPSED = Probed(Answer.ANSWERED, Answer.ANSWERED, {3: (7, 0)})


def reporting(at: float = 10.0) -> AgentTrack:
    track = AgentTrack("uid-0", "127.0.0.1", since=0.0)
    track.take_report(Report("uid-0", "i"), at)
    return track


def believed(track: AgentTrack, now: float, *, kubelet: bool = False) -> Suspicion:
    return track.suspicion(now, kubelet_confirms=kubelet)


def test_an_agent_that_never_reported_is_unknown_for_five_seconds_then_suspected() -> None:
    track = AgentTrack("uid-0", "127.0.0.1", since=100.0)
    assert believed(track, 100.0 + FIRST_REPORT_S - 0.01) is Suspicion.UNKNOWN
    assert believed(track, 100.0 + FIRST_REPORT_S) is Suspicion.SUSPECTED
    assert track.view(106.0, kubelet_confirms=False).unreachable_since == 100.0


def test_three_missing_reports_make_a_suspect_and_one_report_ends_it() -> None:
    track = reporting(10.0)
    assert believed(track, 10.0 + MISSED_REPORTS_S - 0.01) is Suspicion.NONE
    assert believed(track, 10.0 + MISSED_REPORTS_S) is Suspicion.SUSPECTED
    assert track.view(12.0, kubelet_confirms=False).unreachable_since == 10.0
    track.take_report(Report("uid-0", "i"), 12.5)
    assert believed(track, 12.5) is Suspicion.NONE
    assert track.view(12.5, kubelet_confirms=False).unreachable_since is None


def test_a_reset_stream_makes_a_suspect_at_once() -> None:
    track = reporting(10.0)
    track.reset = True
    assert believed(track, 10.0) is Suspicion.SUSPECTED


@pytest.mark.parametrize("probed", [REFUSED, SILENT, LAPSED, Probed(Answer.ANSWERED, Answer.ANSWERED, {})])
def test_a_peer_that_finds_no_authority_confirms(probed: Probed) -> None:
    track = reporting()
    track.reset = True
    track.take_probe(probed, 10.1, by_peer=True, owns_address=True)
    assert believed(track, 10.2) is Suspicion.CONFIRMED


def test_a_peer_that_finds_an_open_gate_does_not_confirm_and_takes_a_confirmation_back() -> None:
    track = reporting()
    track.reset = True
    track.take_probe(SILENT, 10.1, by_peer=True, owns_address=True)
    track.take_probe(SERVING, 10.6, by_peer=True, owns_address=True)
    assert believed(track, 10.7) is Suspicion.SUSPECTED


def test_within_a_round_a_peer_that_saw_authority_outweighs_one_that_got_no_answer() -> None:
    track = AgentTrack("uid", "10.0.0.1", 0.0)
    track.begin_round()
    track.take_probe(SERVING, 1.0, by_peer=True, owns_address=True)
    track.take_probe(Probed(Answer.TIMEOUT, Answer.TIMEOUT), 1.1, by_peer=True, owns_address=True)
    assert track.verdict is Verdict.AUTHORITY
    track.begin_round()
    track.take_probe(Probed(Answer.TIMEOUT, Answer.TIMEOUT), 2.0, by_peer=True, owns_address=True)
    assert track.verdict is Verdict.NO_AUTHORITY


def test_the_operators_own_probe_confirms_nothing_but_is_evidence_of_silence() -> None:
    track = reporting()
    track.reset = True
    track.take_probe(REFUSED, 10.1, by_peer=False, owns_address=True)
    assert believed(track, 10.2) is Suspicion.SUSPECTED
    assert track.refused_at == 10.1


@pytest.mark.parametrize(
    ("probed", "owns"),
    [(REFUSED, False), (SILENT, True), (SERVING, True), (Probed(Answer.REFUSED, Answer.TIMEOUT), True)],
)
def test_only_two_refusals_from_an_address_that_is_certainly_the_pods_prove_silence(probed: Probed, owns: bool) -> None:
    track = reporting()
    track.reset = True
    track.take_probe(probed, 10.1, by_peer=True, owns_address=owns)
    assert track.refused_at is None


def test_evidence_keeps_the_latest_beginning_of_a_probe() -> None:
    track = reporting()
    for began in (10.3, 10.1, 10.2):
        track.take_probe(REFUSED, began, by_peer=True, owns_address=True)
    assert track.refused_at == 10.3


def test_in_a_cluster_of_one_pod_the_kubelet_stands_in_for_the_peer_but_only_of_a_suspect() -> None:
    track = reporting(10.0)
    assert believed(track, 10.5, kubelet=True) is Suspicion.NONE
    track.reset = True
    assert believed(track, 10.5, kubelet=True) is Suspicion.CONFIRMED


def test_a_stalled_operator_suspects_nobody_for_the_time_it_was_not_there() -> None:
    track, unknown = reporting(10.0), AgentTrack("uid-1", "127.0.0.2", since=9.0)
    for it in (track, unknown):
        it.excuse(60.0)
    assert believed(track, 60.1) is Suspicion.NONE
    assert believed(unknown, 60.1) is Suspicion.UNKNOWN
    assert believed(track, 60.0 + MISSED_REPORTS_S) is Suspicion.SUSPECTED


def test_a_stall_does_not_excuse_a_reset_stream() -> None:
    track = reporting(10.0)
    track.reset = True
    track.excuse(60.0)
    assert believed(track, 60.0) is Suspicion.SUSPECTED


def test_the_probed_message_of_an_agent_is_understood() -> None:
    data = {"id": 4, "clusterPort": "answered", "agentPort": "refused", "gates": {"3": [7, 1200]}}
    assert Probed.from_json(data) == SERVING
    assert SERVING.verdict is Verdict.AUTHORITY
    assert Probed.from_json(data | {"gates": None}).verdict is Verdict.NO_AUTHORITY


@pytest.mark.parametrize("broken", [{}, {"clusterPort": "maybe", "agentPort": "refused", "gates": None}, {"gates": 3}])
def test_a_malformed_probed_message_is_a_value_error(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Probed.from_json(broken)
