# cython: language_level=3, annotation_typing=False
"""The gate: may a client command reach a copy, and may its reply leave, at this instant?

This is the function that routers run for every batch. `gate_step.pxd` beside it gives it a C entry for the router's
hot path; the model checker and the tests import the very same compiled module. It must not read clocks or files.
"""

SHUT = 0
"""The `gate_epoch` of a closed gate; epochs of the map begin at 1."""


def may_serve(
    confirmed_generation: int,
    generation: int,
    gate_epoch: int,
    seen_epoch: int,
    deadline_ns: int,
    now_ns: int,
) -> bool:
    """True while the gate is open: at the highest epoch the agent has seen, under authority, in this router.

    `confirmed_generation` is the last generation that this router process has taken over from its agent (0 before
    the first: a new router starts with every gate shut); the others are the fields of the gate record in the pod
    table. Times are nanoseconds of CLOCK_BOOTTIME. A command may be handed to the engine only while this is true.
    """
    return (
        gate_epoch != SHUT and gate_epoch >= seen_epoch and confirmed_generation == generation and now_ns < deadline_ns
    )


def may_release(deadline_ns: int, now_ns: int) -> bool:
    """True while replies of commands that were let through may still leave: until the authority's deadline.

    A gate that was closed in order keeps its deadline, so that what is in flight is drained and answered; a reply
    after the deadline is indeterminate, because another primary may serve by then.
    """
    return now_ns < deadline_ns
