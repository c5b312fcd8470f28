"""A message request: what the gateway needs to know of it, and how it goes to an upstream of its own kind.

The body is kept as it came, and as raw JSON by key: what a client says beyond the model's name reaches an Anthropic
upstream byte for byte.
"""

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from worker.dialects.envelope import OURS, Known, read_envelope
from worker.dialects.lenient import BAD_JSON


class _Thinking(Struct):
    type: str | None = None


class _Metadata(Struct):
    user_id: str | None = None


class _UserId(Struct):
    session_id: str | None = None


_known: msgspec.json.Decoder[Known] = msgspec.json.Decoder(Known)
_thinking: msgspec.json.Decoder[_Thinking] = msgspec.json.Decoder(_Thinking)
_metadata: msgspec.json.Decoder[_Metadata] = msgspec.json.Decoder(_Metadata)
_user_id: msgspec.json.Decoder[_UserId] = msgspec.json.Decoder(_UserId)
_OLD_USER_ID = re.compile(r"user_.*_session_([0-9A-Za-z-]+)")


class MessagesRequest(Struct, frozen=True):
    """A validated request."""

    body: bytes
    fields: dict[str, Raw]
    model: str
    stream: bool
    session: str | None
    shows_thinking: bool
    """Whether the client wants to see thought: nearly all do that don't forbid it, and others leave it aside."""


def parse_request(body: bytes) -> MessagesRequest:
    """Read a request body; `DialectError` says what is wrong with it, for the client to read."""
    body, known, fields, model = read_envelope(body, _known)
    return MessagesRequest(
        body=body,
        fields=fields,
        model=model,
        stream=bool(known.stream),
        session=known.session_id or None,
        shows_thinking=_shows_thinking(fields),
    )


def upstream_body(request: MessagesRequest, model: str) -> bytes:
    """The body for an upstream that calls the model `model`: the client's very bytes, if that is its name already."""
    if model == request.model and OURS.isdisjoint(request.fields):
        return request.body
    fields = {name: value for name, value in request.fields.items() if name not in OURS}
    fields["model"] = Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def group(request: MessagesRequest) -> str | None:
    """The session that Claude Code tells in `metadata.user_id`; its subagents share it, so it only groups."""
    try:
        user_id = _metadata.decode(request.fields.get("metadata", b"{}")).user_id or ""
    except BAD_JSON:
        return None
    try:
        return _user_id.decode(user_id).session_id or None
    except BAD_JSON:
        old = _OLD_USER_ID.fullmatch(user_id)
        return old[1] if old else None


def _shows_thinking(fields: dict[str, Raw]) -> bool:
    try:
        return _thinking.decode(fields.get("thinking", b"{}")).type != "disabled"
    except BAD_JSON:
        return True


def prompt_texts(request: MessagesRequest) -> list[str]:
    """All text that a model reads: system, messages, tool calls, tool results, documents, tool definitions."""
    texts: list[str] = []
    for name in ("system", "messages"):
        raw = request.fields.get(name)
        if raw is not None:
            try:
                texts += _texts_in(msgspec.json.decode(raw))
            except BAD_JSON:  # the upstream's to judge; here only the record depends on it
                texts.append(bytes(raw).decode("utf-8", "replace"))
    tools = request.fields.get("tools")
    if tools is not None:
        texts.append(bytes(tools).decode("utf-8", "replace"))
    return texts


# Names and marks, and what only its author can read.
_NOT_TEXT = frozenset(
    {"type", "id", "tool_use_id", "role", "media_type", "signature", "encrypted_content", "cache_control", "citations"}
)
# Bytes of images and documents are no text, nor is the place where they lie; their price is the provider's to tell.
_OPAQUE = frozenset({"base64", "url", "file", "redacted_thinking"})


def _texts_in(node: Any) -> list[str]:
    """Every string below `node` that a model reads, in order; a stack, as clients choose the depth."""
    texts: list[str] = []
    waiting = [(node, False)]
    while waiting:
        node, is_input = waiting.pop()
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, list):
            waiting += [(item, is_input) for item in reversed(node)]
        elif isinstance(node, dict) and is_input:  # arguments of a tool may be called anything, and their names count
            waiting += [(part, True) for item in reversed(node.items()) for part in reversed(item)]
        elif isinstance(node, dict) and not _is_opaque(node):
            waiting += [(node[name], name == "input") for name in reversed(node) if name not in _NOT_TEXT]
    return texts


def _is_opaque(block: dict[str, Any]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind in _OPAQUE
