"""`GET /openapi.json`: the routes, for programs.  It names no model and no provider, so it needs no key."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from worker.asgi import JSON, Request
from worker.gateway import Gateway
from worker.openapi.document import describe_routes

if TYPE_CHECKING:
    from worker.app import Route


def description_of(routes: Callable[[], Mapping[str, "Route"]]) -> Callable[[Gateway, Request], Awaitable[None]]:
    """The endpoint that describes `routes`, itself one of them: so they are asked for when somebody asks for it."""

    @cache
    def document() -> bytes:
        return msgspec.json.encode(describe_routes(routes()))

    async def describe(gateway: Gateway, request: Request) -> None:
        """This document."""
        await request.respond(200, document(), [JSON, (b"cache-control", b"no-cache")])

    return describe
