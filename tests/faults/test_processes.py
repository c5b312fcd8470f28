"""Faults of processes: killed, stopped, busy, dying young."""

import os
import signal
import subprocess
from contextlib import suppress

import psutil
import pytest
import trio
from fakes.faults import fault
from fakes.hooks import BLOCK, BLOCK_NOW, EAT_NOW, SPIN, SPIN_NOW
from fakes.limits import memory_limit
from fakes.load import is_refused
from fakes.scene import Scene, Setup
from fakes.service import wait_until

pytestmark = pytest.mark.integration

STUCK = Setup(server={"worker_timeout": 2.0})


async def check_cut(scene: Scene, held: set[int]) -> None:
    """All has ended, nothing but what was on these connections was harmed, and that was cut."""
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    assert {asked.port for asked in scene.not_completed} <= held, scene.told


async def check_died(scene: Scene) -> None:
    """Whatever was not completed was recorded as `worker_died`."""
    cut = {asked.trace for asked in scene.not_completed if asked.status == 200}
    assert cut

    def died() -> set[str]:
        return {record["trace"] for record in scene.records() if record["error_type"] == "worker_died"}

    await wait_until(lambda: cut <= died(), "records of the streams that were cut")
    for record in scene.records():
        if record["status"] != "completed":
            assert (record["status"], record["error_type"]) == ("failed", "worker_died")
            assert record["completion_source"] == "partial"


@fault(
    "`kill -9` of a worker",
    family="Processes",
    saw="the streams that it held were cut; all others went on, and no connection was refused",
    kept="a record `failed`/`worker_died` for each stream that was cut, its tokens marked `partial`",
)
async def test_a_killed_worker(scene: Scene) -> None:
    victim, survivor = await scene.busiest()
    psutil.Process(victim).suspend()  # so that what it holds at its death is known exactly
    held = scene.connections_of(victim)
    scene.injected()
    os.kill(victim, signal.SIGKILL)
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    await check_cut(scene, held)
    await check_died(scene)


@fault(
    "a worker crashes in C code (SIGSEGV)",
    family="Processes",
    saw="the streams that it held were cut; all others went on, and no connection was refused",
    kept="a record `failed`/`worker_died` for each stream that was cut; in the log the worker's exit, code -11",
)
async def test_a_crashed_worker(scene: Scene) -> None:
    victim, survivor = await scene.busiest()
    scene.injected()
    os.kill(victim, signal.SIGSEGV)
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    await check_died(scene)
    await wait_until(lambda: any(e["pid"] == str(victim) for e in scene.service.events("worker_exit")), "its exit")
    [exit] = [event for event in scene.service.events("worker_exit") if event["pid"] == str(victim)]
    assert exit["code"] == "-11"


@fault(
    "`kill -9` of all workers at once",
    family="Processes",
    saw="the streams that were open were cut; new connections waited for the next workers, none was refused",
    kept="a record `failed`/`worker_died` for each stream that was cut",
)
async def test_all_workers_killed(scene: Scene) -> None:
    pids = await scene.busiest()
    for pid in pids:
        psutil.Process(pid).suspend()
    held = scene.connections_of(*pids)
    scene.injected()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await scene.recovered(without=pids)
    assert not set(pids) & set(await scene.service.worker_pids())
    await check_cut(scene, held)
    await check_died(scene)


@fault(
    "`kill -9` of the fork server",
    family="Processes",
    saw="nothing",
    kept="everything; a worker that died afterwards was replaced",
)
async def test_a_killed_fork_server(scene: Scene) -> None:
    pids = await scene.busiest()
    before = scene.service.fork_server_pid()
    scene.injected()
    os.kill(before, signal.SIGKILL)
    await scene.recovered()
    await scene.completed_more()
    assert await scene.service.worker_pids() == await scene.service.wait_serving(2)
    assert set(await scene.service.worker_pids()) == set(pids)
    await scene.settle()
    assert scene.not_completed == [], scene.told
    # Whoever dies now needs a new fork server.
    psutil.Process(pids[0]).suspend()
    held = scene.connections_of(pids[0])
    os.kill(pids[0], signal.SIGKILL)
    await wait_until(lambda: not psutil.pid_exists(pids[0]), "its end")
    await scene.service.wait_serving(2)
    await check_cut(scene, held)
    assert scene.service.fork_server_pid() != before


@fault(
    "`kill -9` of everything but the supervisor",
    family="Processes",
    saw="the streams that were open were cut; new connections waited for the next workers, none was refused",
    kept="a record `failed`/`worker_died` for each stream that was cut",
    because="a new fork server loads its code",
)
async def test_everything_but_the_supervisor_killed(scene: Scene) -> None:
    others = [process for process in scene.service.processes() if process.pid != scene.service.pid]
    pids = await scene.busiest()
    for process in others:
        process.suspend()
    held = scene.connections_of(*pids)
    scene.injected()
    for process in others:
        process.kill()
    await scene.recovered(without=pids)
    await check_cut(scene, held)
    await check_died(scene)


@fault(
    "`kill -9` of the supervisor, which is started again at once",
    family="Processes",
    saw="open streams were completed, but those longer than 2.5 s ended in an error of their dialect",
    kept="a record of every stream: `completed`, or `cancelled`/`shutdown`",
    because="the start",
)
async def test_a_killed_supervisor(scene: Scene) -> None:
    long = [scene.begin(f"{provider}/slow-20+text-2000", "anthropic") for provider in ("fake", "claude")]
    for asked in long:
        await asked.wait_bytes()
    orphans = [process for process in scene.service.processes() if process.pid != scene.service.pid]
    scene.injected()
    open_then = [asked for asked in scene.asked if asked.outcome is None and asked.body and asked not in long]
    scene.service.process.kill()
    scene.service.process.wait()
    scene.service.launch()
    await scene.recovered()
    await wait_until(lambda: not any(map(_lives, orphans)), "the orphans' end", timeout=5)
    await scene.settle()
    assert {asked.outcome for asked in long} == {"error"}, [(asked.outcome, asked.why) for asked in long]
    assert {asked.outcome for asked in open_then} == {"completed"}, scene.told
    for asked in long:
        record = await scene.record(asked)
        assert (record["status"], record["error_type"]) == ("cancelled", "shutdown")


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@fault(
    "`kill -9` of the supervisor, which stays dead",
    family="Processes",
    saw="open streams were completed, but one longer than 2.5 s ended in an error; then connections were refused",
    kept="the records of all streams, in files that the next start imports; no process",
    alone=True,
    aftermath=False,
    load=0,
    because="nobody starts it",
)
async def test_a_supervisor_that_stays_dead(scene: Scene) -> None:
    short = scene.begin("fake/slow-20+text-10")
    hung = scene.begin("claude/hang-after-2", "anthropic")
    for asked in (short, hung):
        await asked.wait_bytes()
    scene.service.process.kill()
    scene.service.process.wait()
    await wait_until(lambda: not scene.service.processes(), "no processes", timeout=5)
    await scene.settle()
    assert (short.outcome, hung.outcome) == ("completed", "error"), scene.told
    assert await is_refused(scene.port)
    scene.service.launch()
    await scene.service.wait_ready()
    await wait_until(lambda: len(scene.records()) == 2, "the records from the files")
    assert [(await scene.record(asked))["status"] for asked in (short, hung)] == ["completed", "cancelled"]


@fault(
    "a worker hangs in a busy loop",
    family="Processes",
    saw="the streams that it held were cut when it was killed; all others went on",
    kept="a record `failed`/`worker_died` for each stream that was cut; in the log the loop's stack",
    setup=STUCK,
    because="`worker_timeout`, here 2 s",
)
async def test_a_busy_worker(scene: Scene) -> None:
    await _hang(scene, SPIN_NOW, SPIN)


@fault(
    "a worker hangs in a blocking call",
    family="Processes",
    saw="the streams that it held were cut when it was killed; all others went on",
    kept="a record `failed`/`worker_died` for each stream that was cut; in the log the call's stack",
    setup=STUCK,
    because="`worker_timeout`, here 2 s",
)
async def test_a_blocked_worker(scene: Scene) -> None:
    await _hang(scene, BLOCK_NOW, BLOCK)


@fault(
    "a worker is stopped (SIGSTOP) for ever",
    family="Processes",
    saw="the streams that it held were cut when it was killed; all others went on",
    kept="a record `failed`/`worker_died` for each stream that was cut",
    setup=STUCK,
    because="`worker_timeout`, here 2 s",
)
async def test_a_stopped_worker(scene: Scene) -> None:
    await _hang(scene, signal.SIGSTOP, None)


async def _hang(scene: Scene, signum: int, function: str | None) -> None:
    victim, other = await scene.busiest()
    log = len(scene.service.log())
    scene.injected()
    os.kill(victim, signum)
    await wait_until(lambda: any(e["pid"] == str(victim) for e in scene.service.events("worker_stuck")), "the verdict")
    held = scene.connections_of(victim)
    await scene.recovered(without=[victim])
    assert not psutil.pid_exists(victim)
    assert other in await scene.service.worker_pids()
    await check_cut(scene, held)
    await check_died(scene)
    if function is not None:
        assert function in scene.service.log()[log:]


@fault(
    "a worker is stopped for less than `worker_timeout`, then continued",
    family="Processes",
    saw="all streams were completed",
    kept="everything",
)
async def test_a_paused_worker(scene: Scene) -> None:
    victim, other = await scene.busiest()
    os.kill(victim, signal.SIGSTOP)
    for _ in range(20):  # on new connections, which the other one accepts
        assert await scene.fresh("openai")
    scene.injected()
    os.kill(victim, signal.SIGCONT)
    await scene.recovered()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert set(await scene.service.worker_pids()) == {victim, other}


@fault(
    "all processes are stopped for longer than `worker_timeout`, then continued (a suspended machine)",
    family="Processes",
    saw="all streams were completed",
    kept="everything; no worker was taken for stuck",
    setup=Setup(server={"worker_timeout": 4.0}),
    lasting=True,
)
async def test_a_suspended_machine(scene: Scene) -> None:
    pids = await scene.busiest()
    processes = scene.service.processes()
    for process in processes:
        process.suspend()
    await trio.sleep(4.5)  # not a wait for anything: how long the machine sleeps
    scene.injected()
    for process in processes:
        process.resume()
    await scene.recovered()
    await scene.completed_more()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert set(await scene.service.worker_pids()) == set(pids)


@fault(
    "the kernel kills a worker for its memory (a memory cgroup's limit)",
    family="Processes",
    saw="the streams that it held were cut; all others went on",
    kept="a record `failed`/`worker_died` for each stream that was cut; in the log its exit, code -9",
)
async def test_an_oom_killed_worker(scene: Scene) -> None:
    victim, _ = await scene.busiest()
    with memory_limit(victim, 32 << 20):
        scene.injected()
        os.kill(victim, EAT_NOW)
        await wait_until(lambda: any(e["pid"] == str(victim) for e in scene.service.events("worker_exit")), "its exit")
        await scene.recovered()
    [exit] = [event for event in scene.service.events("worker_exit") if event["pid"] == str(victim)]
    assert exit["code"] == "-9"
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    await check_died(scene)


@fault(
    "a worker that dies before it is ready, five times in a row",
    family="Processes",
    saw="the streams of the first that died were cut; all others went on",
    kept="everything else; the status says which worker is in a crash loop",
    lasting=True,
)
async def test_a_crash_loop(scene: Scene) -> None:
    victim, other = await scene.busiest()
    psutil.Process(victim).suspend()
    held = scene.connections_of(victim)
    (scene.hooks / "die").touch()
    os.kill(victim, signal.SIGKILL)

    async def verdict() -> str | None:
        return (await scene.service.status()).crash_loop

    try:
        sentence = await wait_until(verdict, "the verdict", poll=0.1)
        await wait_until(lambda: any(sentence in status for status in scene.service.heard("STATUS")), "it in STATUS=")
        assert [worker.pid for worker in await scene.service.serving()] == [other]
        await scene.completed_more()
    finally:
        (scene.hooks / "die").unlink()
    scene.injected()
    scene.service.send_signal(signal.SIGHUP)  # which forgives
    await scene.recovered()
    await check_cut(scene, held)


@fault(
    "`kill -9` of the new supervisor in the middle of `kimi-proxy restart`",
    family="Processes",
    saw="nothing",
    kept="everything: the old supervisor and its workers went on; the command fails and says so",
    because="it never stopped",
)
async def test_a_killed_heir(scene: Scene) -> None:
    service = scene.service
    before = await service.wait_serving(2)
    starts = len(service.events("service_start"))
    command = [*service.command, "restart", "--config", str(service.config_file)]
    done: list[subprocess.CompletedProcess[bytes]] = []

    async def restart() -> None:
        how = {"env": service.env, "cwd": service.folder, "capture_stdout": True, "capture_stderr": True}
        done.append(await trio.run_process(command, check=False, **how))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        await wait_until(lambda: len(service.events("service_start")) > starts, "the new supervisor", poll=0.005)
        scene.injected()
        os.kill(int(service.events("service_start")[-1]["pid"]), signal.SIGKILL)
    assert done[0].returncode == 1
    assert b"not restarted" in done[0].stderr, done[0].stderr
    await scene.recovered()
    await scene.completed_more()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert await service.worker_pids() == before
    assert service.exit_code is None
