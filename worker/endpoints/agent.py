"""`POST /api/stream/message`: a run of the agent, told as server-sent events."""

import time

from worker.addressing import address, check_capacity
from worker.agent.frames import FORMATS, SSE, Format, Wire, make_frames
from worker.agent.message import BadMessage, Message, read_message, read_object
from worker.agent.run import Run, make_run
from worker.asgi import HttpError, Request
from worker.dialects.codec import Reply
from worker.dialects.fault import quoted
from worker.dialects.sse import PING
from worker.endpoints.origin import check_origin
from worker.gateway import Gateway
from worker.streaming.downstream import Downstream
from worker.streaming.sink import ClientSink


async def message(gateway: Gateway, request: Request) -> None:
    """`?format=` is one of `worker.agent.frames.FORMATS`."""
    check_origin(gateway, request)
    check_enabled(gateway)
    format = wanted_format(request)
    config = gateway.config
    check_capacity(gateway)
    body = await request.read_body(config.server.max_body_bytes, config.server.body_timeout)
    try:
        asked = read_message(read_object(body))
    except BadMessage as error:
        raise HttpError(400, str(error)) from None
    downstream = Downstream(request, ping=PING, ping_interval=config.streaming.ping_interval)
    await prepare(gateway, request, asked, format, SSE, downstream).run()


def check_enabled(gateway: Gateway) -> None:
    """`HttpError` 404 while the agent is off."""
    if not gateway.config.agent.enabled:
        raise HttpError(
            404,
            "the agent is off: set [agent] enabled = true and a workspace in the configuration, and reload it",
            code="agent_disabled",
        )


def wanted_format(request: Request) -> Format:
    """What `?format=` asks for, or else `json`."""
    given = request.query("format") or "json"
    if given not in FORMATS:
        raise HttpError(
            400, f"`format`: there is no {quoted(given)}; there are {', '.join(FORMATS)}", code="bad_format"
        )
    return given


def prepare(gateway: Gateway, request: Request, asked: Message, format: Format, wire: Wire, client: ClientSink) -> Run:
    """A run that answers `asked`, yet to be run; `HttpError` if there can't be one."""
    id, now = gateway.ids.new(), time.time()
    model = asked.model or gateway.config.agent.model
    addressed = address(
        gateway,
        request,
        id=id,
        now=now,
        model=model,
        dialect="openai",
        streaming=True,
        session=request.header(b"x-session-id") or asked.session,
        body_bytes=len(asked.text.encode()),
    )
    frames = make_frames(format, wire, Reply(id=id, model=model, created=int(now), wants_usage=False))
    return make_run(gateway, request, addressed, asked.text, frames, client)
