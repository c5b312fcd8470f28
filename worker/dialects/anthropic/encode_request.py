"""A conversation as an Anthropic upstream wants to be asked for it."""

import re
from typing import Any, Literal

import msgspec
from msgspec import Raw

from shared.config import Provider
from shared.errors import DialectError
from worker.dialects.anthropic.encode_content import encode_system, encode_turns, sendable_turns
from worker.dialects.anthropic.thinking import plan_thinking
from worker.dialects.lenient import BAD_JSON
from worker.dialects.neutral import Effort, Message, Request, ServerTool, Text, Tool

# Anthropic demands a bound where others have none.  This many every model since Claude 3.5 can write, and long
# answers of chat clients fit in.
DEFAULT_MAX_TOKENS = 8192
# With thought, Anthropic takes no smaller `top_p`.
MIN_THINKING_TOP_P = 0.95

_object: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])
_NO_ARGUMENTS = {"type": Raw(b'"object"'), "properties": Raw(b"{}")}
# `web_search_20250305`, `bash_20250124`: a word and the day of its version.
_ANTHROPIC_TYPE = re.compile(r"[a-z0-9_]+_\d{8}")


def encode_request(request: Request, provider: Provider, model: str) -> bytes:
    """The body for this provider; `DialectError` for what it can't be asked."""
    translation = provider.translation
    turns = sendable_turns(request.messages, unsigned_thinking=translation.replay_thinking != "off")
    system = _system(request)
    if not turns:  # a lone instruction is something to answer elsewhere, not here
        turns, system = sendable_turns([Message("user", system)], unsigned_thinking=False), ()
    tools = [_tool(tool) for tool in request.tools if _is_known(tool)]
    choice = _tool_choice(request) if tools else None
    if not tools or (choice is not None and choice["type"] == "tool"):
        _check_forced(request)
    most = translation.max_output_tokens
    wanted = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    plan = plan_thinking(
        request,
        turns,
        max_tokens=wanted if most is None else min(wanted, most),
        most=most,
        forces_tool=choice is not None and choice["type"] in ("any", "tool"),
    )
    body = {
        "model": model,
        "max_tokens": plan.max_tokens,
        "system": encode_system(system),
        "messages": encode_turns(turns),
        "tools": tools or None,
        "tool_choice": choice,
        "thinking": plan.thinking,
        **(_sampling(request, thinks=plan.thinks) if translation.sampling else {}),
        "stop_sequences": [text for text in request.stop if text.strip()] or None,
        "output_config": _output_config(request, provider, adapts=plan.thinking == {"type": "adaptive"}),
        "metadata": None if request.user is None else {"user_id": request.user},
        "stream": True if request.stream else None,
    }
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def _system(request: Request) -> tuple[Text, ...]:
    """All instructions: those given in the course of the conversation have no other place."""
    later = [part for message in request.messages if message.role == "system" for part in message.parts]
    return (*request.system, *(part for part in later if isinstance(part, Text)))


def _sampling(request: Request, *, thinks: bool) -> dict[str, Any]:
    """Temperatures above Anthropic's 1 are cut; a model that thinks has its own."""
    top_p = request.top_p
    if thinks:
        return {"top_p": top_p if top_p is not None and top_p >= MIN_THINKING_TOP_P else None}
    temperature = None if request.temperature is None else min(max(request.temperature, 0.0), 1.0)
    if temperature is not None and top_p is not None and top_p >= 1:
        top_p = None  # says nothing, yet new models refuse it beside a temperature
    return {"temperature": temperature, "top_p": top_p, "top_k": request.top_k}


_EFFORT: dict[Effort, str] = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh",
                              "max": "max"}  # fmt: skip


def _output_config(request: Request, provider: Provider, *, adapts: bool) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    if adapts and request.effort in _EFFORT:
        config["effort"] = _EFFORT[request.effort]
    output = request.output_format
    # A format without a schema is a wish that Anthropic has no word for.
    if output is not None and bytes(output.schema) and provider.translation.output_format == "json_schema":
        config["format"] = {"type": "json_schema", "schema": output.schema}
    return config or None


# --- tools


def _is_known(tool: Tool | ServerTool) -> bool:
    return isinstance(tool, Tool) or _ANTHROPIC_TYPE.fullmatch(tool.type) is not None


def _tool(tool: Tool | ServerTool) -> Any:
    if isinstance(tool, ServerTool):
        return tool.definition
    told = {"description": tool.description, "strict": tool.strict, "cache_control": tool.cache_control}
    given = {name: value for name, value in told.items() if value is not None}
    return {"name": tool.name, "input_schema": _input_schema(tool), **given}


def _input_schema(tool: Tool) -> Raw | dict[str, Raw]:
    """Anthropic demands the `type` that others take for granted."""
    written = bytes(tool.schema)
    if written in (b"", b"null", b"{}"):
        return _NO_ARGUMENTS
    try:
        schema = _object.decode(written)
    except BAD_JSON:
        raise DialectError(f"tool {tool.name!r}: its parameters are not a JSON schema") from None
    return tool.schema if "type" in schema else {"type": Raw(b'"object"'), **schema}


def _tool_choice(request: Request) -> dict[str, Any] | None:
    words: dict[Literal["auto", "required", "named", "none"], str]
    words = {"auto": "auto", "required": "any", "named": "tool", "none": "none"}
    wanted = request.tool_choice
    alone = request.parallel_tool_calls is False
    if wanted is None:
        return {"type": "auto", "disable_parallel_tool_use": True} if alone else None
    choice: dict[str, Any] = {"type": words[wanted.mode]}
    if wanted.mode == "named":
        choice["name"] = wanted.name
    if alone and wanted.mode != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


def _check_forced(request: Request) -> None:
    """Tools that only another provider runs are left out, unless the answer has to call one."""
    choice = request.tool_choice
    for tool in request.tools:
        if choice is None or isinstance(tool, Tool) or _is_known(tool):
            continue
        if choice.mode == "required" or (choice.mode == "named" and choice.name == tool.name):
            raise DialectError(f"`tool_choice`: this provider has no tool {tool.name!r} of type {tool.type!r}")
