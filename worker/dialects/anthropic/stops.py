"""Why an answer ended, in Anthropic's words and in ours."""

from typing import Any

from worker.dialects.neutral import StopReason

_WORD: dict[StopReason, str] = {
    "end": "end_turn",
    "length": "max_tokens",
    "tools": "tool_use",
    "sequence": "stop_sequence",
    "refusal": "refusal",
    "pause": "pause_turn",
    "context": "model_context_window_exceeded",
}
_MEANING: dict[str, StopReason] = {word: reason for reason, word in _WORD.items()}


def stop_reason(word: Any) -> StopReason:
    """What a `stop_reason` means; one that is new to us is an end."""
    return _MEANING.get(word, "end") if isinstance(word, str) else "end"


def stop_word(stop: StopReason) -> str:
    """Anthropic's word."""
    return _WORD[stop]
