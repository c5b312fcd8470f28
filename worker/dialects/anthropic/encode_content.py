"""Turns of a conversation as an Anthropic upstream wants them.

It refuses text without a letter, tool ids of other characters than `[A-Za-z0-9_-]`, ids that come twice, turns without
content and white space at the end of an answer that it is to go on with: none of these leave here.
"""

import base64
import re
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw, structs

from worker.dialects.arguments import object_text
from worker.dialects.neutral import (
    CacheControl,
    Document,
    Image,
    Message,
    Part,
    RedactedThinking,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from worker.dialects.turns import merged

Block = dict[str, Any]

# An error without content is refused; a tool that fails in silence has this to say.
NO_OUTPUT = "(no output)"


def sendable_turns(messages: Iterable[Message], *, unsigned_thinking: bool) -> tuple[Message, ...]:
    """Turns of user and assistant, alternating, with what can be sent of them.

    `unsigned_thinking`: whether the upstream takes thought that it did not sign.
    """
    turns = []
    for message in messages:
        if message.role != "system":
            parts = tuple(part for part in message.parts if _is_sendable(part, unsigned_thinking))
            if parts:
                turns.append(Message(message.role, parts))
    return _without_last_space(merged(turns))


def encode_turns(turns: Sequence[Message]) -> list[Block]:
    """What stands in `messages`."""
    ids = _Ids()
    encoded = []
    for turn in turns:
        if turn.role == "assistant":
            ids.begin_turn()
        encoded.append({"role": turn.role, "content": [_block(part, ids) for part in turn.parts]})
    return encoded


def encode_system(texts: Iterable[Text]) -> str | list[Block] | None:
    """What stands in `system`: a string where that says it all."""
    kept = [text for text in texts if text.text.strip()]
    if len(kept) == 1 and kept[0].cache_control is None:
        return kept[0].text
    return [_text(text) for text in kept] or None


def _is_sendable(part: Part, unsigned_thinking: bool) -> bool:
    match part:
        case Text(text):
            return bool(text.strip())
        case Thinking(text, signature):
            return bool(signature or (text and unsigned_thinking))
        case Document(text=text, data=data, url=url):
            return bool(text.strip() or data or url)
        case _:
            return True


def _without_last_space(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    if turns and turns[-1].role == "assistant" and isinstance(last := turns[-1].parts[-1], Text):
        begun = structs.replace(last, text=last.text.rstrip())
        return (*turns[:-1], Message("assistant", (*turns[-1].parts[:-1], begun)))
    return turns


class _Ids:
    """Clean and unique ids, the same for a call and its result."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._count = 0
        self._waiting: dict[str, deque[str]] = {}
        """The turn's calls by the id that the client gave, which may have come before or be none."""

    def begin_turn(self) -> None:
        """Results that follow are those of this turn's calls."""
        self._waiting.clear()

    def of_call(self, id: str) -> str:
        clean = _clean(id)
        chosen = clean or self._numbered("toolu")
        while chosen in self._used:
            chosen = self._numbered(clean or "toolu")
        self._used.add(chosen)
        self._waiting.setdefault(id, deque()).append(chosen)
        return chosen

    def of_result(self, id: str) -> str:
        waiting = self._waiting.get(id)
        if waiting is None:  # the upstream's to judge
            return _clean(id) or "toolu"
        return waiting.popleft() if len(waiting) > 1 else waiting[0]

    def _numbered(self, base: str) -> str:
        self._count += 1
        return f"{base}_{self._count}"


def _clean(id: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", id)


def _block(part: Part, ids: _Ids) -> Block:
    match part:
        case Thinking(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature}
        case RedactedThinking(data):
            return {"type": "redacted_thinking", "data": data}
        case ToolCall(id, name, arguments, mark):
            return _marked({"type": "tool_use", "id": ids.of_call(id), "name": name, "input": _input(arguments)}, mark)
        case ToolResult():
            return _tool_result(part, ids)
        case _:
            return _said(part)


def _said(part: Text | Image | Document) -> Block:
    match part:
        case Text():
            return _text(part)
        case Image():
            return _marked({"type": "image", "source": _image_source(part)}, part.cache_control)
        case Document():
            told = {"title": part.title, "context": part.context}
            block = {"type": "document", "source": _document_source(part)}
            block |= {name: text for name, text in told.items() if text is not None}
            return _marked(block, part.cache_control)


def _text(part: Text) -> Block:
    return _marked({"type": "text", "text": part.text}, part.cache_control)


def _image_source(image: Image) -> Block:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _document_source(document: Document) -> Block:
    text = document.text or _text_in(document)
    if text:
        return {"type": "text", "media_type": "text/plain", "data": text}
    if document.data:
        return {"type": "base64", "media_type": document.media_type, "data": document.data}
    return {"type": "url", "url": document.url}


def _text_in(document: Document) -> str:
    """Anthropic takes PDF in base64, and all text as it is."""
    if not document.media_type.startswith("text/"):
        return ""
    try:
        return base64.b64decode(document.data).decode()
    except ValueError:  # no base64 or no UTF-8: the upstream's to judge
        return ""


def _tool_result(result: ToolResult, ids: _Ids) -> Block:
    said = [part for part in result.parts if _is_sendable(part, unsigned_thinking=False)]
    block: Block = {"type": "tool_result", "tool_use_id": ids.of_result(result.call_id)}
    if len(said) == 1 and isinstance(only := said[0], Text) and only.cache_control is None:
        block["content"] = only.text
    elif said:
        block["content"] = [_said(part) for part in said]
    elif result.is_error:
        block["content"] = NO_OUTPUT
    if result.is_error:
        block["is_error"] = True
    return _marked(block, result.cache_control)


def _input(arguments: str) -> Raw:
    """A JSON object; what a model wrote instead stands in one, so that it can see its mistake."""
    text = object_text(arguments)
    return Raw(msgspec.json.encode({"arguments": arguments}) if text is None else text.encode())


def _marked(block: Block, mark: CacheControl) -> Block:
    if mark is not None:
        block["cache_control"] = mark
    return block
