"""`GET /metrics`: the whole service's, whichever worker is asked."""

from shared.messages import Metrics
from worker.asgi import Request
from worker.endpoints.sessions import ask
from worker.gateway import Gateway

PROMETHEUS = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


async def metrics(gateway: Gateway, request: Request) -> None:
    """All metrics, in Prometheus' text format."""
    await request.respond(200, await ask(gateway, Metrics()), [PROMETHEUS])
