"""A request of a client of another dialect, as an OpenAI-compatible provider wants it.

What the provider does not understand is left out or told in another way, as its `Translation` says.
"""

import hashlib
from typing import Any

import msgspec
from msgspec import Raw

from shared.config import Provider, Translation
from shared.errors import DialectError
from worker.dialects.neutral import Request, ServerTool, Tool, ToolChoice
from worker.dialects.openai.encode_messages import encode_messages
from worker.dialects.openai.tool_names import short_name

Wire = dict[str, Any]

# Types of `ServerTool` that some of these providers run: Kimi's built-in tools, and OpenRouter's plug-ins, which have a
# field of their own.
BUILT_IN = "builtin_function"
PLUGIN = "plugin"
# Claude Code's `user_id` is longer than OpenAI takes; a digest names the same user as well.
_MAX_USER_CHARS = 64
# Efforts that have a word in one provider's dialect only.
_EFFORTS = {"max": "high", "xhigh": "high"}
# Up to so many tokens of thought…
_BUDGETS = ((4096, "low"), (16384, "medium"))


def encode_request(request: Request, provider: Provider, model: str) -> bytes:
    """The body for `provider`, which calls the model `model`.

    `DialectError` for what it can't be asked, for the client to read.
    """
    translation = provider.translation
    answer_format, postscript = _output_format(request, translation)
    body: Wire = {"model": model, "messages": encode_messages(request, translation, postscript)}
    body |= _tools(request, provider)
    if request.max_tokens is not None:
        body[translation.max_tokens] = min(request.max_tokens, translation.max_output_tokens or request.max_tokens)
    for name in ("temperature", "top_p") if translation.sampling else ():
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = request.stop
    body |= _thinking(request, translation) | answer_format
    if request.user is not None:
        body["user"] = _user(request.user)
    if request.stream:
        body["stream"] = True
        if provider.ask_usage:
            body["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(body)


def _user(user: str) -> str:
    return user if len(user) <= _MAX_USER_CHARS else hashlib.sha256(user.encode()).hexdigest()


# --- tools


def _tools(request: Request, provider: Provider) -> Wire:
    """The tools that the client runs; those that its own provider would run are left out where it can do without."""
    choice = request.tool_choice
    tools = [tool for tool in request.tools if isinstance(tool, Tool)]
    names = {tool.name for tool in tools}
    plugins: list[Raw] = []
    built_in: list[Raw] = []
    for tool in request.tools:
        if not isinstance(tool, ServerTool):
            continue
        if tool.type == BUILT_IN and provider.translation.web_search == "builtin":
            built_in.append(tool.definition)
        elif tool.type == PLUGIN and provider.translation.web_search == "plugin":
            plugins.append(tool.definition)
        elif _must_run(choice, tool.name, names):
            raise DialectError(
                f"provider {provider.name!r} can't run the tool {tool.name!r} (`{tool.type}`): "
                "ask a model whose provider can, or let the client run the tool"
            )
    wire: Wire = {"plugins": plugins} if plugins else {}
    if not (tools or built_in):
        return wire
    wire["tools"] = [*(_tool(tool, provider.translation) for tool in tools), *built_in]
    if choice is not None:
        named = {"type": "function", "function": {"name": short_name(choice.name or "")}}
        wire["tool_choice"] = named if choice.mode == "named" else choice.mode
    if request.parallel_tool_calls is not None:
        wire["parallel_tool_calls"] = request.parallel_tool_calls
    return wire


def _must_run(choice: ToolChoice | None, name: str, runnable: set[str]) -> bool:
    match choice:
        case ToolChoice(mode="required"):
            return not runnable
        case ToolChoice(mode="named", name=wanted):
            return wanted == name and name not in runnable
        case _:
            return False


def _tool(tool: Tool, translation: Translation) -> Wire:
    function: Wire = {"name": short_name(tool.name), "parameters": tool.schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    wire: Wire = {"type": "function", "function": function}
    if translation.cache_control and tool.cache_control:
        wire["cache_control"] = tool.cache_control
    return wire


# --- how to answer


def _output_format(request: Request, translation: Translation) -> tuple[Wire, str]:
    """The field that asks for JSON, and what the system message has to tell where the field can't."""
    wanted = request.output_format
    if wanted is None or translation.output_format == "off":
        return {}, ""
    schema = bytes(wanted.schema)
    if schema and translation.output_format == "json_schema":
        json_schema: Wire = {"name": wanted.name or "answer", "schema": wanted.schema}
        if wanted.strict is not None:
            json_schema["strict"] = wanted.strict
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}, ""
    told = (
        f"Answer with one JSON object that fits this JSON schema: {schema.decode('utf-8', 'replace')}" if schema else ""
    )
    return {"response_format": {"type": "json_object"}}, told


def _thinking(request: Request, translation: Translation) -> Wire:
    """How much to think, in the provider's own way; nothing where the model may think as much as it likes."""
    reasoning, effort = request.reasoning, _effort(request)
    mode = None if reasoning is None else reasoning.mode
    budget = None if reasoning is None else reasoning.budget_tokens
    match translation.thinking:
        case "thinking" if mode in ("enabled", "disabled"):
            return {"thinking": {"type": mode}}
        case "effort" if effort and mode != "disabled":
            return {"reasoning_effort": effort}
        case "reasoning" if mode == "disabled":
            return {"reasoning": {"enabled": False}}
        case "reasoning" if budget:
            return {"reasoning": {"max_tokens": budget}}
        case "reasoning" if effort:
            return {"reasoning": {"effort": effort}}
        case "reasoning" if mode == "enabled":
            return {"reasoning": {"enabled": True}}
        case _:
            return {}


def _effort(request: Request) -> str | None:
    """In OpenAI's words: as asked, else guessed from the budget."""
    if request.effort is not None and request.effort != "none":
        return _EFFORTS.get(request.effort, request.effort)
    budget = None if request.reasoning is None else request.reasoning.budget_tokens
    if budget is None:
        return None
    return next((effort for bound, effort in _BUDGETS if budget <= bound), "high")
