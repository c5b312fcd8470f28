"""What was: `/api/streams`, `/api/streams/{id}`, `/api/stats`, `/api/providers`, `/api/export`, from the database."""

import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qs

import trio
from msgspec import structs

from shared.errors import QueryError, StorageError
from shared.history import answers, queries
from shared.history.export import CONTENT_TYPES, writer
from shared.history.parameters import (
    Grouping,
    Listing,
    Parameters,
    filters_since,
    parse_export,
    parse_filters,
    parse_grouping,
    parse_listing,
)
from shared.history.queries import Query, Row
from shared.logs import get_logger
from worker.asgi import ClientGone, HttpError, Request
from worker.dialects.fault import quoted
from worker.gateway import Gateway

DAY = 86_400.0
PIECE_ROWS = 100
"""Of a file.  Writing a line takes some 20 µs, and the streams of the worker wait for the piece."""
MAX_FIELDS = 200
Question = TypeVar("Question")


async def list_streams(gateway: Gateway, request: Request) -> None:
    """`{"streams": […], "next": …}`: a page, the newest first; `next` is the `cursor` of the following one, or null."""
    listing = _asked(request, parse_listing)
    [rows] = await _read(gateway, request, queries.page(listing))
    page, cursor = queries.page_of(rows, listing.limit)
    told = [answers.stream(row) for row in page]
    await request.respond_json({"streams": told, "next": None if cursor is None else str(cursor)})


async def get_stream(gateway: Gateway, request: Request) -> None:
    """The record of one stream that has ended."""
    id = request.path.removeprefix("/api/streams/")
    [rows] = await _read(gateway, request, queries.one(id))
    if not rows:
        reason = "perhaps it has not ended yet, or is too old"
        raise HttpError(404, f"there is no record of a stream {quoted(id)}: {reason}")
    await request.respond_json(answers.stream(rows[0]))


async def get_stats(gateway: Gateway, request: Request) -> None:
    """`{"since", "until", "by", "bucket", "totals": {…}, "groups": [{"key": …, …}, …]}`."""
    grouping = _asked(request, parse_grouping)
    wanted = [queries.totals(grouping.filters), *([queries.groups(grouping)] if grouping.by else [])]
    totals, *groups = await _read(gateway, request, *wanted)
    await request.respond_json(
        {
            "since": grouping.filters.since,
            "until": grouping.filters.until,
            "by": grouping.by,
            "bucket": grouping.bucket,
            "totals": answers.totals(totals),
            "groups": [told for rows in groups for told in answers.groups(grouping, rows)],
        }
    )


async def list_providers(gateway: Gateway, request: Request) -> None:
    """`{"since", "until", "providers": […]}`: the last 24 hours of each provider, unless another time is asked for."""
    filters = filters_since(_asked(request, parse_filters), time.time() - DAY)
    grouping = Grouping(filters=filters, by="provider")
    groups, errors = await _read(gateway, request, queries.groups(grouping), queries.errors(filters))
    told = [
        {**provider, "health": gateway.health.state(provider["provider"])}
        for provider in answers.providers(groups, errors, list(gateway.config.providers))
    ]
    await request.respond_json({"since": filters.since, "until": filters.until, "providers": told})


async def export(gateway: Gateway, request: Request) -> None:
    """All streams as a file, in pieces.  A piece is a query of its own, so that a slow client holds up no writer."""
    asked = _asked(request, parse_export)
    until = time.time() if asked.filters.until is None else asked.filters.until
    listing = Listing(filters=structs.replace(asked.filters, until=until), limit=PIECE_ROWS)
    [rows] = await _read(gateway, request, queries.page(listing))
    name = time.strftime(f"kimi-proxy-%Y%m%dT%H%M%SZ.{asked.format}", time.gmtime())
    headers = [
        (b"content-type", CONTENT_TYPES[asked.format].encode()),
        (b"content-disposition", f'attachment; filename="{name}"'.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await request.start(200, headers)
    if request.method == "HEAD":
        await request.send(b"", more=False)
        return
    file = writer(asked.format)
    out = file.head()
    while True:
        page, cursor = queries.page_of(rows, listing.limit)
        await request.send(out + file.lines(page))
        if cursor is None:
            break
        out = b""
        listing = structs.replace(listing, cursor=cursor)
        try:
            [rows] = await _read(gateway, request, queries.page(listing))
        except HttpError as error:
            # The status has been told.  A file without its end must not look like a whole one.
            get_logger().warning("export_broken", trace=request.trace, problem=error.message)
            request.connection.abort()
            raise ClientGone from None
    await request.send(file.tail(), more=False)


def _asked(request: Request, parse: Callable[[Parameters, float], Question]) -> Question:
    """The question in a request's query; `HttpError` 400 if there is none."""
    query = request.scope["query_string"].decode("latin-1")
    try:
        return parse(parse_qs(query, max_num_fields=MAX_FIELDS), time.time())
    except QueryError as error:
        raise HttpError(400, str(error)) from None
    except ValueError:
        raise HttpError(400, f"at most {MAX_FIELDS} parameters") from None


async def _read(gateway: Gateway, request: Request, *wanted: Query) -> list[list[Row]]:
    """The answers; `ClientGone` as soon as nobody waits for them any more, `HttpError` 503 if they can't be had."""
    with trio.CancelScope() as scope:
        request.connection.watch(scope.cancel)
        try:
            return await gateway.history.read(*wanted)
        except StorageError as error:
            later = [(b"retry-after", b"5")] if error.passing else []
            raise HttpError(503, f"the history can't be read: {error}", headers=later) from None
        finally:
            request.connection.watch(None)
    raise ClientGone
