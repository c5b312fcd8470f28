"""The pipes between supervisor and workers: nonsense on them, and nobody who reads them."""

import contextlib
import fcntl
import os
import signal
import struct
import sys
import termios
from pathlib import Path

import pytest
from fakes.faults import fault
from fakes.scene import Scene
from fakes.service import wait_until

from shared.framing import frame

pytestmark = pytest.mark.integration

FULL = 60_000
"""Bytes in a pipe that will not take another frame soon: it holds 64 KiB."""
GARBAGE = "in the log `worker_garbage`"


def say(pid: int, reader: int, data: bytes) -> None:
    """Write to the pipe from one process to another, in its name."""
    fd, _ = _pipe(pid, reader)
    with open(f"/proc/{pid}/fd/{fd}", "wb", buffering=0) as file:
        file.write(data)


def unread_bytes(pid: int, reader: int) -> int:
    """What waits in the pipe from one process to another."""
    _, fd = _pipe(pid, reader)
    with open(f"/proc/{reader}/fd/{fd}", "rb", buffering=0) as file:
        return int.from_bytes(fcntl.ioctl(file, termios.FIONREAD, bytes(4)), sys.byteorder)


def _pipe(writer: int, reader: int) -> tuple[str, str]:
    """The writer's and the reader's descriptor of the pipe from the one to the other."""
    read = {link: fd for fd, link, flags in _pipes(reader) if flags & os.O_NONBLOCK}  # not the library's own
    [found] = [(fd, read[link]) for fd, link, flags in _pipes(writer) if flags & os.O_WRONLY and link in read]
    return found


def _pipes(pid: int) -> list[tuple[str, str, int]]:
    """Descriptor, pipe and flags of each end of a pipe that a process has."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
            flags = next(int(line.split()[1], 8) for line in info.splitlines() if line.startswith("flags"))
            if link.startswith("pipe:"):
                found.append((fd, link, flags))
    return found


async def _distrusted(scene: Scene, data: bytes) -> None:
    """The worker that said this is killed, and replaced."""
    scene.service.excused.add("worker_garbage")
    victim, survivor = await scene.busiest()
    scene.injected()
    say(victim, scene.service.pid, data)
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    assert any(event["pid"] == str(victim) for event in scene.service.events("worker_garbage"))
    await scene.settle()
    assert {asked.outcome for asked in scene.not_completed} == {"cut"}, scene.told
    cut = {asked.trace for asked in scene.not_completed if asked.status == 200}
    await wait_until(lambda: cut <= {record["trace"] for record in scene.records()}, "their records")
    assert {r["error_type"] for r in scene.records() if r["status"] != "completed"} == {"worker_died"}


@fault(
    "a worker says what is no message (a damaged memory)",
    family="Pipes",
    saw="the worker was killed, and its streams were cut with it; all others went on",
    kept=f"a record `failed`/`worker_died` for each stream that was cut; {GARBAGE}",
)
async def test_garbage_on_the_up_pipe(scene: Scene) -> None:
    await _distrusted(scene, frame(b"\xc1 no message"))


@fault(
    "a worker announces a frame of 4 GB",
    family="Pipes",
    saw="the worker was killed, and its streams were cut with it; all others went on",
    kept=f"a record `failed`/`worker_died` for each stream that was cut; {GARBAGE}",
)
async def test_an_oversized_frame_on_the_up_pipe(scene: Scene) -> None:
    await _distrusted(scene, struct.pack(">I", 0xFFFF_FFFF) + b"x")


@fault(
    "a worker is told what is no command",
    family="Pipes",
    saw="the worker took no more connections; its streams were completed, or ended in a legal error after 2.5 s",
    kept="a record of every stream; the worker was replaced",
    because="its streams may take 2.5 s",
)
async def test_garbage_on_the_down_pipe(scene: Scene) -> None:
    long = scene.begin("fake/slow-20+text-2000")
    await long.wait_bytes()
    victim, survivor = await scene.busiest()
    short = [asked for asked in scene.asked if asked.outcome is None and asked.body and asked is not long]
    held = scene.connections_of(victim)
    scene.injected()
    say(scene.service.pid, victim, frame(b"\xc1 no command"))
    await scene.recovered(without=[victim])
    assert survivor in await scene.service.worker_pids()
    assert scene.service.events("down_pipe_garbage")
    if long.port not in held:
        long.leave()
    await scene.settle()
    assert {asked.outcome for asked in short} == {"completed"}, scene.told
    assert long.outcome in ("error", "left"), scene.told
    assert {asked.port for asked in scene.not_completed} <= held | {long.port}, scene.told


@fault(
    "the supervisor is stopped (SIGSTOP) until the workers' pipes to it are full, then continued",
    family="Pipes",
    saw="nothing",
    kept="everything: what the pipes could not take waited in the workers",
    lasting=True,
)
async def test_full_up_pipes(scene: Scene) -> None:
    before = await scene.service.wait_serving(2)
    supervisor = scene.service.pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        while min(unread_bytes(pid, supervisor) for pid in before) < FULL:
            asked = [scene.begin("fake/text-3", stream=False) for _ in range(40)]
            for one in asked:
                await one.wait()
        await scene.completed_more()
    finally:
        scene.injected()
        os.kill(supervisor, signal.SIGCONT)
    await scene.recovered()
    await scene.settle()
    assert scene.not_completed == [], scene.told
    assert await scene.service.worker_pids() == before
    wanted = {asked.trace for asked in scene.asked}
    await wait_until(lambda: wanted <= {record["trace"] for record in scene.records()}, "all records")
