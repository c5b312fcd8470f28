"""A conversation as the messages of a chat completion request.

    Request.system                 one system message
    a user's tool results          tool messages, then what they hold beside text, as the user's
    an assistant's turn            its texts joined, its thought in a field that the provider names, then its calls

The dialect has no order within an assistant's turn, and no pictures, documents and errors in what tools said.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shared.config import Translation
from worker.dialects.neutral import (
    CacheControl,
    Document,
    Image,
    Message,
    Part,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from worker.dialects.openai.tool_names import short_name

Wire = dict[str, Any]
Said = Text | Image | Document

# Claude Code's first line of `system`: it differs from session to session, so that no prompt would be found in the
# upstream's cache.
_BILLING = "x-anthropic-billing-header:"
# Where a provider wants thought with every call and the client has none: Kimi takes a blank, and no empty string.
_NO_THOUGHT = " "
# https://ai.google.dev/gemini-api/docs/thought-signatures: for calls that Gemini has not made, or not signed.
_ANY_SIGNATURE = "skip_thought_signature_validator"
_EXTENSIONS = {"application/pdf": ".pdf"}


def encode_messages(request: Request, translation: Translation, postscript: str = "") -> list[Wire]:
    """All messages, the system's with a `postscript` of ours."""
    encoder = _Encoder(translation)
    messages = [*encoder.system(request.system, postscript)]
    for message in request.messages:
        messages += encoder.turn(message)
    if translation.partial and messages and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]:
        messages[-1]["partial"] = True
    return messages


def joined_text(parts: Iterable[Part]) -> str:
    """The text of an answer.  What a call or a thought stood between are two paragraphs, else the text is one."""
    text = ""
    apart = False
    for part in parts:
        if isinstance(part, Text):
            text += f"\n\n{part.text}" if apart and text and part.text else part.text
            apart = False
        else:
            apart = True
    return text


class _Encoder:
    """Turns for one provider."""

    def __init__(self, translation: Translation) -> None:
        self._translation = translation

    def system(self, texts: Iterable[Text], postscript: str) -> Iterator[Wire]:
        """The message before all others, if there is something to tell."""
        told = [*_without_billing(texts)]
        if postscript:
            told.append(Text(postscript))
        if any(self._mark(text.cache_control) for text in told):
            yield {"role": "system", "content": self._parts(told)}
        elif told:
            yield {"role": "system", "content": "\n\n".join(text.text for text in told)}

    def turn(self, message: Message) -> Iterator[Wire]:
        """The messages of one turn; none if nothing of it can be said."""
        if message.role == "assistant":
            yield from self._answer(message.parts)
            return
        moved: list[Said] = []
        own: list[Said] = []
        for part in message.parts:
            match part:
                case ToolResult():
                    result, media = self._result(part)
                    yield result
                    moved += media
                case Text(text=""):
                    pass
                case Text() | Image() | Document():
                    own.append(part)
        if parts := [*moved, *own]:
            yield {"role": message.role, "content": self._content(parts)}

    # --- the assistant's

    def _answer(self, parts: Sequence[Part]) -> Iterator[Wire]:
        texts = [part for part in parts if isinstance(part, Text)]
        calls = [self._call(part) for part in parts if isinstance(part, ToolCall)]
        content = self._parts(texts) if any(self._mark(text.cache_control) for text in texts) else joined_text(parts)
        if not content and not calls:
            return  # a thought alone: several providers refuse a message without content
        message: Wire = {"role": "assistant", "content": content or None}
        replay = self._translation.replay_thinking
        thought = "\n\n".join(part.text for part in parts if isinstance(part, Thinking) and part.text)
        if not thought and calls and self._translation.needs_thinking:
            thought = _NO_THOUGHT
        if thought and replay != "off":
            message["reasoning" if replay == "reasoning" else "reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        yield message

    def _call(self, call: ToolCall) -> Wire:
        function = {"name": short_name(call.name), "arguments": call.arguments if call.arguments.strip() else "{}"}
        # Kimi's built-in tools are named `$…`, which no function can be.
        type = "builtin_function" if call.name.startswith("$") else "function"
        wire: Wire = {"id": call.id, "type": type, "function": function}
        if self._translation.call_signatures:
            wire["extra_content"] = {"google": {"thought_signature": _ANY_SIGNATURE}}
        return wire

    # --- the tools'

    def _result(self, result: ToolResult) -> tuple[Wire, list[Said]]:
        """The message, and what has to stand in the user's for want of a place here."""
        texts: list[Text] = []
        media: list[Said] = []
        for part in result.parts:
            if isinstance(part, Image) or (isinstance(part, Document) and self._is_file(part)):
                media.append(part)
            else:
                texts.append(part if isinstance(part, Text) else Text(_document_text(part), part.cache_control))
        if media:
            media.insert(0, Text(f"From the result of the tool call {result.call_id}:"))
            if not texts:
                texts.append(Text("The result stands in the next message."))
        if result.is_error and not (texts and texts[0].text.lower().startswith("error")):
            first = texts.pop(0) if texts else Text("")
            texts.insert(0, Text(f"Error: {first.text}".rstrip(), first.cache_control))
        mark = self._mark(result.cache_control) or next(
            filter(None, (self._mark(t.cache_control) for t in texts)), None
        )
        content: str | list[Wire] = "\n".join(text.text for text in texts)
        if mark and content:
            content = [{"type": "text", "text": content, "cache_control": mark}]
        return {"role": "tool", "tool_call_id": result.call_id, "content": content}, media

    # --- parts

    def _content(self, parts: Sequence[Said]) -> str | list[Wire]:
        match parts:
            case [Text(text=text, cache_control=mark)] if not self._mark(mark):
                return text
            case _:
                return self._parts(parts)

    def _parts(self, parts: Iterable[Said]) -> list[Wire]:
        encoded: list[Wire] = []
        for part in parts:
            match part:
                case Text(text=text):
                    wire: Wire = {"type": "text", "text": text}
                case Image():
                    wire = {"type": "image_url", "image_url": _image(part)}
                case Document() if self._is_file(part):
                    if part.context:
                        encoded.append({"type": "text", "text": part.context})
                    wire = {"type": "file", "file": _file(part)}
                case Document():
                    wire = {"type": "text", "text": _document_text(part)}
            if mark := self._mark(part.cache_control):
                wire["cache_control"] = mark
            encoded.append(wire)
        return encoded

    def _mark(self, mark: CacheControl) -> CacheControl:
        return mark if self._translation.cache_control else None

    def _is_file(self, document: Document) -> bool:
        return self._translation.documents == "file" and bool(document.data)


def _without_billing(texts: Iterable[Text]) -> Iterator[Text]:
    for text in texts:
        if not text.text.startswith(_BILLING):
            if text.text:
                yield text
        elif rest := text.text.partition("\n")[2].strip("\n"):
            yield Text(rest, text.cache_control)


def _image(image: Image) -> Wire:
    wire = {"url": image.url or f"data:{image.media_type};base64,{image.data}"}
    if image.detail is not None:
        wire["detail"] = image.detail
    return wire


def _file(document: Document) -> Wire:
    name = document.title or f"document{_EXTENSIONS.get(document.media_type, '')}"
    return {"filename": name, "file_data": f"data:{document.media_type};base64,{document.data}"}


def _document_text(document: Document) -> str:
    """A document for a model that reads text only: what it says, or that it is there."""
    title = "" if document.title is None else ' title="{}"'.format(document.title.replace('"', "'"))
    lines = [f"<document{title}>"]
    if document.context:
        lines.append(document.context)
    if document.url:
        lines.append(f"[It lies at {document.url} and can't be read here.]")
    elif document.data:
        lines.append(f"[It is of the type {document.media_type} and can't be read here.]")
    else:
        lines.append(document.text)
    return "\n".join([*lines, "</document>"])
