"""How many tokens a prompt is: its text, and a guess at what is no text.  Cheap; nothing here decodes a whole image."""

from collections.abc import Iterable, Iterator
from typing import assert_never

from worker.dialects.image_size import image_size
from worker.dialects.neutral import (
    Document,
    Image,
    Part,
    RedactedThinking,
    Request,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from worker.dialects.tokens import CHARS_PER_TOKEN

# What chat templates put around a turn (role, borders), and around a tool's definition.
TOKENS_PER_MESSAGE = 4
TOKENS_PER_TOOL = 8
# Anthropic's own rule, "Vision" in its documentation: an image is scaled to fit, then each 750 pixels are a token.
MAX_IMAGE_EDGE = 1568
PIXELS_PER_TOKEN = 750
MAX_IMAGE_TOKENS = 1600
# A page of a PDF costs 1,500 to 3,000 tokens (Anthropic, "PDF support") and has some 50 to 100 KB; up to 100 are read.
BYTES_PER_DOCUMENT_TOKEN = 32
MIN_DOCUMENT_TOKENS = 1500
MAX_DOCUMENT_TOKENS = 300_000


def texts_of(request: Request) -> Iterator[str]:
    """All text that the model reads."""
    for text in request.system:
        yield text.text
    for message in request.messages:
        for part in message.parts:
            yield from _texts_in(part)
    for tool in request.tools:
        yield from _texts_about(tool)
    if request.output_format is not None:
        yield bytes(request.output_format.schema).decode("utf-8", "replace")


def media_tokens(request: Request) -> int:
    """Tokens of images, and of documents that are no text."""
    total = 0
    for message in request.messages:
        for part in message.parts:
            total += _media_tokens(part.parts if isinstance(part, ToolResult) else (part,))
    return total


def frame_tokens(request: Request) -> int:
    """Tokens of what stands around turns and tools: more than 0 for all but an empty request."""
    turns = len(request.messages) + bool(request.system)
    return turns * TOKENS_PER_MESSAGE + len(request.tools) * TOKENS_PER_TOOL


def estimate_tokens(request: Request) -> int:
    """All of the prompt, roughly: without a tokenizer, and so at once."""
    chars = sum(map(len, texts_of(request)))
    return chars // CHARS_PER_TOKEN + media_tokens(request) + frame_tokens(request)


def _texts_in(part: Part) -> Iterator[str]:
    match part:
        case Text(text) | Thinking(text):
            yield text
        case ToolCall(_, name, arguments):
            yield name
            yield arguments
        case ToolResult(parts=parts):
            for held in parts:
                yield from _texts_in(held)
        case Document(text=text, title=title, context=context):
            yield from filter(None, (title, context, text))
        case Image() | RedactedThinking():
            pass
        case _:
            assert_never(part)


def _texts_about(tool: Tool | ServerTool) -> Iterator[str]:
    yield tool.name
    if isinstance(tool, ServerTool):
        yield bytes(tool.definition).decode("utf-8", "replace")
    else:
        yield tool.description or ""
        yield bytes(tool.schema).decode("utf-8", "replace")


def _media_tokens(parts: Iterable[Part]) -> int:
    total = 0
    for part in parts:
        match part:
            case Image():
                total += image_tokens(part)
            case Document(text=""):
                total += document_tokens(part)
            case RedactedThinking(data):
                total += len(data) // CHARS_PER_TOKEN
            case _:
                pass
    return total


def image_tokens(image: Image) -> int:
    """An image's tokens, by the size that its first bytes tell; the most there can be where they don't."""
    size = image_size(image.data) if image.data else None
    if size is None:
        return MAX_IMAGE_TOKENS
    width, height = size
    scale = min(1.0, MAX_IMAGE_EDGE / max(width, height))
    pixels = max(1, int(width * scale)) * max(1, int(height * scale))
    return min(MAX_IMAGE_TOKENS, max(1, round(pixels / PIXELS_PER_TOKEN)))


def document_tokens(document: Document) -> int:
    """The tokens of a document that is no text, by its size; a single page's where only its place is known."""
    size = len(document.data) * 3 // 4
    if document.media_type.startswith("text/"):
        return size // CHARS_PER_TOKEN
    return min(MAX_DOCUMENT_TOKENS, max(MIN_DOCUMENT_TOKENS, size // BYTES_PER_DOCUMENT_TOKEN))
