"""What endpoints answer, as types: as much of it as clients can rely on."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from shared import events
from shared.history.columns import COLUMNS, FLAGS
from shared.history.queries import SUMS
from worker.dialects.anthropic.usage import WireUsage


class OpenAIErrorDetail(Struct):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(Struct):
    """An error in OpenAI's dialect; `param` is the path of the field that is wrong."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(Struct):
    type: str
    message: str


class AnthropicError(Struct):
    """An error in Anthropic's dialect; the message begins with the path of the field that is wrong."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str | None


class ChatCompletion(Struct):
    """A chat completion, as the provider gave it or in its shape."""

    choices: list[dict[str, Any]]
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None


class ChatCompletionChunk(Struct):
    """The data of one event of a stream; the last event is `[DONE]`, or an error."""

    choices: list[dict[str, Any]]
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None


class Message(Struct):
    """A message, as the provider gave it or in its shape."""

    type: Literal["message"]
    role: Literal["assistant"]
    content: list[dict[str, Any]]
    usage: WireUsage
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class MessageEvent(Struct):
    """The data of one event of a stream: `message_start` first, `message_stop` last, or an error."""

    type: Literal[
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop", "ping", "error",
    ]  # fmt: skip


class TokenCount(Struct):
    """How long a prompt is."""

    input_tokens: int


class OpenAIModel(Struct):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(Struct):
    """The models that can be asked for, in OpenAI's shape."""

    object: Literal["list"]
    data: list[OpenAIModel]


class AnthropicModel(Struct):
    type: Literal["model"]
    id: str
    display_name: str
    created_at: str


class AnthropicModels(Struct):
    """The models that can be asked for, in Anthropic's shape: a page of them."""

    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Health(Struct):
    """How this worker is."""

    status: str
    service: Literal["kimi-proxy"]
    version: str
    features: list[str]


class LiveStreams(Struct):
    """The live streams of all workers, and sums since the service's start."""

    sessions: list[dict[str, Any]]
    active: int
    tokens_per_second: float
    token_accuracy: float | None
    totals: dict[str, Any]


class Overview(Struct):
    """The service at a glance."""

    now: float
    waiting: int
    health: dict[str, Any]
    token_accuracy: float | None
    recent: list[Any]
    models: list[dict[str, Any]]


class Cancelled(Struct):
    """The ids of the streams that were told to end."""

    cancelled: list[str]
    idle: float | None = None


_WORDS = {"id", "trace", "session", "provider", "upstream_model", "model", "asked_provider", "dialect", "prompt_source",
          "completion_source", "status", "error_type", "client"}  # fmt: skip

StreamRow = msgspec.defstruct(
    "StreamRow",
    [(name, bool if name in FLAGS else str | None if name in _WORDS else float | None) for name in COLUMNS],
    namespace={"__doc__": "The record of a stream that has ended."},
    module=__name__,
)
Sums = msgspec.defstruct(
    "Sums",
    [(name, float | None) for name in SUMS],
    namespace={"__doc__": "Sums over streams."},
    module=__name__,
)


class StreamRows(Struct):
    """A page of records, the newest first; `next` is the `cursor` of the following one."""

    streams: list[StreamRow]  # type: ignore[valid-type]
    next: str | None


class Stats(Struct):
    """Sums over all streams, and by `by`: each of `groups` is one `key`'s."""

    since: float | None
    until: float | None
    by: str | None
    bucket: int | None
    totals: Sums  # type: ignore[valid-type]
    groups: list[dict[str, Any]]


class Providers(Struct):
    """The sums of each provider, how its streams failed and how it is now."""

    since: float | None
    until: float | None
    providers: list[dict[str, Any]]


class Secret(Struct):
    """What a page begins a ChatKit session with."""

    client_secret: str


Event = events.OfTheService | events.OfTheConnection
"""What `WS /ws` tells."""


class LoggedIn(Struct):
    """Whether the dashboard wants a key, and whose it has been given."""

    required: bool
    logged_in: bool
    client: str | None = None
    fingerprint: str | None = None


class AgentFrame(Struct):
    """One frame of a run with `format=json`, as docs/agent.md lists them; the last one's `type` is `done`."""

    type: Literal["status", "tool", "delta", "checkpoint", "done", "error"]
