"""Engine processes under s6: start, death notice, restart, the container's restart, agents that come and go."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.agent_support import ENGINES, Engines, running_engines, until

from cachecluster_core.agent_view import Configure, Remove, Restart, Start
from cachecluster_core.report import Process
from cachecluster_local.processes import send_signal

pytestmark = pytest.mark.t1


@pytest.fixture(params=ENGINES)
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    async with running_engines(request.param, tmp_path) as running:
        yield running


async def test_a_started_process_is_empty_a_replica_of_nothing_and_configured(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {"maxmemory": "33554432", "maxmemory-policy": "allkeys-lru"})
    assert copy.busy
    await until(lambda: not copy.busy)
    view = copy.view()
    assert view.process is Process.UP and len(view.run_id) == 40
    assert view.source == ("127.0.0.1", 1) and not view.link_up and not view.has_stream and not view.syncing
    assert view.keys == 0 and view.used_memory > 0
    assert dict(view.config)["maxmemory"] == "33554432"
    assert copy.version and copy.version[0].isdigit()
    mode = engines.engine.files.config(0).stat().st_mode & 0o777
    assert mode == 0o600 and engines.engine.files.socket(0).stat().st_mode & 0o777 == 0o700


async def test_a_killed_process_is_known_as_dead_at_once_and_starts_again_as_another_copy(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    first = copy.view().run_id
    killed_at = time.monotonic()
    send_signal(engines.pid(0), signal.SIGKILL)
    await until(lambda: copy.view().process is Process.DEAD)
    noticed_s = time.monotonic() - killed_at
    assert noticed_s < 1.0, noticed_s
    copy.execute(Start(0), {})
    await until(lambda: copy.view().process is Process.UP)
    back_s = time.monotonic() - killed_at
    assert back_s < 3.0, back_s
    assert copy.view().run_id not in ("", first)


async def test_a_restart_gives_an_empty_process_even_when_the_old_one_hangs(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    first = copy.view().run_id
    send_signal(engines.pid(0), signal.SIGSTOP)
    copy.execute(Restart(0, "test"), {})
    await until(lambda: not copy.busy)
    assert copy.view().process is Process.UP and copy.view().run_id != first


async def test_a_stopped_process_is_silent_and_takes_no_commands_until_it_answers(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    pid = engines.pid(0)
    send_signal(pid, signal.SIGSTOP)
    copy.poll(asyncio.get_running_loop().time())
    await until(lambda: copy.view().process is Process.SILENT)
    assert copy.view().silent_s >= 1.0
    copy.execute(Configure(0, (("maxmemory", "1000000"),)), {})
    assert not copy.busy
    send_signal(pid, signal.SIGCONT)
    await until(lambda: copy.view().process is Process.UP)


async def test_the_containers_death_is_every_process_death_and_starts_wait_for_its_return(engines: Engines) -> None:
    copies = [engines.copy(p) for p in range(2)]
    for copy in copies:
        copy.execute(Start(copy.partition), {})
    await until(lambda: not any(copy.busy for copy in copies))
    before = {copy.view().run_id for copy in copies}
    engines.scan.die()
    await until(lambda: all(copy.view().process is Process.DEAD for copy in copies))
    copies[0].execute(Start(0), {})
    await until(lambda: not copies[0].busy)
    assert copies[0].view().process is Process.DEAD
    await engines.scan.start()
    copies[1].execute(Start(1), {})
    await until(lambda: not copies[1].busy)
    assert copies[1].view().process is Process.UP
    copies[0].execute(Start(0), {})
    await until(lambda: not copies[0].busy)
    assert copies[0].view().process is Process.UP
    assert not before & {copy.view().run_id for copy in copies}


async def test_nothing_starts_by_itself_when_the_container_comes_back(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    engines.scan.die()
    await engines.scan.start()
    copy.execute(Remove(0), {})
    await until(lambda: not copy.busy)
    assert copy.absent
    await until(lambda: len(engines.scan.children()) == 1)


async def test_the_next_agent_adopts_a_process_that_the_marks_name(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    run_id = copy.view().run_id
    await engines.copies.pop(0).close()
    again = engines.copy(0)
    await again.attach(run_id)
    assert again.view().process is Process.UP and again.view().run_id == run_id
    send_signal(engines.pid(0), signal.SIGKILL)
    await until(lambda: again.view().process is Process.DEAD)


async def test_a_copy_that_was_let_go_of_comes_back_to_its_process_no_more(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    before = asyncio.all_tasks()
    await engines.copies.pop(0).close()
    for _ in range(3):  # the connection's end is told in the loop's next turn
        await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before
    again = engines.copy(0)
    await again.attach(copy.view().run_id)
    assert again.view().process is Process.UP


async def test_the_next_agent_ends_a_process_that_the_marks_do_not_name(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    run_id = copy.view().run_id
    await engines.copies.pop(0).close()
    again = engines.copy(0)
    await again.attach("")
    assert again.view().process is Process.DEAD
    again.execute(Start(0), {})
    await until(lambda: not again.busy)
    assert again.view().process is Process.UP and again.view().run_id != run_id


async def test_an_unnamed_process_that_hangs_while_the_agent_starts_is_ended_when_it_answers(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    await engines.copies.pop(0).close()
    pid = engines.pid(0)
    send_signal(pid, signal.SIGSTOP)
    again = engines.copy(0)
    await again.attach("")
    assert again.view().process is Process.SILENT
    send_signal(pid, signal.SIGCONT)
    await until(lambda: again.view().process is Process.DEAD)


async def test_a_process_that_hangs_while_the_agent_starts_can_be_replaced(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    run_id = copy.view().run_id
    await engines.copies.pop(0).close()
    send_signal(engines.pid(0), signal.SIGSTOP)
    again = engines.copy(0)
    await again.attach(run_id)
    assert again.view().process is Process.SILENT
    seen = [Process.SILENT]
    again.execute(Restart(0, "test"), {})
    while again.busy:
        if again.view().process is not seen[-1]:
            seen.append(again.view().process)
        await asyncio.sleep(0)
    assert again.view().process is Process.UP and again.view().run_id not in ("", run_id)
    assert seen in ([Process.SILENT, Process.STARTING], [Process.SILENT, Process.STARTING, Process.UP])


async def test_removing_leaves_no_process_no_service_and_no_files(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    files = engines.engine.files
    copy.execute(Remove(0), {})
    await until(lambda: not copy.busy)
    assert copy.view().process is Process.ABSENT and copy.absent
    assert not any(path.exists() for path in (files.service(0), files.config(0), files.socket(0), files.data(0)))
    await until(lambda: len(engines.scan.children()) == 1)
    assert engines.supervisor.partitions() == []


async def test_a_process_that_cannot_run_is_dead_and_tried_again_with_pauses(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {"maxmemory": "not a size"})
    await until(lambda: not copy.busy)
    assert copy.view().process is Process.DEAD
    began = time.monotonic()
    for _ in range(3):
        copy.execute(Start(0), {"maxmemory": "not a size"})
        await until(lambda: not copy.busy)
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    assert copy.view().process is Process.UP


async def test_a_setting_that_the_engine_refuses_is_not_tried_for_ever(engines: Engines) -> None:
    copy = engines.copy(0)
    copy.execute(Start(0), {})
    await until(lambda: not copy.busy)
    copy.execute(Configure(0, (("maxmemory", "2000000"), ("no-such-setting", "1"))), {})
    await until(lambda: not copy.busy)
    assert dict(copy.view().config) == {"maxmemory": "2000000", "no-such-setting": "1"}
