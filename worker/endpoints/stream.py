"""What the endpoints that ask a model have in common: a request in its dialect becomes a stream."""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.errors import DialectError
from shared.records import StreamStart
from worker.admission import session_name
from worker.asgi import HttpError, Request
from worker.dialects.exchange import Exchange
from worker.dialects.tokens import CHARS_PER_TOKEN
from worker.gateway import Gateway
from worker.health import CircuitOpen
from worker.models import known_names, resolve
from worker.streaming.pump import run_stream

MAX_MODEL_CHARS = 512
"""The name goes into records, events and lists, where a client could put megabytes otherwise."""
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
    if len(exchange.model) > MAX_MODEL_CHARS:
        raise HttpError(400, f"model: a name has at most {MAX_MODEL_CHARS} characters", param="model")
    known = resolve(config, exchange.model)
    if not known:
        # Anthropic's own sentence begins like this, and clients know it by that.
        subject = f"model: {exchange.model}" if exchange.dialect == "anthropic" else f"the model {exchange.model!r}"
        raise HttpError(
            404,
            f"{subject} does not exist here; there are: {known_names(config)}",
            code="model_not_found",
            param="model",
        )
    forbidden: CircuitOpen | None = None
    if not (targets := gateway.health.order(known)):
        forbidden = CircuitOpen(known, gateway.health.retry_after(known, config.health.open_time))
        targets = known
    session = request.header(b"x-session-id") or exchange.session
    grouped = None if session else group(exchange)
    session = session or grouped
    price = targets[0].price
    start = StreamStart(
        id=id,
        trace=request.trace,
        session=session_name(session) if session else None,
        groups_only=grouped is not None,
        worker=gateway.worker,
        provider=targets[0].provider,
        model=exchange.model,
        dialect=exchange.dialect,
        streaming=exchange.stream,
        started=now,
        client=request.client,
        context_size=targets[0].context_size,
        prompt_estimate=exchange.body_bytes // CHARS_PER_TOKEN,
        output_price=price.output if price is not None else None,
    )
    await run_stream(gateway, request, exchange, start, targets, forbidden)
