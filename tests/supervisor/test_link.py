"""The link: real pipes, a process that is played."""

import os
import signal
import time

import pytest
import trio
import trio.testing
from fakes.streams import ListedStore
from structlog.testing import capture_logs

from shared.channel import FrameReader, FrameWriter, open_pipe
from shared.framing import MAX_FRAME_BYTES, frame
from shared.messages import (
    Beat,
    CancelStream,
    Drain,
    Progress,
    Ready,
    Recycle,
    Stored,
    StreamEnded,
    StreamStarted,
    decode_down,
    encode,
)
from shared.records import StreamRecord, StreamStart, Tokens
from supervisor.heartbeat import AwakeClock
from supervisor.ledger import Ledger
from supervisor.link import Link

PID = 4242


class PlayedProcess:
    """Stands in for `WorkerProcess`: a worker that this test is."""

    def __init__(self):
        self.pid = PID
        self.up_fd, self.worker_up_fd = open_pipe()
        self.worker_down_fd, self.down_fd = open_pipe()
        self.signals = []
        self.dead = trio.Event()

    def send_signal(self, signum):
        self.signals.append(signum)

    async def wait_exit(self):
        await self.dead.wait()


class PlayedHub:
    """Notes what it hears."""

    def __init__(self):
        self.heard = []

    def joined(self, peer):
        self.heard.append("joined")

    def take(self, peer, message):
        self.heard.append(type(message).__name__)

    def left(self, peer, records):
        self.heard.append([record.start.id for record in records])


class Scene:
    """A link, the worker's ends of its pipes, and what came out of it."""

    def __init__(self):
        self.process = PlayedProcess()
        self.up = FrameWriter(self.process.worker_up_fd)
        self.down = FrameReader(self.process.worker_down_fd)
        self.ledger = Ledger()
        self.store = ListedStore(holding=True)
        self.records = self.store.records
        self.hub = PlayedHub()
        self.ready = trio.Event()
        self.worn = trio.Event()
        self.link = Link(
            self.process,
            slot=1,
            generation=3,
            ledger=self.ledger,
            store=self.store,
            hub=self.hub,
            clock=AwakeClock(trio.current_time()),
            on_ready=self.ready.set,
            on_worn=self.worn.set,
        )

    def say(self, message):
        self.up.send_nowait(encode(message))

    async def heard(self, condition):
        with trio.fail_after(5):
            while not condition():  # noqa: ASYNC110 (what changes has no event)
                await trio.sleep(0.001)

    def die(self):
        self.up.close()
        self.process.dead.set()


@pytest.fixture
async def scene(nursery):
    scene = Scene()
    nursery.start_soon(scene.link.run)
    yield scene
    scene.die()
    scene.down.close()


def stream(id="s1"):
    return StreamStart(
        id=id,
        trace="t",
        session=None,
        worker=1,
        provider="fake",
        model="text",
        dialect="openai",
        streaming=True,
        started=time.time(),
    )


def end(start):
    return StreamRecord(
        start=start,
        provider="fake",
        upstream_model="text",
        status="completed",
        duration=0.5,
        completion=Tokens(5, "provider"),
    )


def beat(*progress, streams=0):
    return Beat(streams=streams, connections=2, rss_bytes=3000, lag=0.25, dropped=1, progress=list(progress))


async def test_ready_makes_it_serve(scene):
    assert scene.link.state == "starting"
    scene.say(Ready(pid=PID, generation=3))
    await scene.ready.wait()
    assert scene.link.state == "serving"


async def test_a_worker_asks_once_to_be_replaced(scene):
    assert not scene.link.view().worn
    with capture_logs() as logs:
        for _ in range(2):
            scene.say(Recycle(reason="tired"))
        scene.say(beat())
        await scene.heard(lambda: scene.link.status(0).connections)
    assert scene.worn.is_set()
    assert scene.link.view().worn
    assert [(line["event"], line["reason"]) for line in logs] == [("worker_recycle", "tired")]


async def test_one_that_leaves_anyhow_is_not_recycled(scene):
    scene.link.drain("retire", 10.0)
    scene.say(Recycle(reason="tired"))
    scene.say(beat())
    await scene.heard(lambda: scene.link.status(0).connections)
    assert not scene.worn.is_set()


async def test_a_beat_is_what_status_shows(scene):
    scene.say(StreamStarted(stream()))
    scene.say(beat(streams=1))
    await scene.heard(lambda: scene.link.status(0).connections)
    status = scene.link.status(restarts=7)
    assert (status.worker, status.pid, status.generation, status.restarts) == (1, PID, 3, 7)
    assert (status.streams, status.rss_bytes, status.lag, status.dropped) == (1, 3000, 0.25, 1)


async def test_a_record_is_stored_once(scene):
    start = stream()
    for message in (StreamStarted(start), StreamEnded(end(start)), StreamEnded(end(start))):
        scene.say(message)
    await scene.heard(lambda: scene.records)
    assert scene.records == [end(start)]
    assert scene.ledger.totals().completed == 1


async def commands(scene):
    with trio.fail_after(5):
        return [decode_down(payload) for payload in await scene.down.receive()]


async def test_beats_are_answered_with_what_is_stored(scene):
    for id in ("a", "b", "c"):
        scene.say(StreamEnded(end(stream(id))))
    scene.store.store(2)
    await scene.heard(lambda: len(scene.records) == 3)
    scene.say(beat())
    assert await commands(scene) == [Stored(2)]
    scene.say(beat())  # no news, no answer
    scene.say(StreamEnded(end(stream("a"))))  # a double, which is no more to write
    await scene.heard(lambda: scene.link._ended == 4)
    scene.store.store(1)
    scene.say(beat())
    assert await commands(scene) == [Stored(4)]
    assert len(scene.records) == 3


async def test_records_of_others_come_before_its_own(scene):
    for id in ("x", "y"):
        scene.store.put_nowait(end(stream(id)))
    scene.say(StreamEnded(end(stream("a"))))
    await scene.heard(lambda: len(scene.records) == 3)
    scene.store.store(2)
    scene.say(beat())
    await scene.heard(lambda: scene.link.status(0).connections)
    scene.store.store(1)
    scene.say(beat())
    assert await commands(scene) == [Stored(1)]


async def test_the_death_of_a_worker_comes_after_its_last_words():
    """A record written just before the end stands; only what is still open is closed as worker_died."""
    scene = Scene()
    for id in ("done", "open"):
        scene.say(StreamStarted(stream(id)))
    scene.say(beat(Progress("open", tokens=17, received_bytes=90)))
    scene.say(StreamEnded(end(stream("done"))))
    scene.die()
    await scene.link.run()
    scene.down.close()
    assert [(record.start.id, record.status, record.error_type) for record in scene.records] == [
        ("done", "completed", None),
        ("open", "failed", "worker_died"),
    ]
    assert scene.records[1].completion == Tokens(17, "partial")
    assert scene.ledger.active_count() == 0


async def test_a_child_that_holds_the_pipe_does_not_hold_up_the_end(autojump_clock):
    scene = Scene()
    scene.say(StreamStarted(stream()))
    scene.process.dead.set()  # yet the pipe stays open
    with trio.fail_after(1):
        await scene.link.run()
    assert [record.error_type for record in scene.records] == ["worker_died"]
    scene.up.close()
    scene.down.close()


async def test_a_torn_last_frame_is_left_out():
    scene = Scene()
    scene.say(StreamStarted(stream()))
    torn = frame(encode(StreamEnded(end(stream()))))[:-3]
    os.write(scene.process.worker_up_fd, torn)
    scene.die()
    await scene.link.run()
    scene.down.close()
    assert [record.error_type for record in scene.records] == ["worker_died"]


@pytest.mark.parametrize(
    "garbage",
    [
        frame(b"\xc1"),
        frame(b"\x93\x01\x02\x03"),
        frame(encode(Drain("retire", 1.0))),  # a command, on the wrong pipe
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"x" * 100,
    ],
    ids=["not msgpack", "not a message", "wrong direction", "oversized"],
)
async def test_garbage_kills_the_worker_and_nothing_else(garbage):
    scene = Scene()
    scene.say(StreamStarted(stream()))
    os.write(scene.process.worker_up_fd, garbage)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.link.run)
        await scene.heard(scene.ledger.active_count)
        scene.say(StreamEnded(end(stream())))
        await scene.heard(lambda: scene.process.signals)
        assert scene.process.signals == [signal.SIGKILL]
        scene.die()
    scene.down.close()
    assert [record.error_type for record in scene.records] == ["worker_died"]


async def test_commands_arrive(scene):
    scene.link.send(CancelStream("s1", "admin"))
    scene.link.drain("retire", trio.current_time() + 9.0)
    commands = []
    with trio.fail_after(5):
        while len(commands) < 2:
            commands += map(decode_down, await scene.down.receive())
    assert commands[0] == CancelStream("s1", "admin")
    assert commands[1].mode == "retire"
    assert 8.0 < commands[1].timeout <= 9.0
    view = scene.link.view()
    assert (view.state, view.drain_mode) == ("draining", "retire")
    assert scene.link.asked_to_leave


async def test_one_that_gets_ready_while_it_drains_goes_on_draining(scene):
    scene.link.drain("retire", trio.current_time() + 9.0)
    scene.say(Ready(pid=PID, generation=3))
    await scene.ready.wait()
    assert scene.link.state == "draining"


async def test_a_command_to_a_dead_worker_is_no_error(scene):
    scene.down.close()
    scene.link.send(CancelStream("s1", "admin"))
    scene.link.drain("shutdown", 0.0)


async def test_stacks_are_asked_only_of_one_that_has_a_handler_for_it(scene):
    scene.link.dump_stacks()
    assert scene.process.signals == []
    scene.say(Ready(pid=PID, generation=3))
    await scene.ready.wait()
    scene.link.dump_stacks()
    assert scene.process.signals == [signal.SIGUSR1]


async def test_a_stuck_one_stays_stuck(scene):
    scene.say(Ready(pid=PID, generation=3))
    await scene.ready.wait()
    scene.link.declare_stuck(31.0)
    scene.link.drain("shutdown", 5.0)
    scene.say(beat())
    await scene.heard(lambda: scene.link.status(0).connections)
    assert scene.link.state == "stuck"
    scene.link.kill("it was stuck")
    scene.link.kill("it was stuck")
    assert scene.process.signals == [signal.SIGUSR1, signal.SIGKILL]


async def test_cancellation_closes_the_pipes():
    """A supervisor that falls tells its workers so."""
    scene = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.link.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await scene.down.receive() == []
    scene.up.close()
    scene.down.close()
    assert scene.records == []
