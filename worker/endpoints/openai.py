"""`POST /v1/chat/completions`: the OpenAI dialect, streaming or not."""

import time

from shared.errors import DialectError
from shared.records import StreamStart
from worker.asgi import HttpError, Request
from worker.dialects.openai.exchange import OpenAIExchange
from worker.gateway import Gateway
from worker.models import public_models, resolve
from worker.streaming.pump import run_stream

MAX_SESSION_CHARS = 256


async def chat_completions(gateway: Gateway, request: Request) -> None:
    """Find the provider, pump its answer to the client."""
    config = gateway.config
    if gateway.link.up.congested:
        raise HttpError(
            503, "the gateway can't account for more streams at the moment", headers=[(b"retry-after", b"1")]
        )
    body = await request.read_body(config.server.max_body_bytes, config.server.body_timeout)
    try:
        exchange = OpenAIExchange(body, config.streaming)
    except DialectError as error:
        raise HttpError(400, str(error)) from None
    targets = resolve(config, exchange.model)
    if not targets:
        known = ", ".join(list(public_models(config))[:20]) or "provider/model of " + ", ".join(config.providers)
        raise HttpError(
            404,
            f"the model {exchange.model!r} does not exist here; there are: {known}",
            code="model_not_found",
            param="model",
        )
    spoken = [target for target in targets if config.providers[target.provider].dialect == exchange.dialect]
    if not spoken:
        raise HttpError(
            400,
            f"the model {exchange.model!r} is at {targets[0].provider}, whose dialect is anthropic: this version does "
            "not translate; choose a model of a provider whose dialect is openai",
            code="unsupported_dialect",
            param="model",
        )
    session = request.header(b"x-session-id") or exchange.session
    start = StreamStart(
        id=gateway.ids.new(),
        trace=request.trace,
        session=session[:MAX_SESSION_CHARS] if session else None,
        worker=gateway.worker,
        provider=spoken[0].provider,
        model=exchange.model,
        dialect="openai",
        streaming=exchange.stream,
        started=time.time(),
    )
    await run_stream(gateway, request, exchange, start, spoken)
