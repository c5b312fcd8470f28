"""The parts of a chat completion, whole or in chunks, that the gateway reads.

The leaves are `Any` on purpose: providers put odd things there (numbers for names, lists for text), and a chunk that
merely surprises us must still flow, and still count.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from worker.dialects.lenient import BAD_JSON as BAD_JSON
from worker.dialects.lenient import leniently

# A record carries 64 bits; a provider that claims more tokens than that is not believed.
Count = Annotated[int, Meta(ge=0, le=2**53)]
# As much as people read of an error that is told inside of another.
MAX_RAW_CHARS = 2000


class Function(Struct):
    name: Any = None
    arguments: Any = None


class ToolCall(Struct):
    index: int | None = None
    id: Any = None
    function: Function | None = None


class Delta(Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[ToolCall] | None = None


class PromptDetails(Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    """OpenRouter's."""


class CompletionDetails(Struct):
    reasoning_tokens: Count | None = None


class Usage(Struct):
    """Counts in tokens; absent ones are None."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cached_tokens: Count | None = None
    """Where Kimi tells it."""
    prompt_cache_hit_tokens: Count | None = None
    """Where DeepSeek does."""
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Choice(Struct):
    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: Any = None
    stop_reason: Any = None
    """vLLM: the stop sequence that was met…"""
    matched_stop: Any = None
    """…and SGLang; a number is a token."""
    usage: Usage | None = None
    """Where Kimi tells it."""


class Groq(Struct):
    usage: Usage | None = None


class Chunk(Struct):
    """A `chat.completion.chunk`, a `chat.completion`, or an error in the place of either."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    x_groq: Groq | None = None
    error: Raw = Raw()

    @property
    def is_error(self) -> bool:
        """Whether it tells of an error; some providers send an empty one with every chunk."""
        return bytes(self.error) not in (b"", b"null", b'""', b"{}", b"false", b"0", b"[]")


class _Error(Struct):
    message: Any = None
    type: Any = None
    code: Any = None
    metadata: Any = None
    """OpenRouter: what the host behind it said, where its own message is only that there was something."""


class _ErrorBody(Struct):
    error: _Error | str | None = None


_chunk_decoder: msgspec.json.Decoder[Chunk] = msgspec.json.Decoder(Chunk)


def read_chunk(payload: bytes) -> Chunk:
    """The chunk in `payload`; a part of it with an unexpected type counts as absent.  `BAD_JSON` if it is no object."""
    try:
        return _chunk_decoder.decode(payload)
    except msgspec.DecodeError:
        return leniently(payload, Chunk)


def error_message(payload: bytes) -> str | None:
    """What an error body or error event says, or None where it isn't one of this dialect."""
    try:
        error = msgspec.json.decode(payload, type=_ErrorBody).error
    except BAD_JSON:
        return None
    if not isinstance(error, _Error):
        return error
    message = str(error.message or error.type or (f"error {error.code}" if error.code else "unnamed error"))
    raw = error.metadata.get("raw") if isinstance(error.metadata, dict) else None
    return f"{message}: {raw[:MAX_RAW_CHARS]}" if raw and isinstance(raw, str) else message
