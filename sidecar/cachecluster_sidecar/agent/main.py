"""The agent's process: reads the configuration, builds the parts, serves until SIGTERM, drains, ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable

import uvloop
from aiohttp import web

from cachecluster_core.report import Report

from ..metrics import SidecarMetrics
from .clock import boot_id
from .config import AgentConfig, parse_config
from .engine_files import EngineFiles, acl_text
from .engine_name import engine_name
from .engine_process import Engine, write_private
from .health import HealthServer
from .loop import AgentLoop, Identity
from .map_client import ApiServer, MapClient
from .peer_agents import PeerAgents
from .remembered import Remembered
from .router_hub import RouterHub
from .server import AgentServer
from .supervisor import Supervisor

log = logging.getLogger("cachecluster.agent")

DISMISS_S = 5.0
"""How long clients' connections may take to come to rest; what is busy longer is cut."""
REFUSE_S = 2.0
"""How long an emptied pod stays after its ports have closed: a client that comes back is refused, and looks elsewhere
at once. The address of a pod that is gone answers nothing, for as long as the kernel or the client tries."""
SHUT_TIMEOUT_S = 1.0
LAPSED_S = 1.0
"""A draining agent whose authority lapsed so long ago does not count on having it again."""


def main() -> None:
    """Entry point of `cachecluster-agent`."""
    config = parse_config(sys.argv[1:])
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Agent(config).run())


class Agent:
    """The composition root: every part is made here and knows only what it was given."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal, then drain. Any part that fails ends the agent: its supervisor starts another."""
        config = self._config
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        token = _read_secret(config, "peer-token")
        metrics = SidecarMetrics(config.namespace, config.name, config.pod_name)
        agent_loop = self._make_loop(metrics, token, lambda report: server.publish(report))
        api = ApiServer(
            config.api_server, config.namespace, config.name, config.token_file, config.ca_file, config.cluster_uid
        )
        maps = MapClient(api, agent_loop.take_read, agent_loop.read_attempted)
        server = AgentServer(config.pod_uid, token, agent_loop, maps)
        hub = RouterHub(
            config.run_dir,
            config.router_workers,
            self._router_command,
            on_change=agent_loop.wake,
            on_register=maps.read_now,
            on_start=metrics.router_started,
        )
        health = HealthServer(agent_loop, hub, metrics, (config.host, config.client_port))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(agent_loop.close)
            await agent_loop.attach(hub)
            stack.push_async_callback(hub.close)
            await hub.start()
            await _listen(stack, server.app, config.host, config.agent_port)
            await _listen(stack, health.app, config.host, config.metrics_port)
            log.info("pod %s (%s) of %s/%s", config.pod_name, config.pod_uid, config.namespace, config.name)
            log.info("agent on %s:%d, metrics on port %d", config.host, config.agent_port, config.metrics_port)
            await self._until_stopped(agent_loop, maps, hub)

    def _make_loop(self, metrics: SidecarMetrics, token: str, on_report: Callable[[Report], None]) -> AgentLoop:
        """The loop, and the files that engines need before the first one starts."""
        config = self._config
        passwords = {name: _read_secret(config, f"{name}-password") for name in ("agent", "gate", "repl")}
        files = EngineFiles(config.run_dir, config.data_dir)
        files.acl.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(files.acl, acl_text(passwords))
        engine = Engine(
            files, config.engine_binary, config.host, config.replication_port, passwords["repl"], passwords["agent"]
        )
        return AgentLoop(
            Identity(config.pod_uid, config.incarnation, boot_id(), engine_name(config.engine, config.engine_binary)),
            config.run_dir / "pod-table",
            engine,
            Supervisor(files),
            Remembered(config.run_dir / "map.json"),
            metrics,
            PeerAgents(token, config.agent_port),
            config.cluster_port,
            on_report,
        )

    async def _until_stopped(self, agent_loop: AgentLoop, maps: MapClient, hub: RouterHub) -> None:
        working = [asyncio.create_task(agent_loop.run()), asyncio.create_task(maps.run())]
        stopped = asyncio.create_task(self._stop.wait())
        drained = False
        try:
            await asyncio.wait([*working, stopped], return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                drained = await self._drain(agent_loop, hub, working)
        finally:
            for task in (*working, stopped):
                task.cancel()
            await asyncio.gather(*working, stopped, return_exceptions=True)
        if self._stop.is_set():
            await agent_loop.shut_all(SHUT_TIMEOUT_S)
            await hub.stop()
            if drained:
                await asyncio.sleep(min(REFUSE_S, self._config.drain_accept_s))
            log.info("ended in order")
        for task in working:
            if not task.cancelled():
                task.result()

    async def _drain(self, agent_loop: AgentLoop, hub: RouterHub, working: list[asyncio.Task[None]]) -> bool:
        """Go on serving until nobody has his primary here and clients have had the time to learn of it, or the time is
        up, or this pod may serve nothing any more (its cluster was deleted, and with it the right to read the map);
        then have the routers end their clients' connections while everything else goes on. True: nobody needs it any
        more."""
        config = self._config
        log.info(
            "draining: as a primary for at most %.0f s, taking clients for %.0f s",
            config.drain_s,
            config.drain_accept_s,
        )
        agent_loop.draining = True
        agent_loop.wake()
        began = time.monotonic()
        while not any(task.done() for task in working):
            passed = time.monotonic() - began
            if passed >= (config.drain_s if agent_loop.is_primary else config.drain_accept_s):
                break
            if agent_loop.authority_s < -LAPSED_S and not agent_loop.open_gates():
                log.info("authority lapsed: there is nothing to drain")
                return False
            await asyncio.wait(working, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
        await hub.dismiss_clients(min(DISMISS_S, config.drain_s))
        return not agent_loop.is_primary

    def _router_command(self, worker: int) -> list[str]:
        config = self._config
        return [
            sys.executable, "-m", "cachecluster_sidecar.router.main",
            "--run-dir", str(config.run_dir),
            "--secrets-dir", str(config.secrets_dir),
            "--worker", str(worker), "--workers", str(config.router_workers),
            "--client-address", f"{config.host}:{config.client_port}",
            "--cluster-address", f"{config.host}:{config.cluster_port}",
            *(("--users-file", str(config.users_file)) if config.users_file else ()),
        ]  # fmt: skip


async def _listen(stack: contextlib.AsyncExitStack, app: web.Application, host: str, port: int) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()


def _read_secret(config: AgentConfig, name: str) -> str:
    return (config.secrets_dir / name).read_text(encoding="utf-8").strip()


if __name__ == "__main__":
    main()
