"""OpenAI's dialect as an upstream speaks it to a client of another."""

from shared.config import Provider, Streaming
from worker.dialects.neutral import Answer, Request
from worker.dialects.openai.answer import decode_answer
from worker.dialects.openai.encode_request import encode_request
from worker.dialects.openai.stream_decoder import OpenAIStreamDecoder
from worker.dialects.openai.wire import error_message


class OpenAIUpstream:
    """See `worker.dialects.codec.UpstreamCodec`."""

    def encode_request(self, request: Request, provider: Provider, model: str) -> bytes:
        return encode_request(request, provider, model)

    def stream_decoder(self, settings: Streaming) -> OpenAIStreamDecoder:
        return OpenAIStreamDecoder(settings.max_event_bytes)

    def decode_answer(self, body: bytes) -> Answer:
        return decode_answer(body)

    def error_message(self, body: bytes) -> str | None:
        return error_message(body)
