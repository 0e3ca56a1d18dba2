"""The load's judgement of what it reads: lost acknowledged writes and its own late ones are told apart."""

from __future__ import annotations

import pytest
from tests.e2e.write_history import History, Meaning

pytestmark = pytest.mark.t0


def history(*fates: str) -> History:
    """Writes with these fates, one a second: "ack", "unknown" or "refused"."""
    made = History("c")
    for second, fate in enumerate(fates):
        sequence = made.send(float(second))
        if fate == "ack":
            made.acknowledged(sequence, second + 0.5)
        elif fate == "refused":
            made.refused(sequence, "TRYAGAIN")
        else:
            made.unknown(sequence, "TimeoutError")
    return made


@pytest.mark.parametrize(
    ("fates", "value", "meaning"),
    [
        ((), None, Meaning.FINE),
        (("ack",), b"c:0", Meaning.FINE),
        (("ack", "unknown"), b"c:0", Meaning.FINE),
        (("ack", "unknown"), b"c:1", Meaning.FINE),
        (("ack", "unknown", "ack"), b"c:1", Meaning.LATE),
        (("ack", "ack"), b"c:0", Meaning.UNDONE),
        (("ack", "unknown", "ack"), b"c:0", Meaning.UNDONE),
        (("ack",), None, Meaning.EMPTIED),
        (("ack", "refused"), b"c:1", Meaning.WRONG),
        (("ack", "refused", "ack"), b"c:1", Meaning.WRONG),
        (("ack",), b"c:1", Meaning.WRONG),
        (("ack",), b"d:0", Meaning.WRONG),
        (("ack",), b"x", Meaning.WRONG),
    ],
)
def test_what_a_value_means(fates: tuple[str, ...], value: bytes | None, meaning: Meaning) -> None:
    assert history(*fates).read(value).meaning is meaning


def test_undone_are_the_acknowledged_writes_after_the_one_that_was_found_and_they_are_told_once() -> None:
    made = history("ack", "ack", "unknown", "refused", "ack")
    finding = made.read(b"c:0")
    assert [write.acknowledged_at for write in finding.undone] == [1.5, 4.5]
    assert made.read(b"c:0").meaning is Meaning.FINE


def test_a_write_of_unknown_fate_that_was_read_once_does_not_come_late() -> None:
    made = history("ack", "unknown")
    assert made.unsure
    assert made.read(b"c:1").meaning is Meaning.FINE
    assert not made.unsure
    made.acknowledged(made.send(2.0), 2.5)
    finding = made.read(b"c:1")
    assert finding.meaning is Meaning.UNDONE and len(finding.undone) == 1


def test_a_client_is_unsure_of_a_write_until_it_reads() -> None:
    made = history("ack", "unknown")
    assert made.unsure
    assert made.read(b"c:0").meaning is Meaning.FINE
    assert not made.unsure
    made.refused(made.send(2.0), "TRYAGAIN")
    assert not made.unsure


def test_after_a_late_write_the_next_acknowledged_one_counts_again() -> None:
    made = history("ack", "unknown", "ack")
    assert made.read(b"c:1").meaning is Meaning.LATE
    made.acknowledged(made.send(3.0), 3.5)
    assert made.read(b"c:3").meaning is Meaning.FINE
    assert made.read(b"c:2").meaning is Meaning.UNDONE
