"""Logs that nobody takes, and clocks that jump."""

import contextlib
import os
import select
import time
from collections.abc import Iterator

import pytest
from fakes.disks import full_disk, small_disk
from fakes.faults import fault
from fakes.scene import Scene, Setup
from fakes.service import Service, wait_until

pytestmark = pytest.mark.integration

DAY = 86_400.0


def _log_to(service: Service, path: str) -> None:
    """Have its stderr lead there."""
    service.command = ["/bin/sh", "-c", f'exec "$0" "$@" 2>>{path}', *service.command]


@contextlib.contextmanager
def _log_in_a_pipe(service: Service) -> Iterator[None]:
    """Its log goes into a pipe whose reader is a test's, which doesn't read."""
    path = service.folder / "logpipe"
    os.mkfifo(path)
    service.log_reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    _log_to(service, os.fspath(path))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(service.log_reader)


@contextlib.contextmanager
def _log_on_a_small_disk(service: Service) -> Iterator[None]:
    with small_disk(service.folder / "disk"):
        _log_to(service, os.fspath(service.folder / "disk" / "log"))
        yield


@contextlib.contextmanager
def _clock(service: Service) -> Iterator[None]:
    (service.folder / "h" / "clock").write_text("0")
    yield


PIPE = Setup(around=_log_in_a_pipe)
LOG_DISK = Setup(around=_log_on_a_small_disk)
CLOCK = Setup(around=_clock)


async def unharmed(scene: Scene) -> None:
    await scene.completed_more(16)
    await scene.recovered()
    await scene.settle()
    assert scene.not_completed == [], scene.told


@fault(
    "whoever reads the log stops reading, and its pipe is full",
    family="Log",
    saw="nothing",
    kept="every record; lines of the log were dropped, and the next that got through says how many",
    setup=PIPE,
)
async def test_a_full_log_pipe(scene: Scene) -> None:
    log = scene.service.log_reader
    scene.injected()
    while not _is_full(log):
        await scene.completed_more(20)
    await scene.completed_more(40)
    await unharmed(scene)
    text = b""
    while b"log_lines_dropped" not in text:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(log, 65536):
                text += data
        await scene.completed_more(1)


def _is_full(fd: int) -> bool:
    """Whether a pipe takes nothing any more, or at most what is left of its last page."""
    writer = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return not select.select([], [writer], [], 0)[1]
    finally:
        os.close(writer)


@fault(
    "whoever reads the log goes away (EPIPE)",
    family="Log",
    saw="nothing",
    kept="every record; the log is lost",
    setup=PIPE,
)
async def test_a_log_without_a_reader(scene: Scene) -> None:
    scene.injected()
    os.close(scene.service.log_reader)
    await unharmed(scene)


@fault(
    "the disk of the log is full",
    family="Log",
    saw="nothing",
    kept="every record; lines of the log were lost until there was room again",
    setup=LOG_DISK,
    lasting=True,
)
async def test_a_full_log_disk(scene: Scene) -> None:
    folder = scene.service.folder / "disk"
    log = folder / "log"
    with full_disk(folder):
        await scene.completed_more(4)
        size = log.stat().st_size
        await scene.completed_more(20)
        assert log.stat().st_size - size < 4096  # the rest of a page
    scene.injected()
    await unharmed(scene)
    await wait_until(lambda: log.stat().st_size > size + 4096, "a log that goes on")


async def _jump(scene: Scene, seconds: float) -> None:
    """The wall clock of all processes jumps, and back at the end."""
    clock = scene.hooks / "clock"
    before = await scene.service.wait_serving(2)
    slow = [scene.begin("fake/slow-20+text-20"), scene.begin("claude/slow-20+text-20", "anthropic")]
    for asked in slow:
        await asked.wait_bytes()
    scene.injected()
    try:
        clock.write_text(str(seconds))
        after = [scene.begin("fake/text-3"), scene.begin("claude/text-3", "anthropic")]
        await unharmed(scene)
        for asked in slow:
            record = await scene.record(asked)
            assert 0.5 < record["duration"] < 60, record
        for asked in after:
            record = await scene.record(asked)
            assert abs(record["started"] - (time.time() + seconds)) < 60
            assert 0 <= record["duration"] < 60, record
    finally:
        clock.write_text("0")
    assert await scene.service.worker_pids() == before


@fault(
    "the wall clock jumps a day ahead (`time.time` of all processes)",
    family="Clock",
    saw="nothing: no deadline looks at it",
    kept="every record, its duration right, `started` by the new clock; no worker was taken for stuck",
    setup=CLOCK,
)
async def test_a_clock_that_jumps_ahead(scene: Scene) -> None:
    await _jump(scene, DAY)


@fault(
    "the wall clock jumps a day back (`time.time` of all processes)",
    family="Clock",
    saw="nothing: no deadline looks at it",
    kept="every record, its duration right, `started` by the new clock; no worker was taken for stuck",
    setup=CLOCK,
)
async def test_a_clock_that_jumps_back(scene: Scene) -> None:
    await _jump(scene, -DAY)
