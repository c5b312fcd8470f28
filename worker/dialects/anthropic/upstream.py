"""Anthropic's dialect as an upstream speaks it to a client of another."""

from shared.config import Provider, Streaming
from worker.dialects.anthropic.answer import decode_answer
from worker.dialects.anthropic.encode_request import encode_request
from worker.dialects.anthropic.errors import error_message
from worker.dialects.anthropic.stream_decoder import AnthropicStreamDecoder
from worker.dialects.neutral import Answer, Request


class AnthropicUpstream:
    """See `worker.dialects.codec.UpstreamCodec`."""

    def encode_request(self, request: Request, provider: Provider, model: str) -> bytes:
        return encode_request(request, provider, model)

    def stream_decoder(self, settings: Streaming) -> AnthropicStreamDecoder:
        return AnthropicStreamDecoder(settings.max_event_bytes)

    def decode_answer(self, body: bytes) -> Answer:
        return decode_answer(body)

    def error_message(self, body: bytes) -> str | None:
        return error_message(body)
