"""`POST /v1/chat/completions`: the OpenAI dialect, streaming or not."""

from worker.asgi import Request
from worker.dialects.openai.exchange import OpenAIExchange
from worker.endpoints.stream import answer
from worker.gateway import Gateway


async def chat_completions(gateway: Gateway, request: Request) -> None:
    """A chat completion, by whichever provider has the model."""
    settings = gateway.config.streaming

    def make(body: bytes, id: str, now: int) -> OpenAIExchange:
        return OpenAIExchange(body, settings, id=id, now=now)

    await answer(gateway, request, make)
