"""From the parameters of a query string to a question about the history.

Parameters arrive as `urllib.parse.parse_qs` gives them: name → values.  What can't be understood is a `QueryError` that
names its parameter.  `now` is in epoch seconds.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, get_args

from msgspec import Struct, structs

from shared.errors import QueryError
from shared.records import Dialect, Status

Parameters = Mapping[str, Sequence[str]]
Format = Literal["csv", "json"]
Property = Literal["provider", "model", "upstream_model", "session", "client", "dialect", "status", "error_type"]
Period = Literal["hour", "day", "month", "time"]
By = Property | Period
Value = TypeVar("Value")

DEFAULT_ROWS = 100
MAX_ROWS = 1000
MAX_VALUES = 50
"""Of one filter."""
MAX_CHARS = 300
"""Of one value; no record holds longer ones."""
BUCKETS = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 21_600, 86_400, 604_800)
"""Widths in seconds that `by=time` chooses from: the first that makes at most `WANTED_BUCKETS`."""
WANTED_BUCKETS = 120

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_SECONDS = re.compile(r"\d{1,11}(?:\.\d{1,9})?", re.ASCII)
_CURSOR = re.compile(r"(\d{1,11}\.\d{1,20})_(\d{1,18})", re.ASCII)


class Filters(Struct, frozen=True, kw_only=True):
    """Which streams are meant: all conditions hold, and of several values of one any does."""

    since: float | None = None
    until: float | None = None
    """Not included."""
    provider: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    upstream_model: tuple[str, ...] = ()
    session: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    dialect: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    error_type: tuple[str, ...] = ()
    min_duration: float | None = None
    text: str | None = None
    """A part of the id, the trace or the session, in whichever case."""


class Cursor(Struct, frozen=True):
    """The last row of a page; the next page begins behind it."""

    started: float
    rowid: int

    def __str__(self) -> str:
        return f"{self.started!r}_{self.rowid}"


class Listing(Struct, frozen=True, kw_only=True):
    """A page of streams, the newest first."""

    filters: Filters = Filters()
    limit: int = DEFAULT_ROWS
    cursor: Cursor | None = None


class Grouping(Struct, frozen=True, kw_only=True):
    """Sums, over all streams and by one property or period."""

    filters: Filters = Filters()
    by: By | None = None
    bucket: int | None = None
    """Seconds; with `time`, and only there."""
    limit: int = MAX_ROWS


class Export(Struct, frozen=True, kw_only=True):
    """All streams, as a file."""

    filters: Filters = Filters()
    format: Format = "csv"


_KINDS: dict[str, tuple[str, ...]] = {name: () for name in get_args(Property)}
_KINDS |= {"dialect": get_args(Dialect), "status": get_args(Status)}
_BYS: tuple[By, ...] = (*get_args(Property), *get_args(Period))

FILTERS = ("since", "until", *_KINDS, "min_duration", "text")
"""The parameters that all questions share…"""
LISTING = (*FILTERS, "limit", "cursor")
GROUPING = (*FILTERS, "by", "bucket", "limit")
EXPORT = (*FILTERS, "format")
"""…and what each takes beside them."""


def parse_filters(parameters: Parameters, now: float, known: Sequence[str] = FILTERS) -> Filters:
    """The filters, and that all parameters are `known`."""
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise QueryError(f"`{name}`: there is no such parameter; " + _instead(near, known))
    filters = Filters(
        since=_one(parameters, "since", lambda value: _moment(value, now), None),
        until=_one(parameters, "until", lambda value: _moment(value, now), None),
        min_duration=_one(parameters, "min_duration", _seconds, None),
        text=_one(parameters, "text", str, None),
        **{name: _many(parameters, name, kinds) for name, kinds in _KINDS.items()},
    )
    if filters.since is not None and filters.until is not None and filters.since >= filters.until:
        raise QueryError("`since` must be before `until`")
    return filters


def parse_listing(parameters: Parameters, now: float) -> Listing:
    """What a page of streams is asked for by."""
    return Listing(
        filters=parse_filters(parameters, now, LISTING),
        limit=_one(parameters, "limit", _limit, DEFAULT_ROWS),
        cursor=_one(parameters, "cursor", _cursor, None),
    )


def parse_grouping(parameters: Parameters, now: float) -> Grouping:
    """What sums are asked for by.  `by=time` begins a day ago unless told otherwise, and has a width."""
    filters = parse_filters(parameters, now, GROUPING)
    by: By | None = _one(parameters, "by", lambda value: _choice(value, _BYS), None)
    bucket = _one(parameters, "bucket", _bucket, None)
    if by == "time":
        filters = filters_since(filters, now - 86_400)
        bucket = _fitting_bucket((filters.until or now) - (filters.since or 0.0), bucket)
    elif bucket is not None:
        raise QueryError("`bucket` goes with `by=time` only")
    return Grouping(filters=filters, by=by, bucket=bucket, limit=_one(parameters, "limit", _limit, MAX_ROWS))


def parse_export(parameters: Parameters, now: float) -> Export:
    """What a file is asked for by."""
    formats: tuple[Format, ...] = get_args(Format)
    return Export(
        filters=parse_filters(parameters, now, EXPORT),
        format=_one(parameters, "format", lambda value: _choice(value, formats), "csv"),
    )


def filters_since(filters: Filters, since: float) -> Filters:
    """`filters` with this begin, unless they have one."""
    return structs.replace(filters, since=since) if filters.since is None else filters


def _one(parameters: Parameters, name: str, read: Callable[[str], Value], default: Value) -> Value:
    values = parameters.get(name, ())
    if not values:
        return default
    if len(values) > 1:
        raise QueryError(f"`{name}`: one value is enough")
    return _checked(name, values[0], read)


def _many(parameters: Parameters, name: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    values = parameters.get(name, ())
    if len(values) > MAX_VALUES:
        raise QueryError(f"`{name}`: at most {MAX_VALUES} values")
    return tuple(_checked(name, value, lambda value: _choice(value, kinds) if kinds else value) for value in values)


def _checked(name: str, value: str, read: Callable[[str], Value]) -> Value:
    if len(value) > MAX_CHARS:
        raise QueryError(f"`{name}`: at most {MAX_CHARS} characters")
    try:
        return read(value)
    except ValueError as error:
        raise QueryError(f"`{name}`: {error}, not {value!r}") from None


# Readers of one value; their `ValueError` says what is needed instead.


def _moment(value: str, now: float) -> float:
    if span := _SPAN.fullmatch(value):
        return now - float(span[1]) * _UNITS[span[2]]
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(
            "needed are epoch seconds, a date or time (2026-11-21, 2026-11-21T08:30:00Z) or how long ago (30m, 24h, 7d)"
        ) from None


def _seconds(value: str) -> float:
    if not _SECONDS.fullmatch(value):
        raise ValueError("a number of seconds is needed")
    return float(value)


def _limit(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 4 and 1 <= int(value) <= MAX_ROWS):
        raise ValueError(f"a number from 1 to {MAX_ROWS} is needed")
    return int(value)


def _bucket(value: str) -> int:
    span = _SPAN.fullmatch(value)
    width = int(int(span[1]) * _UNITS[span[2]]) if span else int(value) if value.isdecimal() else 0
    if not 1 <= width <= 366 * 86_400:
        raise ValueError("a width is needed, as in 30s, 5m, 1h")
    return width


def _fitting_bucket(span: float, bucket: int | None) -> int:
    if bucket is None:
        return next((width for width in BUCKETS if span <= width * WANTED_BUCKETS), int(span // WANTED_BUCKETS) + 1)
    if span > bucket * MAX_ROWS:
        raise QueryError(f"`bucket`: {bucket} s would make more than {MAX_ROWS} of them in the time from `since` on")
    return bucket


def _cursor(value: str) -> Cursor:
    found = _CURSOR.fullmatch(value)
    if not found:
        raise ValueError("needed is `next` as the page before told it")
    return Cursor(float(found[1]), int(found[2]))


def _choice(value: str, choices: Sequence[Any]) -> Any:
    if value not in choices:
        raise ValueError("needed is " + " or ".join(choices))
    return value


def _instead(near: Sequence[str], known: Sequence[str]) -> str:
    return f"did you mean `{near[0]}`?" if near else "there are " + ", ".join(known)
