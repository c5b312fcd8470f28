"""What the endpoints that ask a model have in common: a request in its dialect becomes a stream."""

import time
from collections.abc import Callable
from typing import TypeVar

from shared.errors import DialectError
from worker.addressing import address, check_capacity
from worker.agent.client_tools import make_client_run
from worker.asgi import HttpError, Request
from worker.dialects.exchange import Exchange
from worker.endpoints.origin import check_origin
from worker.gateway import Gateway
from worker.streaming.pump import run_stream

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
    check_capacity(gateway)
    body = await request.read_body(config.server.max_body_bytes, config.server.body_timeout)
    id, now = gateway.ids.new(), time.time()
    try:
        exchange = make(body, id, int(now))
    except DialectError as error:
        raise HttpError(400, str(error)) from None
    session = request.header(b"x-session-id") or exchange.session
    grouped = None if session else group(exchange)
    addressed = address(
        gateway,
        request,
        id=id,
        now=now,
        model=exchange.model,
        dialect=exchange.dialect,
        streaming=exchange.stream,
        session=session or grouped,
        groups_only=grouped is not None,
        body_bytes=exchange.body_bytes,
    )
    if exchange.dialect == "anthropic" and (run := await make_client_run(gateway, request, addressed, exchange)):
        check_origin(gateway, request)
        await run.run()
        return
    await run_stream(gateway, request, exchange, addressed.start, addressed.targets, addressed.forbidden)
