"""Limits that the kernel sets to a process of the service; a test that can't set one is skipped."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CGROUPS = Path("/sys/fs/cgroup")


def _group_of(controller: str) -> Path:
    """Our own group: in the unified hierarchy, or in the controller's own."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controller in controllers.split(","):
            return CGROUPS / controller / path.lstrip("/")
    [path] = [path for number, _, path in lines if number == "0"]
    return CGROUPS / path.lstrip("/")


@contextlib.contextmanager
def _limited(controller: str, pids: list[int], files: dict[str, str]) -> Iterator[Path]:
    """Put processes into a group of their own; the first of `files` that is there is the limit."""
    parent = _group_of(controller)
    group = parent / f"kimi-{os.getpid()}-{pids[0]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        try:
            name, value = next((name, value) for name, value in files.items() if (group / name).exists())
            (group / name).write_text(value)
            for pid in pids:
                (group / "cgroup.procs").write_text(str(pid))
        except (OSError, StopIteration) as error:
            pytest.skip(f"no limit can be set here: {error}")
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            group.rmdir()


@contextlib.contextmanager
def memory_limit(pid: int, size_bytes: int) -> Iterator[None]:
    """The process is killed for its memory when it takes so much more than it has."""
    files = {"memory.max": str(size_bytes), "memory.limit_in_bytes": str(size_bytes)}
    with _limited("memory", [pid], files):
        yield


@contextlib.contextmanager
def process_limit(pids: list[int]) -> Iterator[None]:
    """These processes can start no other process, and no thread."""
    with _limited("pids", pids, {"pids.max": "0"}):
        yield
