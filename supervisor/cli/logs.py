"""`kimi-proxy logs`: the log file of a service in the background, through truncation and rotation."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from shared.errors import ControlError
from shared.paths import Paths
from supervisor.cli.client import SYSTEM_RUNTIME, control_paths
from supervisor.cli.out import show

_BLOCK_BYTES = 65536
_LOOK_EVERY = 0.25


def logs(arguments: argparse.Namespace) -> int:
    """Show the last lines; with `follow`, go on until interrupted."""
    paths = control_paths(os.environ)
    if paths.runtime == SYSTEM_RUNTIME:
        raise ControlError(f"the service runs under systemd: its log is in {where_the_log_is(paths)}")
    try:
        file = paths.log_file.open("rb")
    except FileNotFoundError as error:
        raise ControlError(
            f"there is no log at {paths.log_file}: `kimi-proxy start` makes it, `kimi-proxy run` logs to its "
            "terminal, and systemd keeps the log itself (journalctl -u kimi-proxy)"
        ) from error
    with file:
        show(tail(file, arguments.lines))
        position = file.tell()
    if arguments.follow:
        for data in follow(paths.log_file, position):
            show(data)
    return 0


def where_the_log_is(paths: Paths) -> str:
    """Half a sentence that tells a person how to read the log."""
    if paths.runtime == SYSTEM_RUNTIME or not paths.log_file.exists():
        return "the journal or the terminal of the service (journalctl -u kimi-proxy)"
    return f"{paths.log_file} (kimi-proxy logs)"


def tail(file: BinaryIO, lines: int) -> bytes:
    """The last `lines` lines of a seekable file, which is left at its end; reads no more than it must."""
    end = position = file.seek(0, os.SEEK_END)
    blocks: list[bytes] = []
    newlines = 0
    # A newline more than asked for: the one before the first line that is shown.
    while position > 0 and newlines <= lines:
        start = max(0, position - _BLOCK_BYTES)
        file.seek(start)
        block = file.read(position - start)
        blocks.insert(0, block)
        newlines += block.count(b"\n")
        position = start
    file.seek(end)
    shown = b"".join(blocks).splitlines(keepends=True)
    return b"".join(shown[-lines:]) if lines else b""


def follow(path: Path, position: int) -> Iterator[bytes]:
    """What is written to `path` from `position` on, forever; a new or shortened file is read from its beginning.

    Looks four times a second: cheap enough, and the standard library has no inotify.
    """
    with ExitStack() as opened:
        file: BinaryIO | None = opened.enter_context(path.open("rb"))
        while True:
            # Looked at before the last read, so that nothing written to the old file in between is lost.
            replaced = _was_replaced(file, path)
            if file is not None:
                if os.fstat(file.fileno()).st_size < position:
                    position = 0
                file.seek(position)
                while data := file.read(_BLOCK_BYTES):
                    position += len(data)
                    yield data
            if not replaced:
                time.sleep(_LOOK_EVERY)
                continue
            opened.close()
            position = 0
            try:
                file = opened.enter_context(path.open("rb"))
            except FileNotFoundError:
                file = None  # between the old log and the new one
                time.sleep(_LOOK_EVERY)


def _was_replaced(file: BinaryIO | None, path: Path) -> bool:
    if file is None:
        return True
    try:
        there = path.stat()
    except FileNotFoundError:
        return False  # moved away: it may still be written to until the new one appears
    here = os.fstat(file.fileno())
    return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)
