"""The fleet: a real fork server, real workers that do as they are told, and every way in which they die."""

import contextlib
import os
import signal
import socket
from multiprocessing import forkserver

import msgspec
import psutil
import pytest
import trio
from fakes.fork_server import fake_fork_server
from fakes.streams import ListedStore
from structlog.testing import capture_logs

from shared.config import Config, Server
from shared.paths import Paths
from supervisor import backoff, fleet, plan
from supervisor.fleet import Fleet, Settings
from supervisor.hub import Hub
from supervisor.ledger import Ledger
from supervisor.listen import open_listeners

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server():
    return fake_fork_server()


class Scene:
    """A running fleet, and a client for what its workers serve."""

    def __init__(self, fleet, ledger, records):
        self.fleet = fleet
        self.ledger = ledger
        self.records = records
        self.ended = trio.Event()

    async def run(self):
        await self.fleet.run()
        self.ended.set()

    async def until(self, condition, seconds=20):
        """Wait until `condition` holds of the workers' statuses, looking at every change."""
        with trio.fail_after(seconds):
            while not (found := condition(self.fleet.statuses())):
                with trio.move_on_after(0.05):  # streams and numbers change without an event
                    await self.fleet.changed.wait()
            return found

    async def until_serving(self, count, **fields):
        """The statuses, once exactly `count` workers live and all of them serve (and have these fields)."""

        def are_serving(statuses):
            fits = all(status.state == "serving" for status in statuses) and all(
                getattr(status, name) == value for status in statuses for name, value in fields.items()
            )
            return statuses if fits and len(statuses) == count else None

        return await self.until(are_serving)

    async def ask(self, line, listener=None):
        """One line to whichever worker takes it; its answer."""
        address = (listener or self.fleet.settings.listeners[0]).socket.getsockname()
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(f"{line}\n".encode())
            return (await stream.receive_some()).decode().strip()

    def order(self, *, roll=False, keys=None, **server):
        """Put a changed configuration in force."""
        now = self.fleet.settings
        config = msgspec.structs.replace(now.config, server=msgspec.structs.replace(now.config.server, **server))
        self.fleet.configure(config, now.keys if keys is None else keys, now.listeners, roll=roll)


@pytest.fixture
def make(server, nursery, tmp_path):
    """Starts a fleet of fake workers; each is told the keyword arguments that are not `[server]` settings."""
    scenes = []

    async def make(behaviour="serve", marks=None, **settings):
        listeners = open_listeners(["127.0.0.1:0"], tcp_user_timeout=60.0)
        config = Config(
            server=Server(
                **{"workers": 2, "graceful_timeout": 5.0, "retire_timeout": 5.0, "worker_timeout": 20.0, **settings}
            )
        )
        keys = {"behaviour": behaviour, **({"marks": str(marks)} if marks else {})}
        ledger, store = Ledger(), ListedStore()
        scene = Scene(
            Fleet(
                server,
                Settings(config=config, keys=keys, listeners=tuple(listeners)),
                ledger=ledger,
                store=store,
                hub=Hub(config, ledger),
                supervisor_pid=os.getpid(),
                paths=Paths(state=tmp_path, runtime=tmp_path, logs=tmp_path),
            ),
            ledger,
            store.records,
        )
        scenes.append(scene)
        nursery.start_soon(scene.run)
        return scene

    yield make
    for scene in scenes:
        pids = [status.pid for status in scene.fleet.statuses()]
        scene.fleet.stop(0.0)
        for pid in pids:
            kill(pid)


@pytest.fixture
def short_grace(monkeypatch):
    """These workers have no records to write."""
    for module in (fleet, plan):
        monkeypatch.setattr(module, "KILL_GRACE", 0.5)


def kill(pid, signum=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


async def gone(pid):
    """Wait until no process has this number."""
    with trio.fail_after(5):
        while psutil.pid_exists(pid):  # noqa: ASYNC110 (the fleet has its pidfd)
            await trio.sleep(0.01)


def pids(statuses):
    return {status.pid for status in statuses}


async def test_it_fills_its_slots_and_serves(make):
    scene = await make()
    statuses = await scene.until_serving(2)
    assert [status.worker for status in statuses] == [1, 2]
    assert int(await scene.ask("pid")) in pids(statuses)
    assert scene.fleet.was_ready
    assert scene.fleet.crash_loop is None


async def test_a_killed_worker_is_replaced_and_its_streams_are_closed(make):
    scene = await make(workers=1)
    [before] = await scene.until_serving(1)
    await scene.ask("open s1")
    await scene.ask("open s2")
    await scene.ask("progress s1 41")
    await scene.ask("close s2")
    os.kill(before.pid, signal.SIGKILL)
    [after] = await scene.until(lambda statuses: statuses if pids(statuses) - {before.pid} else None)
    await scene.until_serving(1)
    assert (after.worker, after.generation) == (1, 1)
    assert scene.fleet.statuses()[0].restarts == 1
    assert [(record.start.id, record.status, record.error_type) for record in scene.records] == [
        ("s2", "completed", None),
        ("s1", "failed", "worker_died"),
    ]
    assert scene.records[1].completion.count == 41
    assert scene.ledger.active_count() == 0
    assert int(await scene.ask("pid")) == after.pid


async def test_no_connection_is_refused_while_the_only_worker_is_dead(make):
    """The socket is the supervisor's: what connects in the gap waits for the next worker."""
    scene = await make(workers=1)
    [before] = await scene.until_serving(1)
    os.kill(before.pid, signal.SIGKILL)
    with trio.fail_after(20):
        while (answer := await scene.ask("pid")) in ("", str(before.pid)):
            pass
    assert int(answer) in pids(scene.fleet.statuses())


async def test_one_that_lived_long_is_replaced_without_delay(make, monkeypatch):
    monkeypatch.setattr(backoff, "YOUNG", 0.0)
    monkeypatch.setattr(backoff, "FIRST_DELAY", 3600.0)
    monkeypatch.setattr(backoff, "MAX_DELAY", 3600.0)
    scene = await make(workers=1)
    [before] = await scene.until_serving(1)
    os.kill(before.pid, signal.SIGKILL)
    [after] = await scene.until(lambda statuses: statuses if pids(statuses) - {before.pid} else None)
    assert after.pid != before.pid


async def test_the_death_of_the_fork_server_harms_nobody(make):
    scene = await make()
    before = await scene.until_serving(2)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    assert pids(await scene.until_serving(2)) == pids(before)
    os.kill(before[0].pid, signal.SIGKILL)
    await scene.until(lambda statuses: before[0].pid not in pids(statuses))
    after = await scene.until_serving(2)
    assert before[1].pid in pids(after)


async def test_both_die_with_the_fork_server(make):
    scene = await make()
    before = await scene.until_serving(2)
    for pid in (forkserver._forkserver._forkserver_pid, *pids(before)):
        os.kill(pid, signal.SIGKILL)
    await scene.until(lambda statuses: not pids(statuses) & pids(before))
    await scene.until_serving(2)


@pytest.mark.parametrize("how", ["hang", "stop"])
async def test_a_stuck_worker_is_dumped_killed_and_replaced(make, tmp_path, how):
    scene = await make(workers=1, worker_timeout=1.0, marks=tmp_path)
    [before] = await scene.until_serving(1)
    if how == "stop":
        os.kill(before.pid, signal.SIGSTOP)
    else:
        with trio.move_on_after(0.2):  # it will never answer
            await scene.ask("hang")
    stuck = await scene.until(lambda statuses: [status for status in statuses if status.state == "stuck"])
    assert pids(stuck) == {before.pid}
    after = await scene.until_serving(1)
    assert pids(after) != {before.pid}
    assert after[0].restarts == 1
    await gone(before.pid)
    # A stopped one can't run its handler before SIGKILL; a blocked one can.
    assert (tmp_path / str(before.pid)).exists() == (how == "hang")


async def test_one_that_never_gets_ready_is_replaced_too(make):
    scene = await make("mute", workers=1, worker_timeout=0.5)
    [before] = await scene.until(lambda statuses: statuses)
    scene.order(keys={"behaviour": "serve"})
    await scene.until_serving(1)
    await gone(before.pid)


async def test_a_garbage_frame_costs_the_worker_its_life(make):
    scene = await make(workers=1)
    [before] = await scene.until_serving(1)
    await scene.ask("open s1")
    await scene.ask("garbage")
    await scene.until(lambda statuses: before.pid not in pids(statuses))
    await scene.until_serving(1)
    assert [record.error_type for record in scene.records] == ["worker_died"]


async def test_a_crash_loop_from_the_start_is_given_up(make, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.01)
    scene = await make("die", workers=2)
    with trio.fail_after(30):
        await scene.ended.wait()
    assert scene.fleet.failure is not None
    assert "died 5 times in a row" in scene.fleet.failure
    assert scene.fleet.statuses() == []


async def test_a_crash_loop_after_a_reload_leaves_the_rest_serving_and_a_reload_heals_it(make, monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.01)
    scene = await make()
    before = await scene.until_serving(2)
    scene.order(roll=True, keys={"behaviour": "die"})
    await scene.until(lambda _: scene.fleet.crash_loop)
    assert not scene.fleet.stopping
    assert pids(before) <= pids(scene.fleet.statuses())
    assert int(await scene.ask("pid")) in pids(before)
    scene.order(keys={"behaviour": "serve"})
    await scene.until_serving(2, generation=2)
    assert scene.fleet.crash_loop is None


async def test_one_that_dies_right_after_ready_is_no_crash_loop_but_waits_longer_and_longer(make):
    scene = await make("die_ready", workers=1)
    await scene.until(lambda statuses: any(status.restarts >= 4 for status in statuses))
    assert scene.fleet.crash_loop is None
    assert scene.fleet.was_ready


async def test_a_configuration_reaches_every_worker(make):
    scene = await make()
    await scene.until_serving(2)
    scene.order(keys={"behaviour": "news"})
    with trio.fail_after(10):
        while await scene.ask("behaviour") != "news":
            pass
    assert pids(await scene.until_serving(2, generation=1))


async def test_a_worker_that_was_being_forked_gets_the_newest_configuration(make):
    scene = await make(workers=1)
    scene.order(keys={"behaviour": "news"})  # the fork server has not even been asked
    await scene.until_serving(1)
    scene.order(keys={"behaviour": "newer"}, workers=2)
    scene.order(keys={"behaviour": "newest"})
    await scene.until_serving(2)
    with trio.fail_after(10):
        for _ in range(20):
            while await scene.ask("behaviour") != "newest":
                pass


async def test_scaling(make):
    scene = await make(workers=1)
    await scene.until_serving(1)
    scene.order(workers=4)
    statuses = await scene.until_serving(4)
    assert [status.worker for status in statuses] == [1, 2, 3, 4]
    scene.order(workers=2)
    statuses = await scene.until_serving(2)
    assert [status.worker for status in statuses] == [1, 2]
    assert all(status.restarts == 0 for status in statuses)


async def test_a_roll_replaces_everybody_and_never_serves_with_fewer(make):
    scene = await make(workers=3)
    before = await scene.until_serving(3)
    fewest = 3
    scene.order(roll=True)

    def rolled(statuses):
        nonlocal fewest
        fewest = min(fewest, scene.fleet.serving)
        return len(statuses) == 3 and all(s.generation == 2 and s.state == "serving" for s in statuses)

    await scene.until(rolled)
    assert fewest == 3
    assert not pids(before) & pids(scene.fleet.statuses())


async def test_many_rolls_at_once_end_in_the_newest_generation(make):
    scene = await make()
    for _ in range(20):
        scene.order(roll=True)
        await trio.lowlevel.checkpoint()
    await scene.until_serving(2, generation=21)


async def test_a_worker_that_asks_for_it_is_replaced_while_its_streams_go_on(make):
    scene = await make(workers=2)
    before = await scene.until_serving(2)
    fewest = 2
    with capture_logs() as logs:
        address = scene.fleet.settings.listeners[0].socket.getsockname()
        async with await trio.open_tcp_stream(*address) as stream:  # one that is not served to its end
            worn = int(await scene.ask("recycle"))

            def replaced(statuses):
                nonlocal fewest
                fewest = min(fewest, scene.fleet.serving)
                return worn not in pids(statuses) and len(statuses) == 2

            await stream.send_all(b"pid\n")
            await scene.until(replaced)
    assert fewest == 2
    after = await scene.until_serving(2, generation=1, restarts=0)
    assert len(pids(before) & pids(after)) == 1
    assert [(line["pid"], line["reason"]) for line in logs if line["event"] == "worker_recycle"] == [(worn, "worn out")]


async def test_one_that_ignores_its_drain_is_killed_after_deadline_and_grace(make, short_grace):
    scene = await make("stubborn", workers=1, retire_timeout=0.1)
    [before] = await scene.until_serving(1)
    scene.order(roll=True, keys={"behaviour": "stubborn"})
    await scene.until_serving(1, generation=2)
    await gone(before.pid)


async def test_a_removed_listener_is_closed_when_nobody_serves_it_any_more(make):
    scene = await make()
    await scene.until_serving(2)
    [old] = scene.fleet.settings.listeners
    address = old.socket.getsockname()
    [new] = open_listeners(["127.0.0.1:0"], tcp_user_timeout=60.0)
    scene.fleet.configure(scene.fleet.settings.config, scene.fleet.settings.keys, [new], roll=True)
    assert set(scene.fleet.open_listeners) == {old, new}
    assert int(await scene.ask("pid", old))  # still served
    await scene.until_serving(2, generation=2)
    await scene.until(lambda _: scene.fleet.open_listeners == (new,))
    with trio.fail_after(10):
        while True:
            try:
                stream = await trio.open_tcp_stream(*address)
            except OSError:
                break
            await stream.aclose()
    assert int(await scene.ask("generation")) == 2


async def test_a_stop_drains_everybody_and_refuses_new_connections(make):
    scene = await make()
    await scene.until_serving(2)
    address = scene.fleet.settings.listeners[0].socket.getsockname()
    scene.fleet.stop(5.0)
    with trio.fail_after(10):
        await scene.ended.wait()
    assert scene.fleet.statuses() == []
    assert scene.fleet.failure is None
    with pytest.raises(OSError, match="refused"), socket.socket() as client:
        client.connect(address)


async def test_a_stop_is_told_once(make, monkeypatch):
    """However often the fleet looks at it, and at what moment it does."""
    scene = await make("stubborn")
    statuses = await scene.until_serving(2)
    looks = []

    def counted(*question):
        looks.append(question)
        return plan.plan(*question)

    monkeypatch.setattr(fleet, "plan", counted)
    monkeypatch.setattr(fleet.heartbeat, "TICK", 0.02)
    with capture_logs() as logs:
        scene.fleet.stop(30.0)
        await scene.until(lambda _: len(looks) > 20)
        drains = [entry for entry in logs if entry["event"] == "drain_start"]
        assert sorted(entry["pid"] for entry in drains) == sorted(pids(statuses))
        assert all(29.0 < entry["timeout"] <= 30.0 for entry in drains)
        scene.fleet.stop(60.0)  # no longer
        looks.clear()
        await scene.until(lambda _: len(looks) > 20)
        assert len([entry for entry in logs if entry["event"] == "drain_start"]) == 2


async def test_a_second_stop_shortens_the_wait(make, short_grace):
    scene = await make("stubborn", workers=1)
    await scene.until_serving(1)
    scene.fleet.stop(3600.0)
    await scene.until(lambda statuses: all(status.state == "draining" for status in statuses))
    scene.fleet.stop(0.0)
    with trio.fail_after(10):
        await scene.ended.wait()


async def test_a_stop_during_the_start_leaves_nobody_behind(make):
    scene = await make(workers=4)
    scene.fleet.stop(1.0)
    with trio.fail_after(20):
        await scene.ended.wait()
    assert scene.fleet.statuses() == []


async def test_a_stop_during_a_roll_leaves_nobody_behind(make):
    scene = await make(workers=2)
    before = await scene.until_serving(2)
    scene.order(roll=True)
    scene.fleet.stop(1.0)
    with trio.fail_after(20):
        await scene.ended.wait()
    assert not any(psutil.pid_exists(pid) for pid in pids(before))


async def test_a_worker_that_can_not_die_does_not_keep_the_service(make, monkeypatch, short_grace):
    """Played by one whose kill is lost, as in a process that hangs in the kernel."""
    monkeypatch.setattr(fleet, "UNKILLABLE", 0.1)
    monkeypatch.setattr("supervisor.link.Link.kill", lambda self, reason: None)
    scene = await make("stubborn", workers=1)
    [worker] = await scene.until_serving(1)
    scene.fleet.stop(0.0)
    with trio.fail_after(10):
        await scene.ended.wait()
    kill(worker.pid)


async def test_stacks_are_dumped_by_all(make, tmp_path):
    scene = await make(marks=tmp_path)
    statuses = await scene.until_serving(2)
    assert scene.fleet.dump_stacks() == 2
    await scene.until(lambda _: {int(path.name) for path in tmp_path.iterdir()} == pids(statuses))
