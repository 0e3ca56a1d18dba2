"""Which pods to create, delete or take out of the Services: the pod actions of `operator_step`. Pure."""

from __future__ import annotations

from .operator_view import CreatePod, DeletePod, MarkNotReady, OperatorView, PodAction, PodView, Suspicion


def pod_number(cluster: str, pod: str) -> int | None:
    """The number in `<cluster>-<number>`, None for another name."""
    prefix, _, number = pod.rpartition("-")
    return int(number) if prefix == cluster and number.isdecimal() else None


def plan_pods(view: OperatorView) -> tuple[PodAction, ...]:
    """Create what is missing under the lowest free numbers, delete what has failed, hide what is lost (O9).

    A pod that is ending keeps its name taken and counts for nothing: it must not hold up its replacement. More pods
    than `nodes` are left alone.
    """
    actions: list[PodAction] = []
    for pod in view.pods:
        agent = view.agents.get(pod.uid, PodView())
        if pod.failed and not pod.terminating:
            actions.append(DeletePod(pod.uid, pod.name, "the pod failed"))
        if pod.ready and agent.suspicion is Suspicion.CONFIRMED and agent.refused_at is None:
            actions.append(MarkNotReady(pod.uid, pod.name))
    taken = {pod_number(view.name, pod.name) for pod in view.pods}
    alive = sum(not pod.terminating and not pod.failed for pod in view.pods)
    number = 0
    while alive < view.nodes:
        if number not in taken:
            actions.append(CreatePod(number))
            alive += 1
        number += 1
    return tuple(actions)
