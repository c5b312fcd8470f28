"""Anthropic's request as types, and what the gateway's own routes are asked.

`worker.dialects.anthropic.decode_request` reads a body field by field and keeps what it does not know, so there are no
such types to take; the tests hold the kinds of blocks here against those that are read there.
"""

from typing import Any, Literal

from msgspec import Struct

from worker.dialects.neutral import CacheControl


class _Block(Struct, tag_field="type", kw_only=True):
    cache_control: CacheControl = None


class TextBlock(_Block, tag="text", kw_only=True):
    text: str


class Base64Source(Struct, tag_field="type", tag="base64"):
    media_type: str
    data: str


class UrlSource(Struct, tag_field="type", tag="url"):
    url: str


class TextSource(Struct, tag_field="type", tag="text"):
    data: str
    media_type: str = "text/plain"


class ImageBlock(_Block, tag="image", kw_only=True):
    source: Base64Source | UrlSource


class ContentSource(Struct, tag_field="type", tag="content"):
    content: str | list[TextBlock | ImageBlock]


class DocumentBlock(_Block, tag="document", kw_only=True):
    source: Base64Source | UrlSource | TextSource | ContentSource
    title: str | None = None
    context: str | None = None


class SearchResultBlock(_Block, tag="search_result", kw_only=True):
    content: list[TextBlock]
    title: str | None = None
    source: str | None = None


class ToolReferenceBlock(_Block, tag="tool_reference", kw_only=True):
    tool_name: str


class ToolResultBlock(_Block, tag="tool_result", kw_only=True):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock] | None = None
    is_error: bool | None = None


class ThinkingBlock(_Block, tag="thinking", kw_only=True):
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(_Block, tag="redacted_thinking", kw_only=True):
    data: str


class ToolUseBlock(_Block, tag="tool_use", kw_only=True):
    id: str
    name: str
    input: dict[str, Any]


class UserTurn(Struct, tag_field="role", tag="user"):
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolResultBlock]


class AssistantTurn(Struct, tag_field="role", tag="assistant"):
    content: str | list[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock]


class SystemTurn(Struct, tag_field="role", tag="system"):
    content: str | list[TextBlock]


class Tool(Struct, kw_only=True):
    """A tool that the client runs; those that the provider runs have another `type`, and fields of their own."""

    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl = None


class ToolChoice(Struct):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    type: str
    budget_tokens: int | None = None


class Metadata(Struct):
    user_id: str | None = None


class OutputFormat(Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class MessagesRequest(Struct, kw_only=True):
    """A message request; fields of other names reach providers that speak this dialect."""

    model: str
    messages: list[UserTurn | AssistantTurn | SystemTurn]
    system: str | list[TextBlock] | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    session_id: str | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    thinking: Thinking | None = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None


class AgentMessage(Struct):
    """A message of a user's to the agent."""

    message: str
    session_id: str | None = None
    model: str | None = None


class AgentSaying(Struct):
    """What a client of `/ws/stream` says: a message, or that the run is to end."""

    type: Literal["message", "cancel"] = "message"
    message: str | None = None
    session_id: str | None = None
    model: str | None = None


class ChatKitUser(Struct):
    """Whom a ChatKit session belongs to; the body may be left out."""

    user: str | None = None


class Key(Struct):
    """A key of this gateway."""

    key: str
