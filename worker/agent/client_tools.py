"""`[agent] execute_client_tools`: a request in Anthropic's dialect whose tools of our names are run here.

The model is told of our tools as we describe them, in the place of the client's of the same names; calls of all others
go back to the client, which ends the run.
"""

from typing import Any

import trio
from msgspec import structs

from shared.errors import DialectError
from worker.addressing import Addressed
from worker.agent.hidden import restore
from worker.agent.progress import Progress, WholeAnswer
from worker.agent.run import Run
from worker.agent.wish import Wish
from worker.asgi import Request
from worker.dialects import neutral
from worker.dialects.codec import Reply, StreamEncoder
from worker.dialects.estimate import estimate_tokens
from worker.dialects.exchange import Exchange
from worker.gateway import Gateway
from worker.streaming.asking import INLINE_BYTES
from worker.streaming.downstream import Downstream


async def make_client_run(gateway: Gateway, request: Request, addressed: Addressed, exchange: Exchange) -> Run | None:
    """The run that answers `exchange`; None if it is to be answered as ever: it names none of our tools."""
    settings = gateway.config.agent
    if not (settings.enabled and settings.execute_client_tools):
        return None
    try:
        asked = await _read(exchange)
    except DialectError:  # for a provider that may know more than we do
        return None
    tools = gateway.toolbox.tools
    ours = {tool.name for tool in asked.tools if isinstance(tool, neutral.Tool)} & tools.keys()
    if not ours:
        return None
    described = {tool.name: tool for tool in gateway.toolbox.definitions}
    wish = Wish(
        request=structs.replace(
            await restore(gateway, request.client, asked),
            tools=tuple(_ours(described[tool.name], tool) if tool.name in ours else tool for tool in asked.tools),
            stream=True,
        ),
        tools={name: tool for name, tool in tools.items() if name in ours},
        definitions=tuple(tool for tool in gateway.toolbox.definitions if tool.name in ours),
        clients=frozenset(tool.name for tool in asked.tools) - ours,
        base=exchange,
    )
    streaming = gateway.config.streaming
    ping = exchange.ping if exchange.stream else None
    downstream = Downstream(request, ping=ping, ping_interval=streaming.ping_interval)
    downstream.may_ping = streaming.early_ping
    presenter = Progress(settings.progress, _encoder(exchange, addressed, asked))
    return Run(gateway, request, addressed, wish, presenter, downstream)


async def _read(exchange: Exchange) -> neutral.Request:
    if exchange.body_bytes <= INLINE_BYTES:
        return exchange.neutral
    return await trio.to_thread.run_sync(lambda: exchange.neutral)


def _ours(described: neutral.Tool, given: Any) -> neutral.Tool:
    """Our description, with the client's mark for a prompt's cache."""
    return structs.replace(described, cache_control=given.cache_control)


def _encoder(exchange: Exchange, addressed: Addressed, asked: neutral.Request) -> StreamEncoder:
    start = addressed.start
    prompt_tokens = estimate_tokens(asked) if exchange.stream else 0
    reply = exchange.reply(
        Reply(id=start.id, model=start.model, created=int(start.started), prompt_tokens=prompt_tokens)
    )
    # Turns have their tools' names already as the client gave them.
    reply = structs.replace(reply, tool_names={})
    if exchange.stream:
        return exchange.stream_encoder(reply)
    return WholeAnswer(start.id, lambda answer: exchange.encode_answer(answer, reply))
