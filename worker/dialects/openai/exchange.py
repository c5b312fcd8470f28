"""A chat completion, whatever its upstream speaks."""

from typing import ClassVar

from msgspec import structs

from shared.config import Provider, Streaming
from shared.records import Dialect
from worker.dialects.codec import Reply
from worker.dialects.exchange import Exchange
from worker.dialects.neutral import Answer, Request
from worker.dialects.openai import errors, request
from worker.dialects.openai.answer import encode_answer
from worker.dialects.openai.decode_request import decode_request
from worker.dialects.openai.relay import BodyRelay, StreamRelay
from worker.dialects.openai.stream_encoder import OpenAIStreamEncoder
from worker.dialects.sse import PING


class OpenAIExchange(Exchange):
    """See `worker.dialects.exchange.Exchange`."""

    dialect: ClassVar[Dialect] = "openai"
    ping = PING

    def __init__(self, body: bytes, settings: Streaming, *, id: str, now: int) -> None:
        super().__init__(body, settings, id=id, now=now)
        self._request = request.parse_request(body)
        self.model = self._request.model
        self.stream = self._request.stream
        self.session = self._request.session

    def pass_request(self, provider: Provider, model: str) -> bytes:
        return request.upstream_body(self._request, model, ask_usage=provider.ask_usage)

    def pass_relay(self, provider: Provider) -> StreamRelay | BodyRelay:
        model = self.renamed(provider)
        if not self.stream:
            return BodyRelay(max_response_bytes=self._settings.max_response_bytes, model=model)
        hide_usage = provider.ask_usage and not self._request.wants_usage
        return StreamRelay(hide_usage=hide_usage, max_event_bytes=self._settings.max_event_bytes, model=model)

    def decode_request(self) -> Request:
        return decode_request(self._request.fields)

    def reply(self, reply: Reply) -> Reply:
        return structs.replace(reply, wants_usage=self._request.wants_usage)

    def stream_encoder(self, reply: Reply) -> OpenAIStreamEncoder:
        return OpenAIStreamEncoder(reply)

    def encode_answer(self, answer: Answer, reply: Reply) -> bytes:
        return encode_answer(answer, reply)

    def error_body(self, status: int, message: str, code: str | None = None, param: str | None = None) -> bytes:
        return errors.error_body(status, message, code=code, param=param)

    def error_event(self, message: str, type: str) -> bytes:
        return errors.error_event(message, type=type)

    def prompt_texts(self) -> list[str]:
        return request.prompt_texts(self._request)
