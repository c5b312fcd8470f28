"""What the endpoints that ask a model have in common: a request in its dialect becomes a stream."""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.errors import DialectError
from shared.records import StreamStart
from worker.asgi import HttpError, Request
from worker.dialects.exchange import Exchange
from worker.gateway import Gateway
from worker.models import known_names, resolve
from worker.streaming.pump import run_stream

MAX_SESSION_CHARS = 256
AnyExchange = TypeVar("AnyExchange", bound=Exchange)


def no_group(_exchange: Exchange) -> None:
    """For dialects whose clients tell no session of their own."""
    return None


async def answer(
    gateway: Gateway,
    request: Request,
    make: Callable[[bytes, str, int], AnyExchange],
    group: Callable[[AnyExchange], str | None] = no_group,
) -> None:
    """Find the provider, pump its answer to the client.

    `make` gets the body, the stream's id and the time in epoch seconds; its `DialectError` is the client's to read.
    `group` tells the session that an exchange belongs to, if the client has not named one by our own names.
    """
    config = gateway.config
    if gateway.link.up.congested:
        raise HttpError(
            503, "the gateway can't account for more streams at the moment", headers=[(b"retry-after", b"1")]
        )
    body = await request.read_body(config.server.max_body_bytes, config.server.body_timeout)
    id, now = gateway.ids.new(), time.time()
    try:
        exchange = make(body, id, int(now))
    except DialectError as error:
        raise HttpError(400, str(error)) from None
    targets = resolve(config, exchange.model)
    if not targets:
        # Anthropic's own sentence begins like this, and clients know it by that.
        subject = f"model: {exchange.model}" if exchange.dialect == "anthropic" else f"the model {exchange.model!r}"
        raise HttpError(
            404,
            f"{subject} does not exist here; there are: {known_names(config)}",
            code="model_not_found",
            param="model",
        )
    session = request.header(b"x-session-id") or exchange.session
    grouped = None if session else group(exchange)
    session = session or grouped
    start = StreamStart(
        id=id,
        trace=request.trace,
        session=session[:MAX_SESSION_CHARS] if session else None,
        groups_only=grouped is not None,
        worker=gateway.worker,
        provider=targets[0].provider,
        model=exchange.model,
        dialect=exchange.dialect,
        streaming=exchange.stream,
        started=now,
    )
    await run_stream(gateway, request, exchange, start, targets)
