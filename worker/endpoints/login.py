"""`/api/login` and `/api/logout`: the dashboard's way in, with a key that the page then forgets.

    GET  /api/login              {"required": …, "logged_in": …, "client": …, "fingerprint": …}
    POST /api/login {"key": …}   the same, and a cookie (`worker.login`)
    POST /api/logout             the cookie is gone

The cookie counts for what the dashboard asks for, and nowhere else.  A browser sends it whoever has it ask; so what
does something, and a WebSocket, must come from a page of ours: `SameSite=Strict` alone leaves out pages of the same
host at other ports.
"""

import time

import msgspec
from msgspec import Struct

from shared.logs import get_logger
from shared.messages import LogIn
from worker import cors
from worker.asgi import JSON, Header, HttpError, Request, WebSocket
from worker.dialects.lenient import BAD_JSON
from worker.endpoints.permission import check_dashboard
from worker.gateway import Gateway
from worker.login import MAX_AGE

MAX_REQUEST_BYTES = 16 * 1024
SAFE = ("GET", "HEAD")
NO_STORE: Header = (b"cache-control", b"no-store")


class _Given(Struct):
    key: str


def logged_in(gateway: Gateway, request: Request) -> str | None:
    """The fingerprint of whoever has logged in to the dashboard that asks, else None."""
    headers = [value.decode("latin-1") for name, value in request.scope["headers"] if name == b"cookie"]
    if not headers or not _is_ours(request):
        return None
    return gateway.logins.identify(headers, gateway.authenticator, time.time())


async def login(gateway: Gateway, request: Request) -> None:
    """Log in to the dashboard with a key, or be told who is logged in.

    `HttpError` 401 for a key that is not known, 403 for one that is not for the dashboard, 429 for too many guesses.
    """
    if request.method in SAFE:
        await _tell(gateway, request, logged_in(gateway, request) if gateway.authenticator.required else None)
        return
    _check_page(request)
    body = await request.read_body(MAX_REQUEST_BYTES, gateway.config.server.body_timeout)
    if not gateway.authenticator.required:
        await _tell(gateway, request, None)
        return
    fingerprint = gateway.authenticator.identify_key(_key(body))
    await _count(gateway, request, failed=fingerprint is None)
    known = gateway.authenticator.known(fingerprint)
    if fingerprint is None or known is None:
        get_logger().warning("login_failed", trace=request.trace, address=_address(request))
        raise HttpError(401, "the gateway does not know this key", code="invalid_api_key")
    check_dashboard(known.client)
    cookie = f"{gateway.logins.name}={gateway.logins.cookie(known, time.time())}; Max-Age={MAX_AGE}"
    await _tell(gateway, request, fingerprint, _set_cookie(request, cookie))


async def logout(gateway: Gateway, request: Request) -> None:
    """Log out of the dashboard."""
    _check_page(request)
    await request.start(204, [NO_STORE, _set_cookie(request, f"{gateway.logins.name}=; Max-Age=0")])
    await request.send(b"", more=False)


async def _tell(gateway: Gateway, request: Request, fingerprint: str | None, *headers: Header) -> None:
    client = gateway.authenticator.client(fingerprint)
    told = {
        "required": gateway.authenticator.required,
        "logged_in": fingerprint is not None,
        "client": client.name if client is not None else None,
        "fingerprint": fingerprint,
    }
    await request.respond(200, msgspec.json.encode(told), [JSON, NO_STORE, *headers])


async def _count(gateway: Gateway, request: Request, *, failed: bool) -> None:
    """Have the supervisor, who knows of all workers', count an attempt; `HttpError` 429 if it was one too many.

    Asked also where the key was right, or an answer other than 429 would tell a guesser that it was.
    """
    told = await gateway.questions.ask(LogIn(_address(request), failed))
    if told.status == 429:
        answer = msgspec.json.decode(told.body)
        wait = b"%d" % answer["retry_after"]
        raise HttpError(429, answer["message"], code="too_many_logins", headers=[(b"retry-after", wait)])


def _address(request: Request) -> str:
    return str((request.scope["client"] or ("unix",))[0])


def _key(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Given).key.strip()
    except BAD_JSON:
        raise HttpError(400, '`key` is required: send {"key": "…"}', param="key") from None


def _check_page(request: Request) -> None:
    """`HttpError` 403 for a page of elsewhere, [cors] or not: it has no business with the dashboard's logins."""
    origin, host = request.header(b"origin"), request.header(b"host")
    if origin is not None and not cors.is_same_origin(origin, host):
        raise HttpError(403, f"only the dashboard's own page may do this, not one of {origin}", code="bad_origin")


def _is_ours(request: Request) -> bool:
    """Whether a page of ours asks, as far as it matters."""
    origin = request.header(b"origin")
    if origin is None:
        return request.method in SAFE and not isinstance(request, WebSocket)
    return cors.is_same_origin(origin, request.header(b"host"))


def _set_cookie(request: Request, cookie: str) -> Header:
    before_us = (request.header(b"x-forwarded-proto") or "").partition(",")[0].strip().lower()
    is_secure = "https" in (request.scope["scheme"], before_us)
    attributes = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if is_secure else "")
    return (b"set-cookie", (cookie + attributes).encode("ascii"))
