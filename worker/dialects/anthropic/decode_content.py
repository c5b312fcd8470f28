"""Content of an Anthropic client's messages, block by block, as both dialects understand it."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Raw

from shared.errors import DialectError
from worker.dialects.fault import quoted
from worker.dialects.fields import Fields
from worker.dialects.lenient import BAD_JSON
from worker.dialects.neutral import (
    Document,
    Image,
    Part,
    RedactedThinking,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)


def decode_content(message: Fields, role: Role) -> tuple[Part, ...]:
    """The parts of a message's `content`: a string, or blocks of the kinds that may stand in a turn of `role`."""
    if message.is_text("content"):
        return (Text(message.needed("content")),)
    if not message.has("content"):
        raise DialectError(f"`{message.at('content')}` is required: a string, or a list of blocks")
    parts: list[Part] = []
    for block in message.objects("content"):
        kind = block.needed("type")
        decode = KINDS[role].get(kind)
        if decode is not None:
            parts += decode(block)
        elif role == "assistant" and kind.endswith(("_tool_use", "_tool_result")):
            parts.append(_provider_tool(block, kind))
        else:
            raise DialectError(
                f"`{block.path}`: blocks of type {quoted(kind)} can't be translated in a turn of the {role}"
            )
    return tuple(parts)


def decode_texts(fields: Fields, name: str) -> tuple[Text, ...]:
    """A string, or blocks of text."""
    if fields.is_text(name):
        return (Text(fields.needed(name)),)
    texts: list[Text] = []
    for block in fields.objects(name):
        if (kind := block.needed("type")) != "text":
            raise DialectError(f"`{block.path}`: blocks of type {quoted(kind)} can't be translated here")
        texts += _text(block)
    return tuple(texts)


def _text(block: Fields) -> tuple[Text, ...]:
    return (Text(block.needed("text"), block.plain("cache_control")),)


def _image(block: Fields) -> tuple[Image, ...]:
    source = _source(block)
    mark = block.plain("cache_control")
    match source.needed("type"):
        case "base64":
            return (Image(source.needed("media_type"), source.needed("data"), cache_control=mark),)
        case "url":
            return (Image(url=source.needed("url"), cache_control=mark),)
        case other:
            raise _unknown_source(source, other)


def _document(block: Fields) -> tuple[Document | Image, ...]:
    source = _source(block)
    title, context, mark = block.text("title"), block.text("context"), block.plain("cache_control")

    def document(media_type: str = "text/plain", *, text: str = "", data: str = "", url: str = "") -> Document:
        return Document(media_type, text, data, url, title, context, mark)

    match source.needed("type"):
        case "text":
            return (document(source.text("media_type") or "text/plain", text=source.needed("data")),)
        case "base64":
            return (document(source.needed("media_type"), data=source.needed("data")),)
        case "url":
            return (document("application/pdf", url=source.needed("url")),)
        case "content":
            parts = _contents(source, _EMBEDDED)
            text = "\n".join(part.text for part in parts if isinstance(part, Text))
            return (document(text=text), *(part for part in parts if isinstance(part, Image)))
        case other:
            raise _unknown_source(source, other)


def _search_result(block: Fields) -> tuple[Text, ...]:
    """Others have no such block: its title and source head its text."""
    head = [text for text in (block.text("title"), block.text("source")) if text]
    body = [text.text for text in decode_texts(block, "content")]
    return (Text("\n".join(head + body), block.plain("cache_control")),)


def _tool_reference(block: Fields) -> tuple[Text, ...]:
    """What a search for tools found.  Others know no tools that are deferred: theirs were all there from the start."""
    return (Text(f"The tool {block.needed('tool_name')} can be called."),)


def _thinking(block: Fields) -> tuple[Thinking, ...]:
    return (Thinking(block.text("thinking") or "", block.text("signature") or ""),)


def _redacted_thinking(block: Fields) -> tuple[RedactedThinking, ...]:
    return (RedactedThinking(block.needed("data")),)


def _tool_use(block: Fields) -> tuple[ToolCall, ...]:
    written = block.object_raw("input")
    try:
        arguments = "{}" if written is None else bytes(written).decode()
    except UnicodeDecodeError as error:
        raise DialectError(f"`{block.at('input')}`: {error}") from None
    return (ToolCall(block.text("id") or "", block.needed("name"), arguments, block.plain("cache_control")),)


def _tool_result(block: Fields) -> tuple[ToolResult, ...]:
    return (
        ToolResult(
            block.text("tool_use_id") or "",
            tuple(_contents(block, IN_RESULTS)),
            is_error=bool(block.flag("is_error")),
            cache_control=block.plain("cache_control"),
        ),
    )


def _provider_tool(block: Fields, kind: str) -> Text:
    """A tool that the provider ran, told as text: no other provider has a block for it.

    `[web_search was called with {"query":"x"}]`, `[web_search_tool_result: [{"title":…}]]`
    """
    if kind.endswith("_tool_use"):
        told = f"{block.text('name') or kind} was called with {_readable(block.raw.get('input'), block.at('input'))}"
    else:
        told = f"{kind}: {_readable(block.raw.get('content'), block.at('content'))}"
    return Text(f"[{told}]", block.plain("cache_control"))


def _readable(raw: Raw | None, path: str) -> str:
    """JSON without what only the provider can read."""
    if raw is None:
        return "{}"
    try:
        value = msgspec.json.decode(raw)
    except BAD_JSON as error:
        raise DialectError(f"`{path}`: {error}") from None
    waiting: list[Any] = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            node.pop("encrypted_content", None)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return msgspec.json.encode(value).decode()


def _contents(
    fields: Fields, kinds: "dict[str, Callable[[Fields], Iterable[Text | Image | Document]]]"
) -> list[Text | Image | Document]:
    if fields.is_text("content"):
        return [Text(fields.needed("content"))]
    parts: list[Text | Image | Document] = []
    for block in fields.objects("content"):
        kind = block.needed("type")
        if kind not in kinds:
            raise DialectError(f"`{block.path}`: blocks of type {quoted(kind)} can't be translated here")
        parts += kinds[kind](block)
    return parts


def _source(block: Fields) -> Fields:
    source = block.object("source")
    if source is None:
        raise DialectError(f"`{block.at('source')}` is required")
    return source


def _unknown_source(source: Fields, kind: str) -> DialectError:
    return DialectError(
        f"`{source.at('type')}`: sources of type {quoted(kind)} lie with their provider, no other can read them"
    )


_EMBEDDED: dict[str, Callable[[Fields], Iterable[Text | Image | Document]]] = {"text": _text, "image": _image}
_IN_TURNS = {**_EMBEDDED, "document": _document, "search_result": _search_result}
IN_RESULTS = {**_IN_TURNS, "tool_reference": _tool_reference}
KINDS: dict[Role, dict[str, Callable[[Fields], Iterable[Part]]]] = {
    "system": {"text": _text},
    "user": {**_IN_TURNS, "tool_result": _tool_result},
    "assistant": {
        "text": _text,
        "thinking": _thinking,
        "redacted_thinking": _redacted_thinking,
        "tool_use": _tool_use,
    },
}
