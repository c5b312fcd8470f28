"""The messages of a chat completion request as a conversation.

    system, developer   `Request.system` before the first turn, a turn of its own later
    user                a user's turn
    assistant           an assistant's turn: thought, then text, then calls
    tool                a result in the user's turn, before what he says himself

Neighbours of one role are one turn, and what says nothing is left out: Anthropic's dialect knows no other
conversations.
"""

import binascii
from collections.abc import Iterator

import msgspec
from msgspec import Raw, Struct

from shared.errors import DialectError
from worker.dialects.arguments import object_text
from worker.dialects.fields import decoded
from worker.dialects.neutral import (
    CacheControl,
    Document,
    Image,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from worker.dialects.turns import merged

# --- the wire; null counts as absent wherever it changes nothing


class _Text(Struct, tag_field="type", tag="text"):
    text: str
    cache_control: CacheControl = None


class _Refusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


class _ImageUrl(Struct):
    url: str
    detail: str | None = None


class _Image(Struct, tag_field="type", tag="image_url"):
    image_url: _ImageUrl | str
    """A bare string is Mistral's way."""
    cache_control: CacheControl = None


class _HeldFile(Struct):
    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class _File(Struct, tag_field="type", tag="file"):
    file: _HeldFile
    cache_control: CacheControl = None


class _Audio(Struct, tag_field="type", tag="input_audio"):
    pass


class _Video(Struct, tag_field="type", tag="video_url"):
    pass


_Said = str | list[_Text | _Image | _File | _Audio | _Video] | None


class _System(Struct, tag_field="role", tag="system"):
    content: str | list[_Text] | None = None


class _Developer(_System, tag="developer"):
    pass


class _User(Struct, tag_field="role", tag="user"):
    content: _Said = None


class _CalledFunction(Struct):
    name: str
    arguments: Raw = Raw()
    """A string that holds JSON; some clients send the object itself."""


class _Call(Struct):
    id: str
    function: _CalledFunction | None = None
    type: str | None = None


class _Assistant(Struct, tag_field="role", tag="assistant"):
    content: str | list[_Text | _Refusal] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: Raw = Raw(b"null")
    audio: Raw = Raw(b"null")


class _Tool(Struct, tag_field="role", tag="tool"):
    tool_call_id: str
    content: _Said = None


class _Function(Struct, tag_field="role", tag="function"):
    pass


WireMessage = _System | _Developer | _User | _Assistant | _Tool | _Function
_message: msgspec.json.Decoder[WireMessage] = msgspec.json.Decoder(WireMessage)
_text: msgspec.json.Decoder[str] = msgspec.json.Decoder(str)

# --- the conversation


def decode_messages(messages: list[Raw]) -> tuple[tuple[Text, ...], tuple[Message, ...]]:
    """What stands before the first turn, and the turns.  `DialectError` names the field that is wrong."""
    system: list[Text] = []
    turns: list[Message] = []
    for index, raw in enumerate(messages):
        path = f"messages[{index}]"
        role, parts = _turn(decoded(raw, _message, path), path)
        if role == "system" and not turns:
            system += [part for part in parts if isinstance(part, Text)]
        elif parts:
            turns.append(Message(role, tuple(parts)))
    return tuple(system), merged(turns)


def _turn(message: WireMessage, path: str) -> tuple[Role, list[Part]]:
    match message:
        case _System(content=content):
            return "system", [*_texts(content)]
        case _User(content=None):
            raise DialectError(f"`{path}.content` is required: a string, or a list of parts")
        case _User(content=content):
            return "user", [*_said(content, f"{path}.content")]
        case _Assistant():
            return "assistant", [*_answered(message, path)]
        case _Tool(tool_call_id=id, content=content):
            return "user", [ToolResult(id, tuple(_said(content, f"{path}.content")))]
        case _:
            raise DialectError(f'`{path}.role`: functions are no longer spoken; answer a tool call with role "tool"')


def _texts(content: str | list[_Text] | None) -> Iterator[Text]:
    for part in [_Text(content)] if isinstance(content, str) else content or []:
        if part.text:
            yield Text(part.text, part.cache_control)


def _said(content: _Said, path: str) -> Iterator[Text | Image | Document]:
    for index, part in enumerate([_Text(content)] if isinstance(content, str) else content or []):
        here = f"{path}[{index}]"
        match part:
            case _Text(text=text, cache_control=mark):
                if text:
                    yield Text(text, mark)
            case _Image():
                yield _image(part, f"{here}.image_url")
            case _File(file=held, cache_control=mark):
                yield _file(held, mark, f"{here}.file")
            case _:
                kind = "audio" if isinstance(part, _Audio) else "video"
                raise DialectError(f"`{here}`: this model's provider takes no {kind} from OpenAI clients")


def _answered(message: _Assistant, path: str) -> Iterator[Part]:
    if bytes(message.function_call) != b"null":
        raise DialectError(f"`{path}.function_call`: function calls are no longer spoken; use `tool_calls`")
    if bytes(message.audio) != b"null":
        raise DialectError(f"`{path}.audio`: this model's provider knows no earlier audio; send its transcript as text")
    # OpenRouter tells the same thought under both names.
    if thought := message.reasoning_content or message.reasoning:
        yield Thinking(thought)
    content = message.content
    for part in [_Text(content)] if isinstance(content, str) else content or []:
        match part:
            case _Text(text=text, cache_control=mark):
                if text:
                    yield Text(text, mark)
            case _Refusal(refusal=text):
                if text:
                    yield Text(text)
    if message.refusal:
        yield Text(message.refusal)
    for index, call in enumerate(message.tool_calls or ()):
        here = f"{path}.tool_calls[{index}]"
        if call.function is None or call.type not in (None, "function"):
            raise DialectError(f"`{here}`: only calls of functions can be translated for this model's provider")
        arguments = _arguments(call.function.arguments, f"{here}.function.arguments")
        yield ToolCall(call.id, call.function.name, arguments)


def _arguments(raw: Raw, path: str) -> str:
    written = bytes(raw)
    try:
        text = decoded(raw, _text, path) if written.startswith(b'"') else written.decode()
    except UnicodeDecodeError as error:
        raise DialectError(f"`{path}`: {error}") from None
    arguments = object_text(text)
    if arguments is None:
        raise DialectError(f"`{path}`: not the text of a JSON object")
    return arguments


# --- media


def _image(part: _Image, path: str) -> Image:
    wire = part.image_url
    if isinstance(wire, str):
        wire = _ImageUrl(wire)
    held = _data_in(wire.url, path)
    if held is None:
        return Image(url=wire.url, detail=wire.detail, cache_control=part.cache_control)
    return Image(*held, detail=wire.detail, cache_control=part.cache_control)


def _file(held: _HeldFile, mark: CacheControl, path: str) -> Image | Document:
    written, title = held.file_data, held.filename
    if not written:
        raise DialectError(f"`{path}`: uploaded files are unknown to this model's provider; send `file_data`")
    if written.startswith(("https://", "http://")):  # OpenRouter's way
        return Document("application/pdf", url=written, title=title, cache_control=mark)
    path = f"{path}.file_data"
    media_type, data = _data_in(written, path) or ("", written)
    if not media_type:
        if title is None or not title.lower().endswith(".pdf"):
            raise DialectError(f"`{path}`: not a data URL (`data:<media type>;base64,<data>`)")
        media_type = "application/pdf"
    if media_type.startswith("image/"):
        return Image(media_type, data, cache_control=mark)
    if not media_type.startswith("text/") and media_type != "application/json":
        return Document(media_type, data=data, title=title, cache_control=mark)
    try:
        text = binascii.a2b_base64(data).decode()
    except ValueError as error:
        raise DialectError(f"`{path}`: not a text in base64: {error}") from None
    return Document(text=text, title=title, cache_control=mark)


def _data_in(url: str, path: str) -> tuple[str, str] | None:
    """Media type and base64 of a data URL; None if it is another kind of URL."""
    if url[:5].lower() != "data:":
        return None
    head, _, data = url.partition(",")
    kind, *parameters = head[5:].lower().split(";")
    if not kind or not data or "base64" not in parameters:
        raise DialectError(f"`{path}`: a data URL has to be `data:<media type>;base64,<data>`")
    return ("image/jpeg" if kind == "image/jpg" else kind), data
