"""Token counts, in OpenAI's words and in ours."""

from typing import Any

from worker.dialects.neutral import Usage
from worker.dialects.openai.wire import Chunk
from worker.dialects.openai.wire import Usage as WireUsage


def usage_in(chunk: Chunk) -> Usage | None:
    """The usage of a chunk or a completion, wherever the provider put it: Kimi in a choice, Groq in `x_groq`."""
    wire = chunk.usage or (chunk.x_groq.usage if chunk.x_groq is not None else None)
    if wire is None:
        wire = next((choice.usage for choice in chunk.choices or () if choice.usage is not None), None)
    return None if wire is None else usage_of(wire)


def usage_of(wire: WireUsage) -> Usage:
    """The neutral counts; OpenAI's `prompt_tokens` hold the cached ones."""
    prompt, completion = wire.prompt_tokens_details, wire.completion_tokens_details
    cached = None if prompt is None else prompt.cached_tokens
    if cached is None:
        cached = wire.prompt_cache_hit_tokens if wire.cached_tokens is None else wire.cached_tokens
    return Usage(
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
        cache_read_tokens=cached,
        cache_write_tokens=None if prompt is None else prompt.cache_write_tokens,
        reasoning_tokens=None if completion is None else completion.reasoning_tokens,
    )


def usage_object(usage: Usage) -> dict[str, Any]:
    """A `usage` object; what was not told counts as 0, as SDKs do sums with it."""
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if usage.cache_read_tokens is not None:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
        if usage.cache_write_tokens:  # OpenRouter's word: OpenAI has none
            told["prompt_tokens_details"]["cache_write_tokens"] = usage.cache_write_tokens
    if usage.reasoning_tokens is not None:
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return told
