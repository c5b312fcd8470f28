"""A chat completion whose client and whose upstream both speak OpenAI."""

from shared.config import Provider, Streaming
from shared.records import Dialect
from worker.dialects.openai import errors, request
from worker.dialects.openai.relay import BodyRelay, StreamRelay
from worker.dialects.openai.wire import error_message


class OpenAIExchange:
    """See `worker.streaming.exchange.Exchange`; raises `DialectError` for a bad request body."""

    dialect: Dialect = "openai"

    def __init__(self, body: bytes, settings: Streaming) -> None:
        self._request = request.parse_request(body)
        self._settings = settings
        self.model = self._request.model
        self.stream = self._request.stream
        self.session = self._request.session
        self.body_bytes = len(body)

    def upstream_body(self, provider: Provider, model: str) -> bytes:
        return request.upstream_body(self._request, model, ask_usage=provider.ask_usage)

    def relay(self, provider: Provider) -> StreamRelay | BodyRelay:
        if not self.stream:
            return BodyRelay(max_response_bytes=self._settings.max_response_bytes)
        hide_usage = provider.ask_usage and not self._request.wants_usage
        return StreamRelay(hide_usage=hide_usage, max_event_bytes=self._settings.max_event_bytes)

    def passes_errors_of(self, provider: Provider) -> bool:
        return provider.dialect == self.dialect

    def error_message(self, body: bytes) -> str | None:
        return error_message(body)

    def error_body(self, status: int, message: str, code: str | None = None) -> bytes:
        return errors.error_body(status, message, code=code)

    def error_event(self, message: str, type: str) -> bytes:
        return errors.error_event(message, type=type)

    def prompt_texts(self) -> list[str]:
        return request.prompt_texts(self._request)
