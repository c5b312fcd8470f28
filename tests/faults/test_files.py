"""Folders and files that are taken away from the service while it runs."""

import os
import shutil
import signal

import psutil
import pytest
from fakes.faults import fault
from fakes.scene import Scene
from fakes.service import wait_until

pytestmark = pytest.mark.integration


async def _unreachable(scene: Scene) -> None:
    """Nobody can ask for its status, but it serves, and obeys signals.  Then it is started again."""
    await scene.completed_more()
    reloads = len(scene.service.reloads())
    scene.service.send_signal(signal.SIGHUP)
    await wait_until(lambda: len(scene.service.reloads()) > reloads, "a reload")
    await scene.completed_more()
    assert scene.not_completed == [], scene.told
    open_then = [asked for asked in scene.asked if asked.outcome is None and asked.body]
    await scene.stop()
    assert {(await asked.wait()).outcome for asked in open_then} == {"completed"}, scene.told
    scene.injected()
    scene.service.launch()
    await scene.service.wait_ready()
    await scene.recovered()


@fault(
    "the runtime folder is deleted, with the admin socket and the lock in it",
    family="Files",
    saw="nothing",
    kept="every record; SIGHUP and SIGTERM work as before, but commands such as `status` find no service",
    because="the start; until then the commands don't work",
)
async def test_a_deleted_runtime_folder(scene: Scene) -> None:
    shutil.rmtree(scene.service.paths.runtime)
    await _unreachable(scene)


@fault(
    "the admin socket's file is deleted",
    family="Files",
    saw="nothing",
    kept="every record; SIGHUP and SIGTERM work as before, but commands such as `status` find no service",
    because="the start; until then the commands don't work",
)
async def test_a_deleted_admin_socket(scene: Scene) -> None:
    scene.service.paths.admin_socket.unlink()
    await _unreachable(scene)


@fault(
    "the temporary folder is emptied (as systemd-tmpfiles does), then a worker is killed",
    family="Files",
    saw="the streams of the worker that was killed were cut; all others went on",
    kept="a record of every stream; the worker was replaced, from a new fork server",
    because="a new fork server loads its code",
)
async def test_an_emptied_temporary_folder(scene: Scene) -> None:
    for entry in (scene.service.folder / "tmp").iterdir():
        shutil.rmtree(entry)
    server = scene.service.fork_server_pid()
    victim, survivor = await scene.busiest()
    psutil.Process(victim).suspend()
    held = scene.connections_of(victim)
    scene.injected()
    os.kill(victim, signal.SIGKILL)
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    assert scene.service.fork_server_pid() != server
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    assert {asked.port for asked in scene.not_completed} <= held, scene.told


@fault(
    "the temporary folder is deleted, then a worker is killed",
    family="Files",
    saw="the streams of the worker that was killed were cut; the other worker took all others",
    kept="a record of every stream; the worker was replaced once the folder was there again",
    lasting=True,
    because="a slot tries again after 0.1 s, and then twice as long each time",
)
async def test_a_deleted_temporary_folder(scene: Scene) -> None:
    folder = scene.service.folder / "tmp"
    shutil.rmtree(folder)
    victim, survivor = await scene.busiest()
    psutil.Process(victim).suspend()
    held = scene.connections_of(victim)
    os.kill(victim, signal.SIGKILL)
    await wait_until(lambda: scene.service.events("worker_start_failed"), "a start that failed")
    await scene.completed_more()
    folder.mkdir()
    scene.injected()
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    assert {asked.port for asked in scene.not_completed} <= held, scene.told
