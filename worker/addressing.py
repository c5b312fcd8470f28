"""From a request to the providers that it goes to, and what is known of its stream by then."""

from collections.abc import Sequence

from msgspec import Struct

from shared.config import Client
from shared.records import Dialect, StreamStart
from worker.admission import session_name
from worker.asgi import HttpError, Request
from worker.auth import may_ask
from worker.dialects.tokens import CHARS_PER_TOKEN
from worker.gateway import Gateway
from worker.health import CircuitOpen
from worker.models import Target, known_names, resolve

MAX_MODEL_CHARS = 512
"""The name goes into records, events and lists, where a client could put megabytes otherwise."""


class Addressed(Struct, frozen=True):
    """A request that has found its providers."""

    start: StreamStart
    targets: Sequence[Target]
    forbidden: CircuitOpen | None = None
    """None of `targets` may be asked now, and the client is to be told so."""


def check_capacity(gateway: Gateway) -> None:
    """`HttpError` 503 while no more streams can be accounted for; asked before a body is read."""
    if gateway.link.up.congested:
        raise HttpError(
            503, "the gateway can't account for more streams at the moment", headers=[(b"retry-after", b"1")]
        )


def check_model(gateway: Gateway, request: Request, model: str, dialect: Dialect) -> Client | None:
    """The client that asks, if it has a name; `HttpError` 403 if it may not ask for `model`.

    401 if its key was revoked while its request was still coming.
    """
    if request.client is None:
        return None
    authenticator = gateway.authenticator
    if authenticator.is_revoked(request.client):
        raise HttpError(401, "the key was revoked a moment ago", code="invalid_api_key")
    client = authenticator.client(request.client)
    if client is not None and not may_ask(client, model):
        name = model[:MAX_MODEL_CHARS]
        subject = f"model: {name}" if dialect == "anthropic" else f"the model {name!r}"
        raise HttpError(
            403,
            f"{subject} is not for the client {client.name}; it may ask for: {', '.join(client.models)}",
            code="model_not_allowed",
            param="model",
        )
    return client


def address(
    gateway: Gateway,
    request: Request,
    *,
    id: str,
    now: float,
    model: str,
    dialect: Dialect,
    streaming: bool,
    session: str | None,
    groups_only: bool = False,
    body_bytes: int,
) -> Addressed:
    """Whom a request for `model` goes to; `HttpError` if nobody has it, or it is not for this client.

    `id` is the stream's, `now` in epoch seconds.  `session` as the client calls it; with `groups_only` its
    streams run side by side.
    """
    config = gateway.config
    if len(model) > MAX_MODEL_CHARS:
        raise HttpError(400, f"`model`: a name has at most {MAX_MODEL_CHARS} characters", param="model")
    client = check_model(gateway, request, model, dialect)
    known = resolve(config, model)
    if not known:
        # Anthropic's own sentence begins like this, and clients know it by that.
        subject = f"model: {model}" if dialect == "anthropic" else f"the model {model!r}"
        raise HttpError(
            404,
            f"{subject} does not exist here; there are: {known_names(config, client)}",
            code="model_not_found",
            param="model",
        )
    forbidden: CircuitOpen | None = None
    if not (targets := gateway.health.order(known)):
        forbidden = CircuitOpen(known, gateway.health.retry_after(known, config.health.open_time))
        targets = known
    price = targets[0].price
    start = StreamStart(
        id=id,
        trace=request.trace,
        session=session_name(session) if session else None,
        groups_only=groups_only,
        worker=gateway.worker,
        provider=targets[0].provider,
        model=model,
        dialect=dialect,
        streaming=streaming,
        started=now,
        client=request.client,
        context_size=targets[0].context_size,
        prompt_estimate=body_bytes // CHARS_PER_TOKEN,
        output_price=price.output if price is not None else None,
    )
    return Addressed(start, targets, forbidden)
