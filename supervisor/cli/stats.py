"""`kimi-proxy stats`: sums over the history, from the database; the service need not run."""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from shared.errors import QueryError
from shared.history import answers, queries
from shared.history.parameters import MAX_ROWS, Grouping, parse_grouping
from supervisor.cli.history import as_option, parameters
from supervisor.cli.interrupt import interrupt_ends
from supervisor.cli.out import show_json
from supervisor.cli.source import database_path, open_readonly, require_version
from supervisor.cli.text import say, table

_HEADING = (
    "STREAMS", "COMPLETED", "CANCELLED", "FAILED", "PROMPT", "COMPLETION", "COST", "TTFB P50", "TTFB P95", "TOKENS/S",
)  # fmt: skip


def stats(arguments: argparse.Namespace) -> int:
    """Show streams, tokens, cost and times to the first byte by a property or period, or as `GET /api/stats` does."""
    try:
        grouping = parse_grouping(parameters(arguments, "by", "bucket"), time.time())
    except QueryError as error:
        raise as_option(error) from None
    with interrupt_ends(), open_readonly(database_path(os.environ)) as connection:
        require_version(connection)
        connection.execute("BEGIN")  # both as of one moment
        more = structs.replace(grouping, limit=MAX_ROWS + 1)
        wanted = (queries.totals(grouping.filters), queries.groups(more))
        totals, groups = (connection.execute(query.sql, query.parameters).fetchall() for query in wanted)
    sums, told = answers.totals(totals), answers.groups(grouping, groups[:MAX_ROWS])
    if arguments.json:
        filters = grouping.filters
        show_json(
            {
                "since": filters.since,
                "until": filters.until,
                "by": grouping.by,
                "bucket": grouping.bucket,
                "totals": sums,
                "groups": told,
            }
        )
    elif totals:
        print(render(grouping, told, sums))
    else:
        say("no streams")
    if len(groups) > MAX_ROWS:
        say(f"there are more than these {MAX_ROWS}; --since, --until and the other filters choose")
    return 0


def render(grouping: Grouping, groups: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> str:
    """The sums as a table, the totals last.  Cost in US dollars, times to the first byte in seconds."""
    rows = [(_key(group["key"]), *_cells(group)) for group in groups]
    heading = (str(grouping.by).replace("_", " ").upper(), *_HEADING)
    return table(heading, [*rows, ("all", *_cells(totals))], right=range(1, len(heading)))


def _key(key: object) -> str:
    """Of `by=time` it is the epoch second that a bucket begins with; streams without the property have none."""
    if isinstance(key, int):
        return datetime.fromtimestamp(key, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    return "-" if key is None else str(key)


def _cells(sums: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        *(sums[name] for name in ("streams", "completed", "cancelled", "failed", "prompt_tokens", "completion_tokens")),
        *(
            "-" if sums[name] is None else f"{sums[name]:{form}}"
            for name, form in (
                ("cost", ".4f"),
                ("first_byte_p50", ".3f"),
                ("first_byte_p95", ".3f"),
                ("tokens_per_second", ".1f"),
            )
        ),
    )
