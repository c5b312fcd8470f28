"""Rows of the history as they are told in JSON."""

from collections.abc import Sequence
from typing import Any

from shared.history.columns import COLUMNS, FLAGS
from shared.history.parameters import Grouping
from shared.history.queries import PERIODS, SUMS, Row

_NOTHING = dict.fromkeys(SUMS, 0) | dict.fromkeys(
    ("cost", "first_byte_p50", "first_byte_p95", "tokens_per_second", "last")
)


def stream(row: Row) -> dict[str, Any]:
    """A row of `queries.page` or `queries.one`."""
    # The row has one value more, its rowid, which is nobody's business.
    told: dict[str, Any] = dict(zip(COLUMNS, row, strict=False))
    for name in FLAGS:
        told[name] = bool(told[name])
    return told


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """The answer to `queries.totals`; zeros where there are no streams."""
    return _sums(rows[0]) if rows else dict(_NOTHING)


def groups(grouping: Grouping, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The answer to `queries.groups`: periods in their order, all else with what costs most first."""
    told = [{"key": row[0], **_sums(row)} for row in rows]
    return told[::-1] if grouping.by in PERIODS else told


def providers(groups: Sequence[Row], errors: Sequence[Row], configured: Sequence[str]) -> list[dict[str, Any]]:
    """The answers to `queries.groups` by provider and `queries.errors`; all that are `configured` are there."""
    sums = {str(row[0]): _sums(row) for row in groups}
    failures: dict[str, dict[str, Any]] = {}
    for provider, error_type, count, _ in errors:
        failures.setdefault(str(provider), {})[str(error_type)] = count
    names = dict.fromkeys([*sums, *configured])
    return [{"provider": name, **(sums.get(name) or _NOTHING), "errors": failures.get(name, {})} for name in names]


def _sums(row: Row) -> dict[str, Any]:
    return dict(zip(SUMS, row[1:], strict=True))
