"""A message, whatever its upstream speaks."""

from collections.abc import Mapping
from typing import ClassVar

from msgspec import structs

from shared.config import Provider, Streaming
from shared.errors import DialectError
from shared.records import Dialect
from worker.dialects.anthropic import errors, request
from worker.dialects.anthropic.answer import encode_answer
from worker.dialects.anthropic.decode_request import decode_request
from worker.dialects.anthropic.relay import BodyRelay, StreamRelay
from worker.dialects.anthropic.stream_encoder import AnthropicStreamEncoder
from worker.dialects.codec import Reply
from worker.dialects.exchange import Exchange
from worker.dialects.neutral import Answer, Request, ToolCall
from worker.dialects.openai.tool_names import long_names
from worker.dialects.sse import encode_event

PASSED_HEADERS = ("anthropic-version", "anthropic-beta")


class AnthropicExchange(Exchange):
    """See `worker.dialects.exchange.Exchange`.

    `headers` (the `PASSED_HEADERS`) and `query` are the client's; errors name `request_id`.
    """

    dialect: ClassVar[Dialect] = "anthropic"
    ping = encode_event("ping", b'{"type":"ping"}')

    def __init__(
        self,
        body: bytes,
        settings: Streaming,
        *,
        id: str,
        now: int,
        headers: Mapping[str, str] = {},
        query: str = "",
        request_id: str | None = None,
    ) -> None:
        super().__init__(body, settings, id=id, now=now)
        self._request = request.parse_request(body)
        self._headers = headers
        self._query = query
        self._request_id = request_id or id
        self.model = self._request.model
        self.stream = self._request.stream
        self.session = self._request.session

    @property
    def group(self) -> str | None:
        """The session that the client tells of in its own way, which several streams may share."""
        return request.group(self._request)

    def pass_request(self, provider: Provider, model: str) -> bytes:
        return request.upstream_body(self._request, model)

    def upstream_headers(self, provider: Provider) -> Mapping[str, str]:
        return {} if self.translates(provider) else self._headers

    def upstream_query(self, provider: Provider) -> str:
        return "" if self.translates(provider) else self._query

    def pass_relay(self, provider: Provider) -> StreamRelay | BodyRelay:
        model = self.renamed(provider)
        if not self.stream:
            return BodyRelay(max_response_bytes=self._settings.max_response_bytes, model=model)
        return StreamRelay(max_event_bytes=self._settings.max_event_bytes, model=model)

    def decode_request(self) -> Request:
        return decode_request(self._request.fields)

    def reply(self, reply: Reply) -> Reply:
        reply = structs.replace(reply, shows_thinking=self._request.shows_thinking, request_id=self._request_id)
        try:
            request = self.neutral
        except DialectError:  # one that only passes may hold what can't be understood here
            return reply
        # Claude Code drops a call whose id came before, and its result with it.
        taken = frozenset(part.id for turn in request.messages for part in turn.parts if isinstance(part, ToolCall))
        return structs.replace(reply, taken_ids=taken, tool_names=long_names(request.tools))

    def stream_encoder(self, reply: Reply) -> AnthropicStreamEncoder:
        return AnthropicStreamEncoder(reply)

    def encode_answer(self, answer: Answer, reply: Reply) -> bytes:
        return encode_answer(answer, reply)

    def error_body(self, status: int, message: str, code: str | None = None, param: str | None = None) -> bytes:
        return errors.error_body(status, message, request_id=self._request_id)

    def error_event(self, message: str, type: str) -> bytes:
        return errors.error_event(message, type=type, request_id=self._request_id)

    def prompt_texts(self) -> list[str]:
        return request.prompt_texts(self._request)
