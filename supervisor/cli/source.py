"""The database as the command line reads it: the right one, and read-only, whether the service runs or not."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from shared.errors import ControlError, StorageError
from shared.paths import resolve_paths
from shared.sqlite import mapped_errors
from supervisor.cli.client import SYSTEM_RUNTIME, control_paths
from supervisor.schema import VERSION

SYSTEM_STATE = Path("/var/lib/kimi-proxy")
"""`StateDirectory=kimi-proxy` of the systemd unit."""

# The writer holds its lock for the time of a commit only.
_BUSY_SECONDS = 5.0


def database_path(env: Mapping[str, str], system_state: Path = SYSTEM_STATE) -> Path:
    """The database of the instance that a command means: the one `control_paths` finds; when nothing runs, one's own,
    or the system's if there is only that.  It need not exist.
    """
    own = resolve_paths(env).database
    system = system_state / own.name
    if not env.get("STATE_DIRECTORY") and (_system_runs(env, own) or (not _exists(own) and _exists(system))):
        return system
    return own


@contextmanager
def open_readonly(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can't write, and does not hold up the service that does.

    `StorageError` if `path` is not there or can't be read, and for what goes wrong with it in the block.
    """
    _require_readable(path)
    address = f"file:{quote(os.fspath(path))}?mode=ro"
    if not os.access(path.parent, os.W_OK) and not _exists(path.with_name(f"{path.name}-wal")):
        # Nobody writes, and the files by which readers and writers meet can't be made.
        address += "&immutable=1"
    try:
        with (
            mapped_errors(),
            closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)) as connection,
        ):
            yield connection
    except StorageError as error:
        raise StorageError(f"{path}: {error}", passing=error.passing, corrupt=error.corrupt) from error


def require_version(connection: sqlite3.Connection) -> None:
    """`StorageError` unless the database has the shape that this version's queries are made for."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        cure = "upgrade kimi-proxy" if version > VERSION else "start the service, which upgrades it"
        raise StorageError(f"it has schema {version}, and this version reads schema {VERSION}: {cure}")


def _require_readable(path: Path) -> None:
    # Asked beforehand, as SQLite has one sentence for all of it.
    try:
        path.stat()
        readable = os.access(path, os.R_OK)
    except FileNotFoundError as error:
        raise StorageError(f"there is no database at {path}; the first start of the service makes it") from error
    except PermissionError:
        readable = False
    if not readable:
        raise StorageError(f"not permitted to read {path}; use the user the service runs as, or sudo")


def _system_runs(env: Mapping[str, str], own: Path) -> bool:
    try:
        return control_paths(env).runtime == SYSTEM_RUNTIME
    except ControlError:
        if _exists(own):
            return False  # the system's service is none of this user's business
        raise


def _exists(path: Path) -> bool:
    """False also where looking is not permitted."""
    return os.path.exists(path)
