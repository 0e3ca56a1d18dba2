"""Which pods to create, delete or take out of the Services: the pod actions of `operator_step`. Pure."""

from __future__ import annotations

from .leaving import is_empty, leaving_pods, staying_pods
from .operator_view import CreatePod, DeletePod, MarkNotReady, OperatorView, PodAction, PodView, Suspicion
from .pod_number import pod_number


def plan_pods(view: OperatorView) -> tuple[PodAction, ...]:
    """Hide what is lost (O9), and unless paused: delete what has failed or is empty and leaving, create what is missing
    under the lowest free numbers.

    A pod that is ending or leaving keeps its name taken and counts for nothing: it must not hold up its replacement.
    """
    actions: list[PodAction] = []
    leaving = leaving_pods(view.map)
    for pod in view.pods:
        agent = view.agents.get(pod.uid, PodView())
        if pod.ready and agent.suspicion is Suspicion.CONFIRMED and not agent.refuses:
            actions.append(MarkNotReady(pod.uid, pod.name))
        if view.paused or pod.terminating:
            continue
        if pod.failed:
            actions.append(DeletePod(pod.uid, pod.name, "the pod failed"))
        elif pod.uid in leaving and view.map is not None and is_empty(view.map, pod.uid):
            actions.append(DeletePod(pod.uid, pod.name, "the pod was emptied"))
    if not view.paused:
        actions += _create(view)
    return tuple(actions)


def _create(view: OperatorView) -> list[PodAction]:
    taken = {pod_number(view.name, pod.name) for pod in view.pods}
    missing = view.nodes - len(staying_pods(view))
    free = (number for number in range(len(taken) + max(0, missing)) if number not in taken)
    return [CreatePod(number) for number, _ in zip(free, range(missing), strict=False)]
