"""`kimi-proxy backup`: a copy of the database, taken while the service writes to it."""

import argparse
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from shared.errors import ControlError, StorageError
from shared.sqlite import mapped_errors
from supervisor.cli.interrupt import interruptible
from supervisor.cli.source import database_path, open_readonly
from supervisor.cli.text import say, size
from supervisor.files import replacement

# Some 4 MiB: an interrupt is heard after each step.
_STEP_PAGES = 1024
# Of SQLite's machine, about a millisecond's worth.
_STEPS = 50_000


def backup(arguments: argparse.Namespace) -> int:
    """Copy the database to a file that appears when it is whole and has been checked; its path on stdout."""
    source = database_path(os.environ)
    target = Path(arguments.file).resolve()
    _refuse(source, target, force=arguments.force)
    with interruptible(), replacement(target, 0o600) as new:
        streams = copy(source, new)
        _refuse(source, target, force=arguments.force)  # again, as that took its time
    say(f"{streams} streams, {size(target.stat().st_size)}, checked")
    print(target)
    return 0


def copy(source: Path, target: Path) -> int:
    """Copy the database `source` as it is at this moment to the empty file `target`; how many streams it has.

    The service goes on writing meanwhile.  The copy is one file, without a log beside it.  `StorageError` if either
    can't be used, or if the copy is damaged.
    """
    with open_readonly(source) as connection, closing(sqlite3.connect(target, isolation_level=None)) as made:
        # One read transaction around all steps: else every commit of the service would begin the copy anew.
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        # Without a call between the steps, the interpreter would look at signals when all is done.
        connection.backup(made, pages=_STEP_PAGES, progress=lambda *_: None)
    with mapped_errors(), closing(sqlite3.connect(target, isolation_level=None)) as made, _heard_in(made):
        made.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = made.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StorageError(
                f"{source} is damaged ({verdict}): its copy was not kept; try `sqlite3 {source} .recover`"
            )
        (streams,) = made.execute("SELECT count(*) FROM streams").fetchone()
        return int(streams)


@contextmanager
def _heard_in(connection: sqlite3.Connection) -> Iterator[None]:
    """An interrupt ends the queries of `connection`, not only what comes after them."""
    connection.set_progress_handler(lambda: None, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:  # all that `sqlite3` lets through of `KeyboardInterrupt`
            raise KeyboardInterrupt from None
        raise


def _refuse(source: Path, target: Path, *, force: bool) -> None:
    if target.is_dir():
        raise ControlError(f"{target} is a folder: name a file in it")
    if target.exists():
        if any(_same(target, source.with_name(f"{source.name}{suffix}")) for suffix in ("", "-wal", "-shm")):
            raise ControlError(f"{target} is the database itself: choose another file")
        if not target.is_file():
            raise ControlError(f"{target} is no ordinary file: choose another one")
        if not force:
            raise ControlError(f"{target} exists; replace it with --force, or choose another file")


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)
