"""Token counts, in Anthropic's words and in ours.

Anthropic's `input_tokens` leave out what was read from or written to a cache; ours, as OpenAI's, hold all of the
prompt.
"""

from typing import Annotated

from msgspec import Meta, Struct, structs

from worker.dialects.neutral import Usage

# A record carries 64 bits; a provider that claims more tokens than that is not believed.
Count = Annotated[int, Meta(ge=0, le=2**53)]


class WireUsage(Struct):
    """As it stands in messages, `message_start` and `message_delta`."""

    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count | None = None


class StreamedUsage:
    """The counts of a stream: some hosts tell all of them at its end, some only what `message_start` left open."""

    def __init__(self) -> None:
        self._wire = WireUsage()

    def at_start(self, wire: WireUsage) -> Usage:
        """What `message_start` tells.  Its `output_tokens` are those of the first event: no count of the answer."""
        return self.told(structs.replace(wire, output_tokens=None))

    def told(self, wire: WireUsage) -> Usage:
        """What is known now.  Joined before `prompt_tokens` is summed up, as a part of its parts would be no sum."""
        told = {name: count for name, count in structs.asdict(wire).items() if count is not None}
        self._wire = structs.replace(self._wire, **told)
        return usage_of(self._wire)


def usage_of(wire: WireUsage) -> Usage:
    """The neutral counts."""
    prompt = wire.input_tokens
    if prompt is not None:
        prompt += (wire.cache_creation_input_tokens or 0) + (wire.cache_read_input_tokens or 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=wire.output_tokens,
        cache_read_tokens=wire.cache_read_input_tokens,
        cache_write_tokens=wire.cache_creation_input_tokens,
    )


def wire_usage(usage: Usage) -> WireUsage:
    """All four counts; what was not told counts as 0, as SDKs do sums with it."""
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    return WireUsage(
        input_tokens=max(0, (usage.prompt_tokens or 0) - read - written),
        cache_creation_input_tokens=written,
        cache_read_input_tokens=read,
        output_tokens=usage.completion_tokens or 0,
    )
