"""The parts of a chat completion, whole or in chunks, that the gateway reads.

The leaves are `Any` on purpose: providers put odd things there (numbers for names, lists for text), and a chunk that
merely surprises us must still flow, and still count.
"""

from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct

# What decoding raises for bytes that are no JSON, beside `msgspec.DecodeError`: broken UTF-8, and a nest too deep.
BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# A record carries 64 bits; a provider that claims more tokens than that is not believed.
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Function(Struct):
    name: Any = None
    arguments: Any = None


class ToolCall(Struct):
    function: Function | None = None


class Delta(Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[ToolCall] | None = None


class Choice(Struct):
    index: int | None = 0
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: Any = None


class Usage(Struct):
    """Counts in tokens; absent ones are None."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


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
        return bytes(self.error) not in (b"", b"null", b'""', b"{}")


class _Error(Struct):
    message: Any = None
    type: Any = None


class _ErrorBody(Struct):
    error: _Error | str | None = None


_chunk_decoder: msgspec.json.Decoder[Chunk] = msgspec.json.Decoder(Chunk)
_object_decoder: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])


def read_chunk(payload: bytes) -> Chunk:
    """The chunk in `payload`; a part of it with an unexpected type counts as absent.  `BAD_JSON` if it is no object."""
    try:
        return _chunk_decoder.decode(payload)
    except msgspec.ValidationError:
        raw = _object_decoder.decode(payload)
    parts: dict[str, Any] = {"error": raw.pop("error", Raw())}
    for field in msgspec.structs.fields(Chunk):
        if field.name in raw:
            parts[field.name] = _fitting(msgspec.json.decode(raw[field.name]), field.type)
    return Chunk(**parts)


def _fitting(value: Any, kind: Any) -> Any:
    """What of `value` is of the type `kind`, part by part; None where nothing is."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        pass
    for option in get_args(kind) or (kind,):
        if get_origin(option) is list and isinstance(value, list):
            items = [_fitting(item, get_args(option)[0]) for item in value]
            return [item for item in items if item is not None]
        if isinstance(option, type) and issubclass(option, Struct) and isinstance(value, dict):
            fields = [field for field in msgspec.structs.fields(option) if field.name in value]
            return option(**{field.name: _fitting(value[field.name], field.type) for field in fields})
    return None


def error_message(payload: bytes) -> str | None:
    """What an error body or error event says, or None where it isn't one of this dialect."""
    try:
        error = msgspec.json.decode(payload, type=_ErrorBody).error
    except BAD_JSON:
        return None
    if isinstance(error, _Error):
        return str(error.message or error.type or "unnamed error")
    return error
