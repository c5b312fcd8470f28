"""Threads that a cancelled run leaves behind: counted, logged, and in the end a reason to be replaced."""

import threading
import time

import pytest
import trio
from structlog.testing import capture_logs

from shared.config import Agent
from shared.messages import Recycle
from worker.agent.threads import AbandonedThreads, Threads


class Blocked:
    """A function that blocks until it is let go."""

    def __init__(self):
        self.begun = threading.Event()
        self.go = threading.Event()
        self.over = threading.Event()

    def __call__(self):
        self.begun.set()
        self.go.wait(20)
        self.over.set()

    def release(self):
        self.go.set()


class Scene:
    def __init__(self, **settings):
        self.sent = []
        self.abandoned = AbandonedThreads(self)
        self.threads = Threads(Agent(**settings), self.abandoned, "abc")

    def send(self, message):
        self.sent.append(message)

    async def abandon(self, blocked):
        """Cancel a run while it waits for its thread."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.threads.run, blocked)
            with trio.fail_after(5):
                await trio.to_thread.run_sync(blocked.begun.wait)
            nursery.cancel_scope.cancel()


def later(seconds=0.5):
    return trio.current_time() + seconds


async def test_a_result_and_an_error():
    threads = Scene().threads
    assert await threads.run(int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        await threads.run(int, "seven")


async def test_a_cancel_does_not_wait_for_the_thread():
    scene, blocked = Scene(), Blocked()
    began = time.monotonic()
    await scene.abandon(blocked)
    assert time.monotonic() - began < 10
    assert not blocked.over.is_set()
    blocked.release()


async def test_one_that_ends_within_the_grace_is_nobody_s_business():
    scene, blocked = Scene(), Blocked()
    await scene.abandon(blocked)
    scene.abandoned.check(later(0.4))
    assert scene.abandoned.count == 0
    blocked.release()
    with capture_logs() as logs, trio.fail_after(5):
        while scene.abandoned._calls:
            await trio.sleep(0.001)
            scene.abandoned.check(later(0.4))
    assert (scene.abandoned.total, logs) == (0, [])


async def test_one_that_outlives_it_is_counted_and_logged_once():
    scene, blocked = Scene(), Blocked()
    await scene.abandon(blocked)
    with capture_logs() as logs:
        for _ in range(3):
            scene.abandoned.check(later())
    assert [(line["event"], line["trace"], line["abandoned"]) for line in logs] == [
        ("agent_task_timeout_on_cancel", "abc", 1)
    ]
    assert (scene.abandoned.count, scene.abandoned.total) == (1, 1)
    blocked.release()
    with trio.fail_after(5):
        while scene.abandoned.count:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert scene.abandoned.total == 1


async def test_too_many_ask_for_another_worker_once():
    scene = Scene(max_abandoned_threads=2)
    many = [Blocked() for _ in range(4)]
    for number, blocked in enumerate(many, 1):
        await scene.abandon(blocked)
        scene.abandoned.check(later())
        assert len(scene.sent) == (number > 2)
    assert scene.sent == [Recycle(reason="3 threads can't be interrupted")]
    for blocked in many:
        blocked.release()


async def test_a_run_that_was_cancelled_before_leaves_nothing():
    scene = Scene()
    with trio.CancelScope() as scope:
        scope.cancel()
        await scene.threads.run(time.sleep, 100)
    assert not scene.abandoned._calls
