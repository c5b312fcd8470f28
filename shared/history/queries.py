"""From a question about the history to SQL.  Names of columns come from here, all values are bound parameters.

page        rows of streams, the newest first, and where the next page begins      keyset pagination by (started, rowid)
one         the row of one stream
groups      sums by a property, percentiles of the time to the first byte included
errors      how often each provider failed, and how
"""

from collections.abc import Sequence
from typing import cast

from msgspec import Struct, structs

from shared.history.columns import COLUMNS
from shared.history.parameters import Cursor, Filters, Grouping, Listing

Cell = str | int | float | None
Row = tuple[Cell, ...]


class Query(Struct, frozen=True):
    """A statement and its parameters."""

    sql: str
    parameters: tuple[Cell, ...] = ()


_SELECT = f"SELECT {', '.join(COLUMNS)}, rowid FROM streams"
_STARTED = COLUMNS.index("started")

_CONDITIONS = {
    "since": "started >= ?",
    "until": "started < ?",
    "min_duration": "duration >= ?",
    "text": "(instr(lower(id), lower(?)) OR instr(lower(trace), lower(?)) OR instr(lower(session), lower(?)))",
}
"""Of the filters that are no list of values."""

# By what streams can be grouped: the name → its SQL.  Days are UTC's, so that they are the same everywhere.
_KEYS = {
    None: "NULL",
    "hour": "strftime('%Y-%m-%dT%H:00:00Z', started, 'unixepoch')",
    "day": "strftime('%Y-%m-%d', started, 'unixepoch')",
    "month": "strftime('%Y-%m', started, 'unixepoch')",
    "time": "CAST(started / ? AS INTEGER) * ?",
}
PERIODS = frozenset({"hour", "day", "month", "time"})
# There is nothing to say about streams that have none.
_SPARSE = frozenset({"session", "error_type"})

SUMS = {
    "streams": "count(*)",
    "completed": "count(*) FILTER (WHERE status = 'completed')",
    "cancelled": "count(*) FILTER (WHERE status = 'cancelled')",
    "failed": "count(*) FILTER (WHERE status = 'failed')",
    "retries": "sum(retries)",
    "prompt_tokens": "coalesce(sum(prompt_tokens), 0)",
    "completion_tokens": "coalesce(sum(completion_tokens), 0)",
    "cache_read": "coalesce(sum(cache_read), 0)",
    "cache_write": "coalesce(sum(cache_write), 0)",
    "cost": "round(sum(cost), 12)",
    "priced": "count(cost)",
    "first_byte_p50": "min(first_byte) FILTER (WHERE rank * 100 >= ranked * 50)",
    "first_byte_p95": "min(first_byte) FILTER (WHERE rank * 100 >= ranked * 95)",
    "tokens_per_second": "sum(written) / sum(writing)",
    "last": "max(started)",
}
"""What is told of each group: the name → its SQL."""

# Percentiles by nearest rank, in integers: SQLite has no function for them.  How fast models write is seen on streams.
_GROUPS = """
WITH chosen AS (
    SELECT *, {key} AS key, iif(streaming AND completion_tokens > 0 AND duration > first_byte, 1, NULL) AS writes
    FROM streams {where}
), measured AS (
    SELECT key, status, retries, prompt_tokens, completion_tokens, cache_read, cache_write, cost, started, first_byte,
        writes * completion_tokens AS written, writes * (duration - first_byte) AS writing,
        row_number() OVER (PARTITION BY key ORDER BY first_byte NULLS LAST) AS rank,
        count(first_byte) OVER (PARTITION BY key) AS ranked
    FROM chosen {sparse}
)
SELECT key, {sums} FROM measured GROUP BY key ORDER BY {order} LIMIT ?
"""


def page(listing: Listing) -> Query:
    """One row more than asked for, if there are so many: it tells `page_of` that there is a next page."""
    where, parameters = _where(listing.filters, *(["(started, rowid) < (?, ?)"] if listing.cursor else []))
    if listing.cursor is not None:
        parameters += (listing.cursor.started, listing.cursor.rowid)
    return Query(f"{_SELECT} {where} ORDER BY started DESC, rowid DESC LIMIT ?", (*parameters, listing.limit + 1))


def page_of(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], Cursor | None]:
    """From the answer to `page`: its rows, and where the next page begins, if there is one."""
    if len(rows) <= limit:
        return rows, None
    *_, last = kept = rows[:limit]
    return kept, Cursor(cast("float", last[_STARTED]), cast("int", last[-1]))


def one(id: str) -> Query:
    """One row, or none."""
    return Query(f"{_SELECT} WHERE id = ?", (id,))


def groups(grouping: Grouping) -> Query:
    """Rows of the key and `SUMS`: the newest periods, else what costs most."""
    key = _KEYS.get(grouping.by) or str(grouping.by)
    where, parameters = _where(grouping.filters)
    widths = (grouping.bucket, grouping.bucket) if grouping.by == "time" else ()
    sql = _GROUPS.format(
        key=key,
        where=where,
        sparse="WHERE key IS NOT NULL" if grouping.by in _SPARSE else "",
        sums=", ".join(f"{sql} AS {name}" for name, sql in SUMS.items()),
        order="key DESC" if grouping.by in PERIODS else "cost DESC NULLS LAST, streams DESC, key",
    )
    return Query(sql, (*widths, *parameters, grouping.limit))


def totals(filters: Filters) -> Query:
    """One row as `groups` gives them, of all streams; none if there are none."""
    return groups(Grouping(filters=filters))


def errors(filters: Filters) -> Query:
    """Rows of provider, error type, how many, and when for the last time; of failed streams."""
    where, parameters = _where(filters, "status = 'failed'")
    return Query(
        f"SELECT provider, error_type, count(*), max(started) FROM streams {where} GROUP BY provider, error_type"
        " ORDER BY provider, count(*) DESC, error_type",
        parameters,
    )


def _where(filters: Filters, *more: str) -> tuple[str, tuple[Cell, ...]]:
    """A WHERE clause, if there is a condition, and its parameters; `more` conditions have none."""
    conditions: list[str] = []
    parameters: list[Cell] = []
    for name, value in structs.asdict(filters).items():
        if value is None or value == ():
            continue
        if name in _CONDITIONS:
            condition = _CONDITIONS[name]
            conditions.append(condition)
            parameters += [value] * condition.count("?")
        else:
            conditions.append(f"{name} IN ({', '.join('?' * len(value))})")
            parameters += value
    conditions += more
    return ("WHERE " + " AND ".join(conditions) if conditions else ""), tuple(parameters)
