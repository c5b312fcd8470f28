"""`POST /api/chatkit/session`: a session of ChatKit at OpenAI, for a page that must not know the key.

{"user": …}?  ─▶  POST {base_url}/chatkit/sessions {"workflow": {"id": …}, "user": …}  ─▶  {"client_secret": …}
"""

import msgspec
import trio
from msgspec import Struct

from shared.config import ChatKit, Provider
from shared.errors import UpstreamError, UpstreamTimeout
from worker.asgi import JSON, Header, HttpError, Request
from worker.dialects.lenient import BAD_JSON
from worker.dialects.openai.wire import error_message
from worker.endpoints.origin import check_origin
from worker.gateway import Gateway
from worker.upstream.client import UpstreamClient, UpstreamResponse

PATH = "/chatkit/sessions"
HEADERS = {"openai-beta": "chatkit_beta=v1"}
MAX_REQUEST_BYTES = 64 * 1024
MAX_RESPONSE_BYTES = 1024 * 1024
MAX_USER_CHARS = 512


class _Wanted(Struct):
    """What a page may send; the rest of its body is not ours to read."""

    user: str | None = None


class _Session(Struct):
    client_secret: str


async def session(gateway: Gateway, request: Request) -> None:
    """`{"client_secret": …}`.

    The session belongs to the body's `user`, else to the caller's key, else to somebody new.  `HttpError` 404 where no
    workflow is configured, 400 for a body that makes no sense, 429 as OpenAI says it, 502 and 504 where OpenAI refuses
    or fails.  A client that leaves ends it.
    """
    check_origin(gateway, request)
    settings = gateway.config.chatkit
    if settings.workflow is None:
        raise HttpError(
            404,
            "ChatKit is not offered here: set [chatkit] workflow to the id of your workflow at OpenAI",
            code="chatkit_not_configured",
        )
    body = await request.read_body(MAX_REQUEST_BYTES, gateway.config.server.body_timeout)
    user = _user(body) or request.client or f"user_{gateway.ids.new()}"
    asked = msgspec.json.encode({"workflow": {"id": settings.workflow}, "user": user})
    secret = None
    with trio.CancelScope() as scope:
        request.connection.watch(scope.cancel)
        try:
            secret = await _create(settings, gateway.chatkit_key, asked)
        finally:
            request.connection.watch(None)
    if secret is not None:
        await request.respond(
            200, msgspec.json.encode({"client_secret": secret}), [JSON, (b"cache-control", b"no-store")]
        )


def _user(body: bytes) -> str | None:
    """Whom the page names; it need not send a body at all."""
    if not body.strip():
        return None
    try:
        user = msgspec.json.decode(body, type=_Wanted).user
    except BAD_JSON:
        raise HttpError(400, 'the body has to be a JSON object, such as {"user": "somebody"}') from None
    if user is not None and len(user) > MAX_USER_CHARS:
        raise HttpError(400, f"`user`: a name has at most {MAX_USER_CHARS} characters", param="user")
    return user


async def _create(settings: ChatKit, key: str | None, body: bytes) -> str:
    """The secret of a new session."""
    # A client for one request: sessions are begun once in ten minutes a page, and nothing is left of it to reload.
    provider = Provider(name="chatkit", base_url=settings.base_url, connect_timeout=settings.timeout)
    client = UpstreamClient(provider, key, read_size=65536, path=PATH)
    try:
        with trio.fail_after(settings.timeout):
            response = await client.open(body, headers=HEADERS)
            answer = await response.read(MAX_RESPONSE_BYTES)
    except (trio.TooSlowError, UpstreamTimeout):
        raise HttpError(504, f"ChatKit's API did not answer within {settings.timeout:g} s; try again") from None
    except UpstreamError as error:
        raise HttpError(502, f"ChatKit's API could not be asked: {error}") from None
    finally:
        await client.aclose()
    if not 200 <= response.status < 300:
        raise _refusal(response, answer)
    try:
        return msgspec.json.decode(answer, type=_Session).client_secret
    except BAD_JSON:
        raise HttpError(502, "ChatKit's API answered with no client_secret") from None


def _refusal(response: UpstreamResponse, body: bytes) -> HttpError:
    """What the page is told: to ask less often it can do itself, all else is for whoever runs the gateway."""
    said = error_message(body) or f"status {response.status}"
    match response.status:
        case 401 | 403:
            # What it says may repeat a part of the key.
            return HttpError(502, f"ChatKit's API refuses the gateway's key ({response.status}): check [chatkit]")
        case 404:
            return HttpError(502, f"ChatKit's API does not know the workflow, check [chatkit] workflow: {said}")
        case 429:
            wait = response.headers.get("retry-after")
            headers: list[Header] = [(b"retry-after", wait.encode("latin-1"))] if wait else []
            return HttpError(429, f"ChatKit's API wants to be asked less often: {said}", headers=headers)
        case status if status >= 500:
            return HttpError(502, f"ChatKit's API failed ({status}): {said}")
        case status:
            return HttpError(502, f"ChatKit's API refuses the session ({status}): {said}")
