"""`/api/sessions/…` and `/api/status`: the live streams of all workers, and the service at a glance."""

import math
from urllib.parse import parse_qs

import msgspec

from shared.messages import ActiveSessions, CancelSession, CancelStale, Overview, Question
from worker.admission import session_name
from worker.asgi import HttpError, Request
from worker.dialects.fault import quoted
from worker.gateway import Gateway

PREFIX = "/api/sessions/"


async def active(gateway: Gateway, request: Request) -> None:
    """`{"sessions": […], "token_accuracy": 0.99, …}`."""
    await request.respond(200, await ask(gateway, ActiveSessions()))


async def cancel(gateway: Gateway, request: Request) -> None:
    """Cancel one stream by its id, or all streams of a session; 404 if there is none."""
    await request.respond(200, await ask(gateway, CancelSession(session_name(request.path.removeprefix(PREFIX)))))


async def cancel_stale(gateway: Gateway, request: Request) -> None:
    """Cancel the streams for which nothing has come in `?idle=` seconds."""
    given = parse_qs(request.scope["query_string"].decode("latin-1")).get("idle")
    question = CancelStale() if given is None else CancelStale(seconds(given[-1]))
    await request.respond(200, await ask(gateway, question))


async def overview(gateway: Gateway, request: Request) -> None:
    """Workers, providers, configuration, totals."""
    await request.respond(200, await ask(gateway, Overview()))


async def ask(gateway: Gateway, question: Question) -> bytes:
    """The body of the supervisor's answer; `HttpError` if it refuses, or does not answer."""
    told = await gateway.questions.ask(question)
    if told.status >= 400:
        raise HttpError(told.status, msgspec.json.decode(told.body)["message"])
    return told.body


def seconds(text: str) -> float:
    """A duration in a query; `HttpError` 400 for what is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise HttpError(400, f"`idle`: a number of seconds is needed, not {quoted(text)}")
    return value
