"""A chat completion request: what the gateway needs to know of it, and how it goes upstream.

The body is kept as raw JSON by key, so that whatever a client says beyond `model` and `stream_options` reaches the
upstream byte for byte, and in its order.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from worker.dialects.envelope import OURS, Known, read_envelope
from worker.dialects.lenient import BAD_JSON


class ChatKnown(Known):
    """What is read beside what both dialects have."""

    stream_options: dict[str, Raw] | None = None


_known: msgspec.json.Decoder[ChatKnown] = msgspec.json.Decoder(ChatKnown)


class ChatRequest(Struct, frozen=True):
    """A validated request."""

    fields: dict[str, Raw]
    model: str
    stream: bool
    stream_options: dict[str, Raw]
    session: str | None

    @property
    def wants_usage(self) -> bool:
        """Whether the client itself asked for `stream_options.include_usage`."""
        return bytes(self.stream_options.get("include_usage", b"")) == b"true"


def parse_request(body: bytes) -> ChatRequest:
    """Read a request body; `DialectError` says what is wrong with it, for the client to read."""
    _, known, fields, model = read_envelope(body, _known)
    return ChatRequest(
        fields=fields,
        model=model,
        stream=bool(known.stream),
        stream_options=known.stream_options or {},
        session=known.session_id or None,
    )


def upstream_body(request: ChatRequest, model: str, *, ask_usage: bool) -> bytes:
    """The body for an upstream that calls the model `model`; with `ask_usage` a stream reports its usage."""
    fields = {name: value for name, value in request.fields.items() if name not in OURS}
    fields["model"] = Raw(msgspec.json.encode(model))
    if ask_usage and request.stream and not request.wants_usage:
        fields["stream_options"] = Raw(msgspec.json.encode({**request.stream_options, "include_usage": True}))
    return msgspec.json.encode(fields)


def prompt_texts(request: ChatRequest) -> list[str]:
    """All text that a model reads: messages, tool calls, tool results, tool definitions."""
    messages = request.fields["messages"]
    try:
        texts = _texts_in(msgspec.json.decode(messages))
    except BAD_JSON:  # the upstream's to judge; here only the record depends on it
        texts = [bytes(messages).decode("utf-8", "replace")]
    tools = request.fields.get("tools")
    if tools is not None:
        texts.append(bytes(tools).decode("utf-8", "replace"))
    return texts


# Bytes of images and sounds are no text; their price is the provider's to tell.
_NOT_TEXT = frozenset({"type", "id", "tool_call_id", "image_url", "input_audio", "file"})


def _texts_in(node: Any) -> list[str]:
    """Every string below `node` that a model reads, in order; a stack, as clients choose the depth."""
    texts: list[str] = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, list):
            waiting += reversed(node)
        elif isinstance(node, dict):
            waiting += [node[name] for name in reversed(node) if name not in _NOT_TEXT]
    return texts
