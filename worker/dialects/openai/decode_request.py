"""A chat completion request of a client, as both dialects understand it.

What only OpenAI can say (`seed`, `logprobs`, penalties, `name` of a user, …) is dropped; what would change the
meaning of the answer by being dropped is refused.
"""

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from shared.errors import DialectError
from worker.dialects.fields import decoded
from worker.dialects.neutral import (
    CacheControl,
    Effort,
    OutputFormat,
    Reasoning,
    Request,
    ServerTool,
    Tool,
    ToolChoice,
)
from worker.dialects.openai.decode_messages import decode_messages

_Count = Annotated[int, Meta(ge=1, le=2**53)]
_NULL = Raw(b"null")
_NO_ARGUMENTS = Raw(b'{"type":"object","properties":{}}')

# --- the wire; null counts as absent wherever it changes nothing


class _Thinking(Struct):
    """Kimi's switch."""

    type: str
    budget_tokens: _Count | None = None


class _Reasoning(Struct):
    """OpenRouter's."""

    effort: str | None = None
    max_tokens: _Count | None = None
    enabled: bool | None = None


class _JsonSchema(Struct):
    schema: Raw = _NULL
    name: str | None = None
    strict: bool | None = None


class _ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _Named(Struct):
    name: str


class _ToolChoice(Struct):
    type: str
    function: _Named | None = None


class _Function(Struct):
    name: str
    description: str | None = None
    parameters: Raw = _NULL
    strict: bool | None = None


class _FunctionTool(Struct):
    function: _Function
    cache_control: CacheControl = None


class _ToolKind(Struct):
    type: str | None = None
    name: Any = None


class Options(Struct):
    """Everything beside the messages."""

    tools: list[Raw] | None = None
    tool_choice: str | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: _Count | None = None
    max_tokens: _Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**53)] | None = None
    """Not OpenAI's, and yet sent by many; 0 and -1 mean that it is off."""
    stop: str | list[str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    """OpenAI's new name for `user`."""
    reasoning_effort: str | None = None
    thinking: _Thinking | None = None
    reasoning: _Reasoning | None = None
    response_format: _ResponseFormat | None = None
    stream: bool | None = None
    n: int | None = None
    modalities: list[str] | None = None
    functions: Raw = _NULL
    function_call: Raw = _NULL


_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(Options)
}
_raws: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])
_tool_kind: msgspec.json.Decoder[_ToolKind] = msgspec.json.Decoder(_ToolKind)
_function_tool: msgspec.json.Decoder[_FunctionTool] = msgspec.json.Decoder(_FunctionTool)


def decode_request(fields: dict[str, Raw]) -> Request:
    """The request in a body's `fields`; `DialectError` names the field that is wrong, for the client to read."""
    known = {name: decoded(fields[name], decoder, name) for name, decoder in _decoders.items() if name in fields}
    options = Options(**known)
    _refuse(options)
    system, messages = decode_messages(decoded(fields["messages"], _raws, "messages"))
    reasoning, effort = _reasoning(options)
    stop = [options.stop] if isinstance(options.stop, str) else options.stop or []
    return Request(
        system=system,
        messages=messages,
        tools=tuple(_tool(raw, f"tools[{index}]") for index, raw in enumerate(options.tools or ())),
        tool_choice=_tool_choice(options.tool_choice),
        parallel_tool_calls=options.parallel_tool_calls,
        max_tokens=options.max_completion_tokens or options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k if options.top_k is not None and options.top_k > 0 else None,
        stop=tuple(sequence for sequence in stop if sequence),
        reasoning=reasoning,
        effort=effort,
        output_format=_output_format(options.response_format),
        user=options.user or options.safety_identifier or None,
        stream=bool(options.stream),
    )


def _refuse(options: Options) -> None:
    if bytes(options.functions) not in (b"null", b"[]"):
        raise DialectError("`functions`: functions are no longer spoken; use `tools`")
    if bytes(options.function_call) != b"null":
        raise DialectError("`function_call`: functions are no longer spoken; use `tool_choice`")
    if options.n is not None and options.n != 1:
        raise DialectError("`n`: this model's provider gives one answer to a request; ask it several times")
    if "audio" in (options.modalities or ()):
        raise DialectError('`modalities`: this model\'s provider answers in text only; leave "audio" out')


def _tool(raw: Raw, path: str) -> Tool | ServerTool:
    kind = decoded(raw, _tool_kind, path)
    match kind.type:
        case None | "function":
            pass
        case "custom":
            raise DialectError(f"`{path}.type`: this model's provider knows no custom tools; use a function")
        case type:
            return ServerTool(kind.name if isinstance(kind.name, str) else type, type, raw)
    tool = decoded(raw, _function_tool, path)
    function = tool.function
    schema = _schema(function.parameters, f"{path}.function.parameters") or _NO_ARGUMENTS
    return Tool(function.name, schema, function.description, function.strict, tool.cache_control)


def _schema(raw: Raw, path: str) -> Raw | None:
    written = bytes(raw)
    if written == b"null":
        return None
    if not written.startswith(b"{"):
        raise DialectError(f"`{path}`: a JSON schema has to be an object")
    return raw


def _tool_choice(choice: str | _ToolChoice | None) -> ToolChoice | None:
    match choice:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(choice)
        case "any":  # Mistral's word
            return ToolChoice("required")
        case _ToolChoice(type="function", function=_Named(name=name)):
            return ToolChoice("named", name)
        case _:
            raise DialectError(
                '`tool_choice`: has to be "auto", "none", "required" or {"type": "function", "function": {"name": …}} '
                "for this model's provider"
            )


def _reasoning(options: Options) -> tuple[Reasoning | None, Effort | None]:
    """How much to think, whichever of the three ways to say so the client chose.

    Words that are new to us, and hosts' own ("default", "auto"), leave it to the model.
    """
    asked = options.reasoning or _Reasoning()
    wanted = options.reasoning_effort or asked.effort
    efforts: tuple[Effort, ...] = get_args(Effort)
    effort = next((effort for effort in efforts if effort == wanted), None)
    mode: Literal["enabled", "adaptive", "disabled"] | None = None
    budget = asked.max_tokens
    if options.thinking is not None:
        word, budget = options.thinking.type, options.thinking.budget_tokens or budget
        mode = "enabled" if word == "enabled" else "disabled" if word == "disabled" else "adaptive"
    elif effort == "none" or asked.enabled is False:
        mode = "disabled"
    elif effort or budget or asked.enabled:
        mode = "enabled"
    if mode is None:
        return None, None
    if mode == "disabled":
        return Reasoning("disabled"), None
    return Reasoning(mode, budget), None if effort == "none" else effort


def _output_format(wire: _ResponseFormat | None) -> OutputFormat | None:
    if wire is None or wire.type == "text":
        return None
    if wire.type == "json_object":
        return OutputFormat()
    if wire.json_schema is None:
        raise DialectError("`response_format.json_schema`: is required for this type")
    schema = _schema(wire.json_schema.schema, "response_format.json_schema.schema")
    return OutputFormat(schema or Raw(), wire.json_schema.name, wire.json_schema.strict)
