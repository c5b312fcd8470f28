"""No descriptor, and no process, is left to be had."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest
from fakes.faults import fault
from fakes.limits import process_limit
from fakes.scene import Scene
from fakes.service import wait_until

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def descriptors_left(pids: list[int], count: int) -> Iterator[None]:
    """These processes can open so many descriptors more."""
    processes = [psutil.Process(pid) for pid in pids]
    before = [process.rlimit(psutil.RLIMIT_NOFILE) for process in processes]
    for process, (_, hard) in zip(processes, before, strict=True):
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + count, hard))
    try:
        yield
    finally:
        for process, limits in zip(processes, before, strict=True):
            if process.is_running():
                process.rlimit(psutil.RLIMIT_NOFILE, limits)


@fault(
    "the workers run out of descriptors (EMFILE in `accept` and in `connect`)",
    family="Descriptors",
    saw="connections waited, and were answered when others had ended, or with 502 and the reason",
    kept="a record of every stream; the workers live on",
    load=0,
    lasting=True,
)
async def test_workers_without_descriptors(scene: Scene) -> None:
    before = await scene.service.wait_serving(2)
    with descriptors_left(before, 12):
        asked = [scene.begin("fake/slow-20+text-10", dialect) for dialect in ("openai", "anthropic") for _ in range(30)]
        for one in asked:
            await one.wait()
    scene.injected()
    await scene.recovered()
    statuses = Counter(one.status for one in asked)
    assert set(statuses) <= {200, 502}, statuses
    assert {one.outcome for one in asked if one.status == 200} == {"completed"}, scene.told
    assert all(b"Too many open files" in one.body for one in asked if one.status == 502)
    assert await scene.service.worker_pids() == before
    await wait_until(lambda: len(scene.records()) == 60, "a record for each")


@fault(
    "the supervisor runs out of descriptors, and a worker is killed meanwhile",
    family="Descriptors",
    saw="the streams of the worker that was killed were cut; the other worker took all others",
    kept="a record of every stream; the worker was replaced when there were descriptors again",
    lasting=True,
    because="a slot tries again after 0.1 s, and then twice as long each time",
)
async def test_a_supervisor_without_descriptors(scene: Scene) -> None:
    victim, survivor = await scene.busiest()
    with descriptors_left([scene.service.pid], 0):
        psutil.Process(victim).suspend()
        held = scene.connections_of(victim)
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: scene.service.events("worker_start_failed"), "a start that failed")
        await scene.completed_more()
    scene.injected()
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    assert {asked.port for asked in scene.not_completed} <= held, scene.told


@fault(
    "no process can be forked (a cgroup's limit), and a worker is killed meanwhile",
    family="Descriptors",
    saw="the streams of the worker that was killed were cut; the other worker took all others",
    kept="a record of every stream; the worker was replaced when processes could be made again",
    lasting=True,
    because="a slot tries again after 0.1 s, and then twice as long each time",
)
async def test_no_process_can_be_forked(scene: Scene) -> None:
    victim, survivor = await scene.busiest()
    scene.service.excused.add("Traceback")  # the fork server's, which is the library's
    starters = [scene.service.pid, scene.service.fork_server_pid()]
    with process_limit(starters):
        psutil.Process(victim).suspend()
        held = scene.connections_of(victim)
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: scene.service.events("worker_start_failed"), "a start that failed")
        await scene.completed_more()
    scene.injected()
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    assert {asked.port for asked in scene.not_completed} <= held, scene.told
