"""The ASGI application: routes, and what every request goes through before its endpoint."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from msgspec import Struct

from shared.logs import get_logger
from shared.records import Dialect
from worker import cors
from worker.asgi import JSON, ClientGone, HttpError, Receive, Request, Send, WebSocket
from worker.auth import is_loopback_host
from worker.dialects.anthropic import errors as anthropic_errors
from worker.dialects.openai import errors as openai_errors
from worker.endpoints import (
    agent,
    agent_socket,
    anthropic,
    chatkit,
    count_tokens,
    dashboard,
    events,
    health,
    history,
    login,
    metrics,
    models,
    openai,
    openapi,
    sessions,
)
from worker.endpoints.login import logged_in
from worker.endpoints.origin import check_origin
from worker.endpoints.permission import check_dashboard
from worker.gateway import Gateway
from worker.lost import advice
from worker.streaming.refusal import FINAL_STATUSES

Endpoint = Callable[[Gateway, Request], Awaitable[None]]


class Route(Struct, frozen=True):
    """One endpoint for some methods of one path; a path that ends with `/` stands for everything below it."""

    methods: frozenset[str]
    endpoint: Endpoint
    dialect: Dialect | None = None
    """None: the caller's own, as his headers tell."""
    needs_key: bool = True
    websocket: bool = False
    """Also answers to WebSockets."""
    dashboard: bool = False
    """Shows, or ends, what others do: not for clients with `dashboard = false`, and open to whoever is logged in."""


GET = frozenset({"GET", "HEAD"})
GET_ONLY = frozenset({"GET"})
POST = frozenset({"POST"})
DELETE = frozenset({"DELETE"})

ROUTES: dict[str, Route] = {
    "/v1/chat/completions": Route(POST, openai.chat_completions, "openai"),
    "/chat/completions": Route(POST, openai.chat_completions, "openai"),
    "/v1/messages": Route(POST, anthropic.messages, "anthropic"),
    "/messages": Route(POST, anthropic.messages, "anthropic"),
    "/v1/messages/count_tokens": Route(POST, count_tokens.count_tokens, "anthropic"),
    "/messages/count_tokens": Route(POST, count_tokens.count_tokens, "anthropic"),
    "/v1/models": Route(GET, models.list_models),
    "/v1/models/": Route(GET, models.get_model),
    "/models": Route(GET, models.list_models),
    "/models/": Route(GET, models.get_model),
    "/health": Route(GET, health.live, needs_key=False),
    "/health/live": Route(GET, health.live, needs_key=False),
    "/health/ready": Route(GET, health.ready, needs_key=False),
    "/openapi.json": Route(GET, openapi.description_of(lambda: ROUTES), needs_key=False),
    "/metrics": Route(GET, metrics.metrics, dashboard=True),
    "/api/status": Route(GET, sessions.overview, dashboard=True),
    "/api/sessions/active": Route(GET, sessions.active, dashboard=True),
    "/api/sessions/stale": Route(DELETE, sessions.cancel_stale, dashboard=True),
    "/api/sessions/": Route(DELETE, sessions.cancel, dashboard=True),
    "/api/streams": Route(GET, history.list_streams, dashboard=True),
    "/api/streams/": Route(GET, history.get_stream, dashboard=True),
    "/api/stats": Route(GET, history.get_stats, dashboard=True),
    "/api/providers": Route(GET, history.list_providers, dashboard=True),
    "/api/export": Route(GET, history.export, dashboard=True),
    "/api/stream/message": Route(POST, agent.message),
    "/api/chatkit/session": Route(POST, chatkit.session),
    "/api/login": Route(GET | POST, login.login, needs_key=False),
    "/api/logout": Route(POST, login.logout, needs_key=False),
    "/ws": Route(GET_ONLY, events.listen, websocket=True, dashboard=True),
    "/ws/stream": Route(GET_ONLY, agent_socket.converse, websocket=True),
    "/": Route(GET, dashboard.page, needs_key=False),
    "/static/": Route(GET, dashboard.static, needs_key=False),
}
PREFIXES = tuple(path for path in ROUTES if path.endswith("/") and path != "/")

_TRACE = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


class App:
    """Callable as ASGI 3; one for each worker."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or serve one WebSocket."""
        request = (WebSocket if scope["type"] == "websocket" else Request)(scope, receive, send)
        route = find_route(request.path)
        self._prepare(request, route)
        try:
            await self._handle(request, route)
        except ClientGone:
            pass
        except HttpError as error:
            await _refuse(request, error)
        except Exception:
            get_logger().exception("request_crashed", trace=request.trace, path=request.path)
            if request.response_status is None:
                await _refuse(request, HttpError(500, "the gateway failed; its log has the details"))
        if request.response_status is None:  # he has left, and Hypercorn would send a 500 after him
            request.connection.abort()

    def _prepare(self, request: Request, route: Route | None) -> None:
        given = request.header(b"x-request-id")
        request.trace = given if given and _TRACE.fullmatch(given) else f"req_{self._gateway.ids.new()}"
        trace = request.trace.encode("ascii")
        request.common_headers.append((b"x-request-id", trace))
        request.dialect = (route.dialect if route is not None else None) or _dialect_of_caller(request)
        if request.dialect == "anthropic":
            request.common_headers.append((b"request-id", trace))
        request.common_headers += cors.response_headers(self._gateway.config.cors, request.header(b"origin"))
        request.is_draining = self._is_draining

    def _is_draining(self) -> bool:
        return self._gateway.draining

    async def _handle(self, request: Request, route: Route | None) -> None:
        self._check_host(request)
        if isinstance(request, WebSocket):
            self._check_websocket(request, route)
        if request.method == "OPTIONS":
            await self._options(request, route)
            return
        if route is None:
            raise HttpError(404, advice(request.path, ROUTES), code="unknown_path")
        if request.method not in route.methods:
            allowed = ", ".join(sorted(route.methods))
            raise HttpError(
                405,
                f"{request.path} answers to {allowed}, not to {request.method}",
                headers=[(b"allow", allowed.encode())],
            )
        if route.needs_key:
            self._check_key(request, route)
        await route.endpoint(self._gateway, request)

    async def _options(self, request: Request, route: Route | None) -> None:
        origin, requested = request.header(b"origin"), request.header(b"access-control-request-headers")
        headers = cors.preflight_headers(self._gateway.config.cors, origin, requested)
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

    def _check_websocket(self, request: Request, route: Route | None) -> None:
        check_origin(self._gateway, request)
        if route is not None and not route.websocket:
            raise HttpError(404, f"{request.path} is no WebSocket; /ws is one, and /ws/stream")

    def _check_key(self, request: Request, route: Route) -> None:
        authenticator = self._gateway.authenticator
        if not authenticator.required:
            return
        key, where = request.header(b"x-api-key"), "as `Authorization: Bearer KEY` or `x-api-key: KEY`"
        if isinstance(request, WebSocket):  # whose headers are not a page's to choose
            key, where = key or request.query("key"), f"{where}, or as `?key=KEY`"
        request.client = authenticator.identify(request.header(b"authorization"), key)
        if request.client is None and route.dashboard:  # whose `authorization` may be for a proxy before us
            request.client = logged_in(self._gateway, request)
        if request.client is None:
            raise HttpError(
                401,
                f"a valid key of this gateway is needed: send it {where}",
                code="invalid_api_key",
                headers=[(b"www-authenticate", b"Bearer")],
            )
        if route.dashboard:
            check_dashboard(authenticator.client(request.client))


def find_route(path: str) -> Route | None:
    """The route of a path, exact or below one that ends with `/`."""
    if path in ROUTES:
        return ROUTES[path]
    return next((ROUTES[prefix] for prefix in PREFIXES if path.startswith(prefix)), None)


def _dialect_of_caller(request: Request) -> Dialect:
    """Where the route has none: what the caller wants to be answered in."""
    is_anthropic = b"anthropic-version" in request.headers or request.path.startswith(("/v1/messages", "/messages"))
    return "anthropic" if is_anthropic else "openai"


async def _refuse(request: Request, error: HttpError) -> None:
    headers = [JSON, *error.headers]
    if error.status in FINAL_STATUSES:
        headers.append((b"x-should-retry", b"false"))
    if request.dialect == "anthropic":
        body = anthropic_errors.error_body(error.status, error.message, request_id=request.trace)
    else:
        body = openai_errors.error_body(error.status, error.message, code=error.code, param=error.param)
    # The client may be still sending.  Everything it needs is in a body of known length; the end of the response, with
    # which the connection then closes, waits until it had a chance to read that.
    await request.start(error.status, [*headers, (b"content-length", b"%d" % len(body))])
    await request.send(body)
    await request.discard_body()
    await request.send(b"", more=False)
