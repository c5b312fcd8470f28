"""Processes that a test has started, and all that came of them: known by a variable in their environment."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def marked_folders(variable: str, mark: str) -> Iterator[Path]:
    """The folders in /proc of those that run with `variable` set to `mark`."""
    wanted = f"{variable}={mark}\0".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and wanted in (entry / "environ").read_bytes():
                yield entry


def marked_lines(variable: str, mark: str) -> list[str]:
    """Their pids and command lines."""
    found = []
    for entry in marked_folders(variable, mark):
        with contextlib.suppress(OSError):
            found.append(f"{entry.name}: {(entry / 'cmdline').read_text()}")
    return found
