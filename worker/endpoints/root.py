"""`HEAD /`: whether anybody is here.  Claude Code asks it when it starts."""

from worker.asgi import HttpError, Request
from worker.gateway import Gateway


async def probe(gateway: Gateway, request: Request) -> None:
    """Yes; but there is no page to see."""
    if request.method == "GET":
        raise HttpError(404, "there is no page at /; try /health, or ask /v1/models what there is")
    await request.respond(200, b"", [])
