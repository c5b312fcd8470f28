"""The terminal record of a stream: what is kept of it for good, exactly one each.

A stream is one model call by a client, answered as SSE or as one JSON body (`streaming` tells which).
Times are epoch seconds, durations float seconds.
"""

from typing import Literal

from msgspec import Struct

Dialect = Literal["openai", "anthropic"]
Status = Literal["completed", "cancelled", "failed"]
TokenSource = Literal["provider", "counted", "partial"]
CancelReason = Literal["client_disconnect", "client_cancel", "registry_new_stream", "admin", "shutdown", "timeout"]


class StreamStart(Struct, frozen=True, kw_only=True):
    """What is known when a stream is admitted; the supervisor holds it until the record comes."""

    id: str
    trace: str
    session: str | None
    groups_only: bool = False
    """`session` is the client's own word for what belongs together: its streams run side by side."""
    worker: int
    provider: str
    model: str
    dialect: Dialect
    streaming: bool
    started: float
    client: str | None = None
    """A fingerprint of the client's key; None where none is asked for."""
    context_size: int | None = None
    """How many tokens the model's context holds, where the configuration tells."""
    prompt_estimate: int | None = None
    """Tokens of the prompt, roughly, as the length of its request tells; images in it count for too much."""
    output_price: float | None = None
    """US dollars per million tokens of the answer, where the configuration tells: if the worker dies, nobody else knows
    what they cost."""


class Tokens(Struct, frozen=True):
    """A token count and where it comes from.

    `provider`: the upstream's own usage; `counted`: tiktoken over the complete text; `partial`: tiktoken (or, for
    a dead worker, the last progress heard) over what had arrived when the stream broke off.
    """

    count: int
    source: TokenSource


class StreamRecord(Struct, frozen=True, kw_only=True):
    """The end of a stream.  `provider` and `model` in `start` are as asked; here stand those that answered last."""

    start: StreamStart
    provider: str
    upstream_model: str
    status: Status
    duration: float
    first_byte: float | None = None
    """Seconds from the request's arrival to the first upstream body byte; None if none came."""
    prompt: Tokens | None = None
    completion: Tokens | None = None
    counted_completion: int | None = None
    """Our own count beside the provider's, where both exist: the base of `token_accuracy`."""
    cache_read: int | None = None
    """Of the prompt, the tokens that the provider read from a cache…"""
    cache_write: int | None = None
    """…and wrote to one; None where it does not tell."""
    cost: float | None = None
    """US dollars, as the model's price in the configuration has it; None where it has none."""
    error_type: str | None = None
    """`failed`: `ReadError`, `TimeoutException`, `worker_died`, …  `cancelled`: the `CancelReason`."""
    http_status: int | None = None
    """What the client was told; None if it was told nothing."""
    retries: int = 0
    cancel_latency: float | None = None
    """Seconds from the moment a cancel was known to the moment the upstream connection was closed."""
