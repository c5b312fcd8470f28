"""Why an answer ended, in OpenAI's words and in ours."""

from typing import Any

from shared.errors import UpstreamBroken
from worker.dialects.neutral import StopReason, fitting_stop

_MEANING: dict[str, StopReason] = {
    "stop": "end",
    "length": "length",
    "tool_calls": "tools",
    "function_call": "tools",
    "content_filter": "refusal",
    # Words of hosts that don't keep to the dialect:
    "eos": "end",
    "end_turn": "end",
    "max_tokens": "length",
    "model_length": "length",
    "tool_use": "tools",
    "stop_sequence": "sequence",
    "safety": "refusal",
    "sensitive": "refusal",
}
# An answer that ends like this is lost, however cleanly its stream does: OpenRouter, vLLM and SGLang, Zhipu, DeepSeek,
# and Gemini, whose model has written a call that its host can't read: nothing of it comes.
_LOST = frozenset(
    {
        "error",
        "abort",
        "cancelled",
        "network_error",
        "insufficient_system_resource",
        "function_call_filter",
        "malformed_function_call",
    }
)

_WORD: dict[StopReason, str] = {
    "end": "stop",
    "sequence": "stop",
    "pause": "stop",
    "length": "length",
    "context": "length",
    "tools": "tool_calls",
    "refusal": "content_filter",
}


def stop_reason(finish_reason: Any, *, called_tools: bool) -> StopReason:
    """What a `finish_reason` means.  Raises `UpstreamBroken` where it tells that the answer was lost.

    `called_tools`: the answer holds tool calls; several hosts end such answers with `stop`, and some others tell of
    calls that never came.
    """
    told = finish_reason.lower() if isinstance(finish_reason, str) else "stop"
    word = told.partition(":")[0]  # Gemini: "content_filter: RECITATION"
    if word in _LOST:
        raise UpstreamBroken(f"the upstream gave up its answer: finish_reason {told!r}", "IncompleteStream")
    return fitting_stop(_MEANING.get(word, "end"), called_tools=called_tools)


def finish_reason(stop: StopReason, *, called_tools: bool) -> str:
    """OpenAI's word, which has to fit the answer: clients run tools only when it tells of calls."""
    word = _WORD[stop]
    if word in ("stop", "tool_calls"):
        return "tool_calls" if called_tools else "stop"
    return word
