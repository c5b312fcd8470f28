"""What an Anthropic client asks, as both dialects understand it.

What is unknown here and can't be left out without a loss (a kind of block, a kind of source) is an error that names
its path, for the client to read; unknown fields are wishes that no other provider could grant, and are left out.
"""

from typing import get_args

import msgspec
from msgspec import Raw

from shared.errors import DialectError
from worker.dialects.anthropic.decode_content import decode_content, decode_texts
from worker.dialects.fault import quoted
from worker.dialects.fields import Fields
from worker.dialects.neutral import (
    Effort,
    Message,
    OutputFormat,
    Reasoning,
    Request,
    Role,
    ServerTool,
    Text,
    Tool,
    ToolChoice,
)
from worker.dialects.turns import merged


def decode_request(fields: dict[str, Raw]) -> Request:
    """The request in a body's fields; `DialectError` names what can't be understood."""
    body = Fields(fields)
    config = body.object("output_config") or Fields({}, "output_config")
    metadata = body.object("metadata")
    choice = body.object("tool_choice")
    messages = merged(_message(item) for item in body.objects("messages"))
    system = decode_texts(body, "system")
    if messages and messages[0].role == "system":
        system += tuple(part for part in messages[0].parts if isinstance(part, Text))
        messages = messages[1:]
    return Request(
        system=system,
        messages=messages,
        tools=tuple(_tool(item) for item in body.objects("tools")),
        tool_choice=None if choice is None else _tool_choice(choice),
        parallel_tool_calls=False if choice is not None and choice.flag("disable_parallel_tool_use") else None,
        max_tokens=_max_tokens(body),
        temperature=body.number("temperature"),
        top_p=body.number("top_p"),
        top_k=body.integer("top_k"),
        stop=tuple(body.texts("stop_sequences")),
        reasoning=_reasoning(body),
        effort=_effort(config),
        output_format=_output_format(config.object("format") or body.object("output_format")),
        user=None if metadata is None else metadata.text("user_id"),
        stream=bool(body.flag("stream")),
    )


def _max_tokens(body: Fields) -> int | None:
    wanted = body.integer("max_tokens")
    if wanted is not None and wanted < 1:
        raise DialectError("`max_tokens`: has to be at least 1")
    return wanted


_ROLES: tuple[Role, ...] = get_args(Role)


def _message(fields: Fields) -> Message:
    wanted = fields.needed("role")
    role = next((role for role in _ROLES if role == wanted), None)
    if role is None:
        raise DialectError(f"`{fields.at('role')}`: there is no {quoted(wanted)}; there are {', '.join(_ROLES)}")
    return Message(role, decode_content(fields, role))


def _tool(fields: Fields) -> Tool | ServerTool:
    kind = fields.text("type") or "custom"
    if kind == "function":
        raise DialectError(f"`{fields.path}`: that is OpenAI's form; Anthropic's has `name` and `input_schema`")
    name = fields.text("name") or ""
    if kind != "custom":
        return ServerTool(name=name, type=kind, definition=Raw(msgspec.json.encode(fields.raw)))
    schema = fields.object_raw("input_schema")
    if not name or schema is None:
        raise DialectError(f"`{fields.at('input_schema' if name else 'name')}` is required")
    return Tool(
        name=name,
        schema=schema,
        description=fields.text("description"),
        strict=fields.flag("strict"),
        cache_control=fields.plain("cache_control"),
    )


def _tool_choice(fields: Fields) -> ToolChoice:
    match fields.needed("type"):
        case "auto":
            return ToolChoice("auto")
        case "any":
            return ToolChoice("required")
        case "none":
            return ToolChoice("none")
        case "tool":
            return ToolChoice("named", fields.needed("name"))
        case other:
            raise DialectError(f"`{fields.at('type')}`: there is no {quoted(other)}; there are auto, any, tool, none")


def _reasoning(body: Fields) -> Reasoning | None:
    thinking = body.object("thinking")
    if thinking is None:
        return None
    match thinking.needed("type"):
        case "enabled":
            return Reasoning("enabled", thinking.integer("budget_tokens"))
        case "adaptive":
            return Reasoning("adaptive")
        case "disabled":
            return Reasoning("disabled")
        case _:  # new models bring new words, and clients say them to all models
            return Reasoning("adaptive")


def _effort(config: Fields) -> Effort | None:
    """A word that is new to us says nothing: new models bring new ones, and clients ask all models for them."""
    wanted = config.text("effort")
    efforts: tuple[Effort, ...] = get_args(Effort)
    return next((effort for effort in efforts if effort == wanted), None)


def _output_format(fields: Fields | None) -> OutputFormat | None:
    if fields is None:
        return None
    kind = fields.needed("type")
    if kind != "json_schema":
        raise DialectError(f"`{fields.at('type')}`: there is no {quoted(kind)}; there is json_schema")
    schema = fields.object_raw("schema")
    if schema is None:
        raise DialectError(f"`{fields.at('schema')}` is required")
    return OutputFormat(schema=schema)
