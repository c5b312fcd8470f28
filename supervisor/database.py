"""One connection to the database file: opening it safely, upgrading it, writing to it.

Everything here blocks for as long as the disk takes, and for a lock at most `BUSY_SECONDS`.  `sqlite3.Error` becomes
`StorageError`, whose message is a sentence for people.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from shared.errors import StorageError
from shared.logs import get_logger
from shared.records import StreamRecord
from shared.sqlite import mapped_errors as mapped_errors
from supervisor import schema
from supervisor.unwritten import Kept

BUSY_SECONDS = 0.1
MAX_CONVERSATIONS = 10_000
MAX_CONVERSATION_BYTES = 256 * 1024 * 1024
"""Of all together."""
FORGET_ROWS = 100
Check = Literal["quick_check", "integrity_check"]

log = get_logger()

# A record with such a value is refused by any database, now and later.
_UNSTORABLE = (OverflowError, UnicodeEncodeError, sqlite3.IntegrityError, sqlite3.DataError)


def connect(path: Path, now: float, check: Check | None = None, *, newer: bool = False) -> "Database":
    """Open, create or upgrade the database at `path`; `StorageError` if that can't be done.

    A damaged file is put aside (`put_aside`) and a new one created.  `check` looks for damage first, in time
    proportional to the file; without it only what can't be overlooked is found.  `newer`: a file that a newer version
    has upgraded is taken as it is, which `supervisor.schema` allows for.
    """
    try:
        return _open(path, check, newer)
    except StorageError as error:
        if not error.corrupt:
            raise
        kept_as = put_aside(path, now)
        log.error("storage_corrupt", path=str(path), problem=str(error), kept_as=str(kept_as))
        return _open(path, None, newer)


def put_aside(path: Path, now: float) -> Path:
    """Rename a damaged database, its -wal and -shm beside it, so that `sqlite3 .recover` can still be tried on it."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    target = path.with_name(f"{path.name}.corrupt-{stamp}")
    attempt = 1
    while target.exists():
        attempt += 1
        target = path.with_name(f"{path.name}.corrupt-{stamp}-{attempt}")
    try:
        # The log first: the name of a new database must never meet an old log.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{target}{suffix}")
    except OSError as error:
        raise StorageError(f"{path} is damaged and can't be put aside: {error.strerror}") from error
    return target


class Database:
    """An open, upgraded database.  One thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._identity = _identity(path)

    def write(self, records: list[StreamRecord]) -> list[StreamRecord]:
        """Write `records` in one transaction, those that are there already excepted.

        Returns those that no database would take.  Raises `StorageError`; nothing is written then.
        """
        refused = []
        with mapped_errors(), _transaction(self._connection):
            for record in records:
                try:
                    self._connection.execute(schema.INSERT, schema.row(record))
                except _UNSTORABLE:
                    refused.append(record)
        return refused

    def prune(self, before: float, max_rows: int) -> int:
        """Delete at most `max_rows` streams that started before the epoch second `before`; how many it were."""
        with mapped_errors():
            return self._connection.execute(schema.DELETE_BEFORE, (before, max_rows)).rowcount

    def keep(self, conversations: Sequence[Kept], before: float) -> int:
        """Write `conversations` in one transaction, in the place of what was kept of their sessions; b"" forgets it.

        Deletes those from before an epoch second, and the oldest beyond the bounds, `FORGET_ROWS` at most; how many it
        were.  Raises `StorageError`; nothing has changed then.
        """
        with mapped_errors(), _transaction(self._connection):
            for kept in conversations:
                if kept.data:
                    self._connection.execute(schema.KEEP_CONVERSATION, schema.conversation_row(kept))
                else:
                    self._connection.execute(schema.FORGET_CONVERSATION, (kept.session, kept.client))
            bounds = (before, MAX_CONVERSATIONS, MAX_CONVERSATION_BYTES, FORGET_ROWS)
            return self._connection.execute(schema.BOUND_CONVERSATIONS, bounds).rowcount

    def moved(self) -> bool:
        """The file at the path is no longer the one that is written to: it was deleted or replaced."""
        return self._identity is None or _identity(self._path) != self._identity

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()


def _open(path: Path, check: Check | None, newer: bool) -> Database:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder {path.parent} can't be created: {error.strerror}") from error
    with mapped_errors():
        # Opened by one thread and handed to another, hence no check; autocommit, as transactions are explicit here.
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            if check:
                _require_sound(connection, check)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA journal_size_limit = 16777216")
            _upgrade(path, connection, newer)
            return Database(path, connection)
        except BaseException:
            connection.close()
            raise


def _require_sound(connection: sqlite3.Connection, check: Check) -> None:
    (verdict,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
    if verdict != "ok":
        raise StorageError(f"the database is damaged: {verdict}", corrupt=True)


def _upgrade(path: Path, connection: sqlite3.Connection, newer: bool) -> None:
    # Even without a step to do this takes the write lock, and so finds out at the start whether writing is possible.
    with _transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > schema.VERSION and not newer:
            raise StorageError(
                f"{path} was written by a newer version of kimi-proxy (schema {version}, this one knows "
                f"{schema.VERSION}): upgrade kimi-proxy or move the file away"
            )
        for step in schema.MIGRATIONS[version:]:
            for statement in step:
                connection.execute(statement)
        if version < schema.VERSION:
            connection.execute(f"PRAGMA user_version = {schema.VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
