"""`POST /v1/messages`: the Anthropic dialect, streaming or not."""

from worker.asgi import Request
from worker.dialects.anthropic.exchange import PASSED_HEADERS, AnthropicExchange
from worker.endpoints.stream import answer
from worker.gateway import Gateway

SESSION_HEADER = b"x-claude-code-session-id"


async def messages(gateway: Gateway, request: Request) -> None:
    """A message, by whichever provider has the model."""
    settings = gateway.config.streaming
    given = {name: request.header_list(name.encode()) for name in PASSED_HEADERS}
    headers = {name: value for name, value in given.items() if value}
    query = request.scope["query_string"].decode("latin-1")

    def make(body: bytes, id: str, now: int) -> AnthropicExchange:
        return AnthropicExchange(body, settings, id=id, now=now, headers=headers, query=query, request_id=request.trace)

    def group(exchange: AnthropicExchange) -> str | None:
        return request.header(SESSION_HEADER) or exchange.group

    await answer(gateway, request, make, group)
