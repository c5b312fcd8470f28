"""The database, for those who only read it: while the service writes, without ever holding it up.

A file that isn't there, or is still empty, has no rows.  Everything here blocks for as long as the disk takes.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from urllib.parse import quote

from shared.errors import StorageError
from shared.history.queries import Query, Row
from shared.sqlite import mapped_errors

BUSY_SECONDS = 2.0
# Steps of SQLite's machine, about a millisecond's worth, between two looks at `stopped`.
_STEPS = 50_000


def read(path: str | os.PathLike[str], *queries: Query, stopped: Callable[[], bool] = bool) -> list[list[Row]]:
    """The rows of each of `queries`, all of them as the database stood at one moment.

    As soon as `stopped()`, which must not block, is true, the query is given up.  Raises `StorageError` for that, and
    if the file can't be read.
    """
    with mapped_errors():
        try:
            connection = sqlite3.connect(
                f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
            )
        except sqlite3.OperationalError:
            if os.path.exists(path):
                raise
            return [[] for _ in queries]
        with contextlib.closing(connection):
            connection.set_progress_handler(stopped, _STEPS)
            connection.execute("BEGIN")
            if not _has_streams(connection):
                return [[] for _ in queries]
            return [connection.execute(query.sql, query.parameters).fetchall() for query in queries]


def _has_streams(connection: sqlite3.Connection) -> bool:
    """Whether the file is there, has been given its tables, and they are those that are asked."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        return False
    names = {name for _, name, *_ in connection.execute("PRAGMA table_info(streams)")}
    if "context_size" not in names:
        raise StorageError("the database comes from an older version: the service upgrades it when it starts")
    return True
