"""The watch on gates finds what it is there to find."""

from __future__ import annotations

import pytest
from tests.gate_watch import Observations, Span

pytestmark = pytest.mark.t0


@pytest.mark.parametrize(
    ("other", "together"),
    [
        (Span("b", 8, 1.5, 2.5), True),
        (Span("b", 8, 0.5, 3.0), True),
        (Span("b", 7, 1.2, 1.3), True),
        (Span("b", 8, 2.0, 2.5), False),
        (Span("b", 8, 0.5, 1.0), False),
        (Span("a", 8, 1.5, 2.5), False),
    ],
)
def test_two_gates_that_were_certainly_open_together_are_found(other: Span, together: bool) -> None:
    seen = Observations()
    seen.add(3, Span("a", 7, 1.0, 2.0))
    seen.add(3, other)
    seen.add(4, Span("b", 7, 1.5, 2.5))
    assert bool(seen.violations) == together
