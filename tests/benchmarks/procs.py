"""Processes: start them pinned and in their own group, end them surely, and read what they cost from /proc."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

STOP_TIMEOUT = 5.0


def usable_cores() -> list[int]:
    """The cores this process may use."""
    return sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Cores:
    """Which core the measured process has, and which the mock and the load generator share; None: don't pin."""

    target: int | None
    load: int | None

    @classmethod
    def choose(cls) -> "Cores":
        """The first two cores this process may use; with a single one nothing is pinned."""
        usable = usable_cores()
        return cls(usable[0], usable[1]) if len(usable) >= 2 else cls(None, None)


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Processes started within inherit this core, and so do all their children."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    command: list[str],
    core: int | None,
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    log: IO[bytes] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a process group on `core`: output into `log`, or else pipes on standard input and output."""
    with pinned(core):
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL if log else subprocess.PIPE,
            stdout=log or subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process politely, then its whole group by force; returns when the process is gone."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def tree(root: int) -> dict[int, int]:
    """The living processes at and below `root`, each with its depth."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    depths = {root: 0}
    queue = [root]
    for pid in queue:
        for child in children.get(pid, ()):
            depths[child] = depths[pid] + 1
            queue.append(child)
    return depths


def workers(depths: dict[int, int]) -> list[int]:
    """Those that do the work: the deepest ones, below every master, supervisor, fork server or launcher."""
    deepest = max(depths.values())
    return [pid for pid, depth in depths.items() if depth == deepest]


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, also of those that have ended.

    From the process's CPU clock (its id is clock_getcpuclockid(3)'s), which is what utime + stime in /proc/PID/stat
    would be if they weren't rounded to ticks of 10 ms.  Raises `ProcessLookupError` if the process has died.
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError as error:
        raise ProcessLookupError(f"process {pid} has died") from error


def memory_bytes(pids: list[int]) -> tuple[int, int]:
    """RSS and PSS, summed over the processes."""
    rss = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                rss += int(line.split()[1]) * 1024
            elif line.startswith("Pss:"):
                pss += int(line.split()[1]) * 1024
    return rss, pss
