"""What both dialects meet in: a conversation, a whole answer, and the events of an answer that streams.

    client body ─▶ Request ─▶ upstream body        upstream bytes ─▶ Event, Event, … ─▶ client bytes
                                                   upstream body  ─▶ Answer          ─▶ client body

It holds what either dialect can say.  What only one of them can say is kept where the other has a place for it in
spirit, and is dropped by the encoder that has none; docs/translation.md lists those.
"""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Raw, Struct, structs

CacheControl = dict[str, Any] | None
"""Anthropic's mark on a part up to which a prompt may be cached; other dialects have no word for it."""

# --- the conversation


class Text(Struct, frozen=True, tag=True):
    """Plain text."""

    text: str
    cache_control: CacheControl = None


class Image(Struct, frozen=True, tag=True):
    """A picture: base64 `data` of a `media_type`, or the `url` where it lies."""

    media_type: str = ""
    data: str = ""
    url: str = ""
    detail: str | None = None
    """OpenAI's `low`, `high`, `auto`."""
    cache_control: CacheControl = None


class Document(Struct, frozen=True, tag=True):
    """A document to read: its `text`, or base64 `data` of a `media_type`, or the `url` where it lies."""

    media_type: str = "text/plain"
    text: str = ""
    data: str = ""
    url: str = ""
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl = None


class Thinking(Struct, frozen=True, tag=True):
    """What a model thought; Anthropic signs it."""

    text: str
    signature: str = ""


class RedactedThinking(Struct, frozen=True, tag=True):
    """Thought that only its author can read."""

    data: str


class ToolCall(Struct, frozen=True, tag=True):
    """A model's wish to have a tool run; `arguments` is the text of a JSON object, as the model wrote it."""

    id: str
    name: str
    arguments: str
    cache_control: CacheControl = None


class ToolResult(Struct, frozen=True, tag=True):
    """What a tool said: texts, images and documents."""

    call_id: str
    parts: tuple["Text | Image | Document", ...] = ()
    is_error: bool = False
    cache_control: CacheControl = None


Part = Text | Image | Document | Thinking | RedactedThinking | ToolCall | ToolResult
Role = Literal["system", "user", "assistant"]


class Message(Struct, frozen=True):
    """One turn.  Results of tools stand in the user's, before his own words; thoughts and calls in the assistant's."""

    role: Role
    parts: tuple[Part, ...]


class Tool(Struct, frozen=True):
    """A tool that the client can run.  `schema` is the JSON schema of its arguments, to the byte."""

    name: str
    schema: Raw
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl = None


class ServerTool(Struct, frozen=True):
    """A tool that the provider itself runs (web search and the like), as its own dialect describes it."""

    name: str
    type: str
    definition: Raw


class ToolChoice(Struct, frozen=True):
    """Whether the model may, must or must not call tools; `name` is the one it must call."""

    mode: Literal["auto", "required", "named", "none"]
    name: str | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(Struct, frozen=True):
    """How much to think.  `adaptive`: as much as the model likes."""

    mode: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = None


class OutputFormat(Struct, frozen=True):
    """The JSON that the answer has to be; without a schema any JSON object."""

    schema: Raw = Raw()
    name: str | None = None
    strict: bool | None = None


class Request(Struct, frozen=True, kw_only=True):
    """A conversation, and how it is to go on."""

    system: tuple[Text, ...] = ()
    """What stands before the first turn."""
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool | ServerTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    reasoning: Reasoning | None = None
    effort: Effort | None = None
    output_format: OutputFormat | None = None
    user: str | None = None
    stream: bool = False


# --- the answer

StopReason = Literal["end", "length", "tools", "sequence", "refusal", "pause", "context"]
"""`pause`: the provider wants to be asked to go on; `context`: the context window is full."""
CUT_SHORT: tuple[StopReason, ...] = ("length", "context")
"""Answers that end like this may hold a call of which a part is missing."""


def fitting_stop(stop: StopReason, *, called_tools: bool) -> StopReason:
    """`stop` as it fits an answer with or without tool calls: not every host's word does."""
    if stop in ("end", "tools"):
        return "tools" if called_tools else "end"
    return stop


class Usage(Struct, frozen=True, kw_only=True):
    """Counts in tokens; None: not told.  `prompt_tokens` holds all of the prompt, cached or not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cache_read_tokens: int | None = None
    """Of the prompt, what came from a cache…"""
    cache_write_tokens: int | None = None
    """…and what was put into one."""
    reasoning_tokens: int | None = None
    """Of the completion, what was thought."""

    def updated(self, later: "Usage") -> "Usage":
        """These counts, and what `later` tells in their place."""
        told = {name: count for name, count in structs.asdict(later).items() if count is not None}
        return structs.replace(self, **told)


class Answer(Struct, frozen=True, kw_only=True):
    """A whole answer.  `parts` holds `Text`, `Thinking`, `RedactedThinking` and `ToolCall`, in the model's order."""

    parts: tuple[Part, ...]
    stop: StopReason
    stop_sequence: str | None = None
    """The one that was met, where the upstream tells."""
    usage: Usage = Usage()


class Begin(Struct, frozen=True):
    """The upstream has begun to answer; comes at most once, before all else."""

    usage: Usage | None = None
    """What is known of the prompt by now."""


class TextDelta(Struct, frozen=True):
    """More of the answer's text."""

    text: str


class ThinkingDelta(Struct, frozen=True):
    """More thought."""

    text: str


class SignatureDelta(Struct, frozen=True):
    """The signature of the thought that has just ended."""

    signature: str


class Redacted(Struct, frozen=True):
    """A whole thought that only its author can read."""

    data: str


class ToolStart(Struct, frozen=True):
    """A tool call begins.  `index` names it among the answer's calls, from 0 up; `id` is "" where none was given."""

    index: int
    id: str
    name: str


class ToolDelta(Struct, frozen=True):
    """More of the arguments of the call `index`, which has begun.  Fragments of several calls may be mixed."""

    index: int
    text: str


class Apart(Struct, frozen=True):
    """What follows is a part of its own, though it may be of the same kind.  No upstream says so; a run does."""


class Stop(Struct, frozen=True):
    """The model has ended its answer; only `UsageTold` may follow."""

    reason: StopReason
    sequence: str | None = None


class UsageTold(Struct, frozen=True):
    """What the upstream counted; a later one replaces what it tells anew."""

    usage: Usage


class Failed(Struct, frozen=True):
    """The upstream's own error inside the stream; nothing follows."""

    message: str
    type: str | None = None
    """The upstream's word for it, if it is one that both dialects know: `overloaded_error`, `rate_limit_error`…"""
    data: bytes = b""
    """All of it, as the upstream told it."""


Event = (
    Begin
    | TextDelta
    | ThinkingDelta
    | SignatureDelta
    | Redacted
    | ToolStart
    | ToolDelta
    | Apart
    | Stop
    | UsageTold
    | Failed
)


def tells_more(events: Iterable[Event]) -> bool:
    """Whether they tell more than that an answer begins, and what it costs: something that a client would see."""
    return not all(isinstance(event, Begin | UsageTold) for event in events)
