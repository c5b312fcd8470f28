"""The history as a file: CSV (RFC 4180, UTF-8), or a JSON array with a line for each stream.

Whoever writes the file sends `head`, then `lines` of rows any number of times, then `tail`.
"""

import csv
import re
from collections.abc import Iterable
from typing import Protocol

import msgspec

from shared.history import answers
from shared.history.columns import COLUMNS
from shared.history.parameters import Format
from shared.history.queries import Row

CONTENT_TYPES: dict[Format, str] = {"csv": "text/csv; charset=utf-8; header=present", "json": "application/json"}

# Spreadsheets take such a cell for a formula, be it quoted or not, and names of models and sessions are whatever
# clients sent; with an apostrophe before it, it is text.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")


class Writer(Protocol):
    """One file."""

    def head(self) -> bytes:
        """What comes first."""
        ...

    def lines(self, rows: Iterable[Row]) -> bytes:
        """Rows of `queries.page`."""
        ...

    def tail(self) -> bytes:
        """What comes last."""
        ...


def writer(format: Format) -> Writer:
    """For a new file."""
    return _Csv() if format == "csv" else _Json()


class _Csv:
    """A header line, then a line for each stream; what is not known is empty."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._csv = csv.writer(self)

    def write(self, line: str) -> None:
        """The way out of `csv`, which wants a file."""
        self._written.append(line)

    def head(self) -> bytes:
        self._csv.writerow(COLUMNS)
        return self._take()

    def lines(self, rows: Iterable[Row]) -> bytes:
        # The last value is the rowid.
        self._csv.writerows([harmless(cell) if type(cell) is str else cell for cell in row[:-1]] for row in rows)
        return self._take()

    def tail(self) -> bytes:
        return b""

    def _take(self) -> bytes:
        text, self._written = "".join(self._written), []
        return text.encode()


class _Json:
    """`[`, the streams as `/api/streams` tells them, `]`."""

    def __init__(self) -> None:
        self._begun = False

    def head(self) -> bytes:
        return b"["

    def lines(self, rows: Iterable[Row]) -> bytes:
        out = []
        for row in rows:
            out.append(b",\n" if self._begun else b"\n")
            out.append(msgspec.json.encode(answers.stream(row)))
            self._begun = True
        return b"".join(out)

    def tail(self) -> bytes:
        return b"\n]\n"


def harmless(text: str) -> str:
    """`text` such that no spreadsheet takes it for a formula."""
    return "'" + text if _FORMULA.match(text) else text
