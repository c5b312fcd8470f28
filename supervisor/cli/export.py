"""`kimi-proxy export`: the history as CSV or JSON, from the database; the service need not run."""

import argparse
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from shared.errors import ControlError, QueryError
from shared.history import queries
from shared.history.export import writer
from shared.history.parameters import MAX_ROWS, Export, Listing, parse_export
from supervisor.cli.history import as_option, parameters
from supervisor.cli.interrupt import interrupt_ends, interruptible
from supervisor.cli.out import show
from supervisor.cli.source import database_path, open_readonly, require_version
from supervisor.files import replacement


def export(arguments: argparse.Namespace) -> int:
    """Write the streams to stdout, or to a file that appears, or is replaced, when it is whole."""
    now = time.time()
    try:
        asked = parse_export(parameters(arguments, "format"), now)
    except QueryError as error:
        raise as_option(error) from None
    pieces = read(database_path(os.environ), asked, now)
    if arguments.output in (None, "-"):
        with interrupt_ends():
            for piece in pieces:
                show(piece)
        return 0
    target = Path(arguments.output).resolve()
    mode = _mode(target)
    if stat.S_ISREG(mode):
        with interruptible(), replacement(target, stat.S_IMODE(mode)) as new, new.open("wb") as file:
            file.writelines(pieces)
    else:  # a pipe, a device
        with target.open("wb", buffering=0) as device:
            device.writelines(pieces)
    return 0


def read(database: Path, asked: Export, now: float) -> Iterator[bytes]:
    """The file in pieces; `StorageError`.

    Each is a query of its own: a reader who pauses (`| less`) must not keep the service's log of the database from
    being shortened.
    """
    with open_readonly(database) as connection:
        require_version(connection)
        file = writer(asked.format)
        # What begins from now on would come before the first page.
        until = now if asked.filters.until is None else asked.filters.until
        listing = Listing(filters=structs.replace(asked.filters, until=until), limit=MAX_ROWS)
        yield file.head()
        while True:
            query = queries.page(listing)
            page, cursor = queries.page_of(connection.execute(query.sql, query.parameters).fetchall(), listing.limit)
            yield file.lines(page)
            if cursor is None:
                break
            listing = structs.replace(listing, cursor=cursor)
        yield file.tail()


def _mode(target: Path) -> int:
    """The type and permissions of what is there, else those of a new file."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG | 0o666
    if stat.S_ISDIR(mode):
        raise ControlError(f"{target} is a folder: name a file in it")
    return mode
