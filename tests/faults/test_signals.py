"""Signals that nobody should send, too many of them, and stops at bad moments."""

import os
import signal

import pytest
from fakes.faults import fault
from fakes.load import Client, chat, is_refused
from fakes.scene import Scene, Setup
from fakes.service import wait_until

pytestmark = pytest.mark.integration

NOTHING = "nothing"
EVERYTHING = "everything"
PATIENT = Setup(server={"graceful_timeout": 60.0})


async def unharmed(scene: Scene, before: list[int]) -> None:
    """Nobody noticed anything, and the workers are the same."""
    await scene.completed_more()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert await scene.service.worker_pids() == before


async def stopped(scene: Scene) -> None:
    """The service has left in good order."""
    assert await scene.service.wait_exit() == 0, scene.service.log()[-5000:]
    await wait_until(lambda: not scene.service.processes(), "no processes")
    assert await is_refused(scene.port)
    await scene.settle()
    scene.service.check_log()
    scene.service.check_accounts()


async def started_again(scene: Scene) -> None:
    """For whoever uses the scene next; it isn't part of what is measured."""
    scene.service.launch()
    await scene.service.wait_ready()


@fault("50 SIGHUPs as fast as they can be sent", family="Signals", saw=NOTHING, kept=EVERYTHING)
async def test_a_storm_of_sighup(scene: Scene) -> None:
    before = await scene.service.wait_serving(2)
    reloads = len(scene.service.reloads())
    scene.injected()
    for _ in range(50):
        scene.service.send_signal(signal.SIGHUP)
    await wait_until(lambda: len(scene.service.reloads()) > reloads, "a reload")
    await scene.recovered()
    await unharmed(scene, before)


@fault("20 SIGUSR1s, one after the other: as many dumps of all stacks", family="Signals", saw=NOTHING, kept=EVERYTHING)
async def test_a_storm_of_sigusr1(scene: Scene) -> None:
    before = await scene.service.wait_serving(2)
    scene.injected()
    for _ in range(20):
        scene.service.send_signal(signal.SIGUSR1)
        await scene.completed_more(1)
    await scene.recovered()
    await unharmed(scene, before)
    assert "==== stack dump of supervisor" in scene.service.log()


@fault(
    "SIGINT, SIGTERM, SIGHUP and SIGPIPE to every worker and to the fork server",
    family="Signals",
    saw=NOTHING,
    kept=EVERYTHING,
)
async def test_signals_to_the_wrong_processes(scene: Scene) -> None:
    before = await scene.service.wait_serving(2)
    scene.injected()
    for pid in (*before, scene.service.fork_server_pid()):
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            os.kill(pid, signum)
    await scene.recovered()
    await unharmed(scene, before)


@fault(
    "SIGPIPE, SIGCHLD, SIGWINCH, SIGURG, SIGCONT and SIGUSR2 to the supervisor",
    family="Signals",
    saw=NOTHING,
    kept=EVERYTHING,
)
async def test_strange_signals_to_the_supervisor(scene: Scene) -> None:
    before = await scene.service.wait_serving(2)
    scene.injected()
    strange = (signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT, signal.SIGUSR2)
    for signum in strange:
        scene.service.send_signal(signum)
    await scene.recovered()
    await unharmed(scene, before)


@fault(
    "SIGQUIT to the supervisor, which it does not survive",
    family="Signals",
    saw="open streams were completed (they may take 2.5 s); then connections were refused",
    kept="a record of every stream; no process",
    because="nobody starts it",
)
async def test_sigquit(scene: Scene) -> None:
    open_then = [asked for asked in scene.asked if asked.outcome is None and asked.body]
    scene.service.send_signal(signal.SIGQUIT)
    assert await scene.service.wait_exit() == -signal.SIGQUIT
    await wait_until(lambda: not scene.service.processes(), "no processes", timeout=5)
    assert await is_refused(scene.port)
    for asked in open_then:
        assert (await asked.wait()).outcome == "completed"
    await started_again(scene)


@fault(
    "SIGTERM under load",
    family="Signals",
    saw="open streams were completed; new connections were refused",
    kept="a record `completed` for every stream; exit code 0, no process",
    setup=PATIENT,
    because="nobody starts it",
)
async def test_sigterm(scene: Scene) -> None:
    open_then = [asked for asked in scene.asked if asked.outcome is None and asked.body]
    scene.service.send_signal(signal.SIGTERM)
    await stopped(scene)
    assert {asked.outcome for asked in open_then} == {"completed"}
    assert scene.count("error") == 0, scene.told
    assert {record["status"] for record in scene.records()} == {"completed"}
    await started_again(scene)


@fault(
    "SIGTERM twice, with streams that would take minutes",
    family="Signals",
    saw="they ended in an error of their dialect after the second one",
    kept="a record `cancelled`/`shutdown` for each; exit code 0, no process",
    setup=PATIENT,
    because="nobody starts it",
)
async def test_two_sigterms(scene: Scene) -> None:
    long = [scene.begin(f"{provider}/slow-20+text-2000", "anthropic") for provider in ("fake", "claude")]
    hung = [scene.begin("fake/hang-before-headers"), scene.begin("claude/hang-after-2", "anthropic")]
    whole = scene.begin("fake/hang-before-first", stream=False)
    for asked in (*long, hung[1]):
        await asked.wait_bytes()
    scene.service.send_signal(signal.SIGTERM)
    await wait_until(lambda: is_refused(scene.port), "a refused connection")
    assert {asked.outcome for asked in (*long, *hung, whole)} == {None}
    scene.service.send_signal(signal.SIGTERM)
    await stopped(scene)
    assert {asked.outcome for asked in (*long, *hung, whole)} == {"error"}, scene.told
    assert (hung[0].status, whole.status) == (503, 503)
    for asked in (*long, *hung, whole):
        record = await scene.record(asked)
        assert (record["status"], record["error_type"]) == ("cancelled", "shutdown")
    await started_again(scene)


@fault(
    "SIGTERM while a client does not read what it is sent",
    family="Signals",
    saw="its connection was reset at the deadline; streams that were shorter were completed",
    kept="a record `cancelled`/`shutdown` for it; exit code 0, no process",
    setup=Setup(server={"graceful_timeout": 1.0}),
    load=0,
    because="nobody starts it",
)
async def test_sigterm_with_a_stuck_client(scene: Scene) -> None:
    async with Client(scene.port, receive_buffer=4096) as stuck:
        await stuck.send_request(chat("fake/big-64+text-500"), headers={"x-request-id": "stuck"})

        chunks = -1

        def full() -> bool:
            nonlocal chunks
            before = chunks
            chunks = max((row.chunks for row in scene.openai.log if row.model.startswith("big-64")), default=-1)
            return 0 < chunks == before

        await wait_until(full, "the stream in mid-write", poll=0.2)
        short = scene.begin("claude/slow-25+text-5", "anthropic")
        await short.wait_bytes()
        scene.service.send_signal(signal.SIGTERM)
        await stopped(scene)
    assert short.outcome == "completed"
    record = await scene.service.record("stuck")
    assert (record["status"], record["error_type"]) == ("cancelled", "shutdown")
    await started_again(scene)


@fault(
    "SIGHUP, SIGTERM and SIGHUP at once: a stop during a reload",
    family="Signals",
    saw="open streams were completed; new connections were refused",
    kept="a record `completed` for every stream; exit code 0, no process",
    setup=PATIENT,
    because="nobody starts it",
)
async def test_sigterm_during_a_reload(scene: Scene) -> None:
    open_then = [asked for asked in scene.asked if asked.outcome is None and asked.body]
    for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        scene.service.send_signal(signum)
    await stopped(scene)
    assert {asked.outcome for asked in open_then} == {"completed"}
    assert {record["status"] for record in scene.records()} == {"completed"}
    await started_again(scene)


@fault(
    "SIGHUP and SIGTERM while the service starts",
    family="Signals",
    saw="refused connections",
    kept="all from before; exit code 0, no process",
    setup=PATIENT,
    load=0,
    because="nobody starts it",
)
async def test_sigterm_during_the_start(scene: Scene) -> None:
    await scene.stop()
    before = len(scene.service.records())
    scene.service.launch()
    await wait_until(lambda: scene.service.events("service_start"), "the beginning of the start")
    for signum in (signal.SIGHUP, signal.SIGTERM):
        scene.service.send_signal(signum)
    await stopped(scene)
    assert len(scene.service.records()) == before
    await started_again(scene)
