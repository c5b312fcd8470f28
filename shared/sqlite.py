"""What SQLite's errors mean to people: `sqlite3.Error` becomes `StorageError` where a database is written or read."""

import contextlib
import sqlite3
from collections.abc import Iterator

from shared.errors import StorageError

# Primary result code → the sentence, and whether waiting may help.
_SENTENCES = {
    sqlite3.SQLITE_FULL: ("the disk is full", True),
    sqlite3.SQLITE_BUSY: ("another process has locked the database", True),
    sqlite3.SQLITE_LOCKED: ("another process has locked the database", True),
    sqlite3.SQLITE_IOERR: ("the disk refused a read or a write", True),
    sqlite3.SQLITE_NOMEM: ("there is no memory left", True),
    sqlite3.SQLITE_INTERRUPT: ("the query was given up", True),
    sqlite3.SQLITE_READONLY: ("the database, or its folder, is read-only for this user", False),
    sqlite3.SQLITE_CANTOPEN: ("the database can't be opened or created: check its folder and permissions", False),
    sqlite3.SQLITE_PERM: ("this user has no permission for the database", False),
}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """`sqlite3.Error` becomes `StorageError`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        sentence, passing = _SENTENCES.get(code, ("the database can't be used", False))
        raise StorageError(f"{sentence} ({error})", passing=passing, corrupt=code in _CORRUPT) from error
