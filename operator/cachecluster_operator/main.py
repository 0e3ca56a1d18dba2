"""`cachecluster-operator`: the composition root. Reads flags, builds the parts, waits for a signal, ends in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from functools import partial

from cachecluster_core.usage import EXIT_USAGE

from .election import Elector, LeadershipLost
from .event_recorder import EventRecorder
from .http_server import HttpServer
from .kube_api import ApiError, HttpKubeApi, KubeApi, Unreachable
from .kube_config import ConfigError, kopf_connection, load
from .metrics import OperatorMetrics
from .observability import keep_observability
from .options import Options, parse_options
from .reconcile import Reconciler
from .resources import CACHE_CLUSTER, HASH_RING
from .watch import Login, quiet_logs, watch

log = logging.getLogger(__name__)

CRD_POLL_S = 1.0
KOPF_STOP_S = 2.0


def main() -> None:
    """Entry point of the console script."""
    options = parse_options(sys.argv[1:])
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    quiet_logs()
    sys.exit(asyncio.run(run(options)))


async def run(options: Options) -> int:
    """Run until SIGTERM or SIGINT (0), or until leadership is lost or a part fails (1)."""
    try:
        configuration = await load(options.kubeconfig)
    except ConfigError as error:
        log.error("%s", error)
        return EXIT_USAGE
    api, metrics = HttpKubeApi(configuration), OperatorMetrics()
    # A standby is ready as well: it does what it is there for.
    server = HttpServer(options.metrics_port, metrics.render, metrics.CONTENT_TYPE, lambda: True)
    stopping = asyncio.Event()
    on_signals = partial(_on_signals, stopping.set)
    on_signals()
    try:
        port = await server.start()
        log.info("metrics and health on port %d; pods run %s", port, options.image)
        working = asyncio.create_task(
            _operate(options, api, metrics, partial(kopf_connection, configuration), on_signals)
        )
        return await _until_stopped(working, stopping)
    finally:
        await server.stop()
        await api.close()


async def _until_stopped(working: asyncio.Task[None], stopping: asyncio.Event) -> int:
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if stopping.is_set():
        log.info("stopping on a signal")
        working.cancel()
    try:
        await working
    except asyncio.CancelledError:
        return 0
    except LeadershipLost as error:
        # A new process starts with a clean mind; it is a candidate again within a second.
        log.error("no longer the leader: %s", error)
    except Exception:
        log.exception("a part of the operator failed")
    return 1


async def _operate(
    options: Options, api: KubeApi, metrics: OperatorMetrics, login: Login, on_signals: Callable[[], None]
) -> None:
    await _wait_for_crds(api)
    work = partial(_work, options, api, metrics, login, on_signals)
    if not options.leader_election:
        metrics.leader(True)
        await work()
        return
    elector = Elector(
        api, options.operator_namespace, options.lease_name, options.identity, options.timing, metrics.leader
    )
    await elector.lead(work)


async def _wait_for_crds(api: KubeApi) -> None:
    """Kinds that are not there when kopf starts would never be watched."""
    told = False
    while True:
        try:
            missing = [kind.plural for kind in (CACHE_CLUSTER, HASH_RING) if not await api.serves(kind)]
            reason = f"no CRD for {', '.join(missing)}"
            if not missing:
                return
        except (ApiError, Unreachable) as error:
            reason = str(error)
        if not told:
            log.warning("waiting for the API server and the CRDs: %s", reason)
            told = True
        await asyncio.sleep(CRD_POLL_S)


async def _work(
    options: Options, api: KubeApi, metrics: OperatorMetrics, login: Login, on_signals: Callable[[], None]
) -> None:
    """What a leader does, until cancelled; a part that ends ends it all."""
    recorder = EventRecorder(api, options.identity)
    reconciler = Reconciler(api, options.namespaces, options.image, recorder, metrics)
    parts: set[asyncio.Task[None]] = {asyncio.create_task(reconciler.run()), asyncio.create_task(recorder.run())}
    if options.observability:
        keep = keep_observability(api, options.operator_namespace, options.lease_name)
        parts.add(asyncio.create_task(keep))
    # kopf leaves those tasks alone that were there before it.
    await asyncio.sleep(0)
    stop, ready = asyncio.Event(), asyncio.Event()
    watching = asyncio.create_task(watch(login, options.namespaces, reconciler.seen, reconciler.gone, stop, ready))
    started = asyncio.create_task(_wait_for(ready))
    try:
        await asyncio.wait({watching, started}, return_when=asyncio.FIRST_COMPLETED)
        # kopf has put its own handlers in the place of ours.
        on_signals()
        done, _ = await asyncio.wait({watching, *parts}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError("a part of the operator ended by itself")
    finally:
        # kopf would wait for tasks that were made after it, such as control loops: so they end first.
        for task in (started, *parts):
            task.cancel()
        await asyncio.gather(started, *parts, return_exceptions=True)
        stop.set()
        await asyncio.wait({watching}, timeout=KOPF_STOP_S)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


if __name__ == "__main__":
    main()
