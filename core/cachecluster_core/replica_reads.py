"""May the copy here answer reads in its primary's place, and until when? Pure: read off an `AgentView`.

What it answers may be old, but only so old: its link to the primary of the map was up and not silent for longer than
`LINK_SILENT_S` when it was last looked at, which the word outlives by `LOOK_S`, and the map was confirmed within
`MAP_S`, so that a primary that was replaced, and its replicas that do not know it, are not read for longer either.
How far behind it may be while the link is up is what the in-sync set bounds: hence not while the primary asks for
promises, for then it cannot read the map, and no copy leaves the set.
"""

from __future__ import annotations

from .copy_state import CopyState
from .gate_step import SHUT
from .hashring import State

LINK_SILENT_S = 1
"""As the engine counts: in whole seconds of its clock, so that the link was silent for less than one more. A primary
says something every second."""
LOOK_S = 1.5
"""A copy is looked at every 0.5 s, and the step that sees it may be 0.5 s later."""
MAP_S = 2.0
"""The map is read every second."""


def readable_until(state: CopyState) -> int:
    """Until when (CLOCK_BOOTTIME, nanoseconds) the copy of the partition here may answer reads; 0: it may not."""
    view = state.view
    if view.map is None or view.map.settings.reads_from == "primary" or state.marks.promised_until_ns > view.now_ns:
        return 0
    entry, copy = state.entry, state.copy
    if entry is None or entry.state is not State.STABLE or state.gate.gate_epoch != SHUT:
        return 0
    if entry.primary == state.identity or state.identity not in entry.isr:
        return 0
    follows = state.intact and not copy.busy and copy.link_up and copy.source == state.address(entry.primary)
    if not follows or not 0 <= copy.link_silence_s <= LINK_SILENT_S:
        return 0
    return min(copy.observed_ns + round(LOOK_S * 1e9), view.confirmed_at_ns + round(MAP_S * 1e9))
