"""The ASGI application: routes, and what every request goes through before its endpoint."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from msgspec import Struct

from shared.logs import get_logger
from worker import cors
from worker.asgi import JSON, ClientGone, HttpError, Receive, Request, Send
from worker.auth import is_loopback_host
from worker.dialects.openai.errors import error_body
from worker.endpoints import health, models, openai
from worker.gateway import Gateway
from worker.streaming.refusal import FINAL_STATUSES

Endpoint = Callable[[Gateway, Request], Awaitable[None]]


class Route(Struct, frozen=True):
    """One endpoint for some methods of one path; a path that ends with `/` stands for everything below it."""

    methods: frozenset[str]
    endpoint: Endpoint
    needs_key: bool = True


GET = frozenset({"GET", "HEAD"})
POST = frozenset({"POST"})

ROUTES: dict[str, Route] = {
    "/v1/chat/completions": Route(POST, openai.chat_completions),
    "/chat/completions": Route(POST, openai.chat_completions),
    "/v1/models": Route(GET, models.list_models),
    "/v1/models/": Route(GET, models.get_model),
    "/models": Route(GET, models.list_models),
    "/models/": Route(GET, models.get_model),
    "/health": Route(GET, health.live, needs_key=False),
    "/health/live": Route(GET, health.live, needs_key=False),
    "/health/ready": Route(GET, health.ready, needs_key=False),
}

_TRACE = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


class App:
    """Callable as ASGI 3; one for each worker."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request.  WebSockets are refused: no route speaks it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        request = Request(scope, receive, send)
        self._prepare(request)
        try:
            await self._handle(request)
        except ClientGone:
            pass
        except HttpError as error:
            await _refuse(request, error)
        except Exception:
            get_logger().exception("request_crashed", trace=request.trace, path=request.path)
            if request.response_status is None:
                await _refuse(request, HttpError(500, "the gateway failed; its log has the details"))

    def _prepare(self, request: Request) -> None:
        given = request.header(b"x-request-id")
        request.trace = given if given and _TRACE.fullmatch(given) else f"req_{self._gateway.ids.new()}"
        request.common_headers.append((b"x-request-id", request.trace.encode("ascii")))
        request.common_headers += cors.response_headers(self._gateway.config.cors, request.header(b"origin"))
        request.is_draining = self._is_draining

    def _is_draining(self) -> bool:
        return self._gateway.draining

    async def _handle(self, request: Request) -> None:
        self._check_host(request)
        if request.method == "OPTIONS":
            await self._options(request)
            return
        route = find_route(request.path)
        if route is None:
            raise HttpError(404, f"there is no {request.path} here; try /v1/chat/completions or /v1/models")
        if request.method not in route.methods:
            allowed = ", ".join(sorted(route.methods))
            raise HttpError(
                405,
                f"{request.path} answers to {allowed}, not to {request.method}",
                headers=[(b"allow", allowed.encode())],
            )
        if route.needs_key:
            self._check_key(request)
        await route.endpoint(self._gateway, request)

    async def _options(self, request: Request) -> None:
        origin, requested = request.header(b"origin"), request.header(b"access-control-request-headers")
        headers = cors.preflight_headers(self._gateway.config.cors, origin, requested)
        route = find_route(request.path)
        allowed = ", ".join(sorted({*route.methods, "OPTIONS"})) if route else "GET, HEAD, POST, OPTIONS"
        await request.start(204, [*headers, (b"allow", allowed.encode())])
        await request.send(b"", more=False)

    def _check_host(self, request: Request) -> None:
        """An open gateway on loopback must not be reached by a page whose name was rebound to 127.0.0.1."""
        if self._gateway.authenticator.required or not request.arrived_by_tcp:
            return
        host = request.header(b"host")
        if not is_loopback_host(host):
            raise HttpError(
                403,
                f"the Host {host!r} is not this machine's loopback: ask for localhost, or set [auth] keys",
                code="bad_host",
            )

    def _check_key(self, request: Request) -> None:
        if not self._gateway.authenticator.accepts(request.header(b"authorization"), request.header(b"x-api-key")):
            raise HttpError(
                401,
                "a valid key of this gateway is needed: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`",
                code="invalid_api_key",
                headers=[(b"www-authenticate", b"Bearer")],
            )


def find_route(path: str) -> Route | None:
    """The route of a path, exact or below one that ends with `/`."""
    if path in ROUTES:
        return ROUTES[path]
    return next((route for prefix, route in ROUTES.items() if prefix.endswith("/") and path.startswith(prefix)), None)


async def _refuse(request: Request, error: HttpError) -> None:
    headers = [JSON, *error.headers]
    if error.status in FINAL_STATUSES:
        headers.append((b"x-should-retry", b"false"))
    body = error_body(error.status, error.message, code=error.code, param=error.param)
    # The client may be still sending.  Everything it needs is in a body of known length; the end of the response, with
    # which the connection then closes, waits until it had a chance to read that.
    await request.start(error.status, [*headers, (b"content-length", b"%d" % len(body))])
    await request.send(body)
    await request.discard_body()
    await request.send(b"", more=False)
