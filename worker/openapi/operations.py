"""What each endpoint takes and gives, beyond what its route and its docstring say.  By module and name."""

from typing import Any, Literal, get_args

from msgspec import Struct, field

from shared import events
from shared.history import parameters as history
from shared.records import Dialect, Status
from worker.agent.frames import FORMATS
from worker.openapi import answers, requests
from worker.openapi.schema import Schema

JSON = "application/json"
SSE = "text/event-stream"
TEXT = "text/plain"
CHAT_REQUEST = "ChatCompletionRequest"
"""Made of several types: `worker.openapi.document`."""


class Parameter(Struct, frozen=True):
    """One of a query, a path or the headers."""

    name: str
    description: str
    place: Literal["query", "path", "header"] = "query"
    schema: Schema = field(default_factory=lambda: {"type": "string"})
    repeats: bool = False


class Operation(Struct, frozen=True, kw_only=True):
    """See the module.  A type stands for a JSON body; a name for a component that `document` makes."""

    tag: str
    below: Parameter | None = None
    """What stands for the rest of the path, where the route ends with `/`."""
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_is_optional: bool = False
    answer: Any = None
    """Of a 200; None: no JSON…"""
    answer_of_anthropic: Any = None
    """…the same for requests with `anthropic-version`, where that is another…"""
    content: tuple[str, ...] = ()
    """…and the media types of what else it may be."""
    event: Any = None
    """The data of one event, where 200 may be a stream."""
    hears: Any = None
    tells: Any = None
    """The messages of a WebSocket: the client's, and ours."""
    statuses: tuple[int, ...] = ()
    """Of errors, beyond those that every route has."""
    success: int = 200


SESSION = Parameter(
    "x-session-id", "the session: a new stream of it cancels the one before, unless it is set otherwise", "header"
)
VERSION = Parameter("anthropic-version", "the dialect's version; asks for answers in Anthropic's dialect", "header")
BETA = Parameter("anthropic-beta", "passes to providers that speak Anthropic's dialect", "header")
ID = Parameter("id", "the id of a stream, or the key of a session", "path")
MODEL = Parameter("model", "a model's name; it may hold slashes", "path")
FORMAT = Parameter("format", "how the frames look", schema={"enum": list(FORMATS), "default": "json"})

_TIME = "epoch seconds, a date or time, or how long ago: 30m, 24h, 7d"
_COUNT = {"type": "integer", "minimum": 1, "maximum": history.MAX_ROWS}
_HISTORY = {
    "since": Parameter("since", f"streams that began then or later: {_TIME}"),
    "until": Parameter("until", f"streams that began before: {_TIME}"),
    "dialect": Parameter("dialect", "the client's", schema={"enum": list(get_args(Dialect))}, repeats=True),
    "status": Parameter("status", "how it ended", schema={"enum": list(get_args(Status))}, repeats=True),
    "min_duration": Parameter("min_duration", "seconds", schema={"type": "number", "minimum": 0}),
    "text": Parameter("text", "a part of the id, the trace or the session"),
    "limit": Parameter("limit", "how many", schema=_COUNT),
    "cursor": Parameter("cursor", "`next` of the page before"),
    "by": Parameter("by", "groups by this", schema={"enum": [*get_args(history.Property), *get_args(history.Period)]}),
    "bucket": Parameter("bucket", "with by=time: the width of a group, as in 30s, 5m, 1h"),
    "format": Parameter("format", "of the file", schema={"enum": list(get_args(history.Format)), "default": "csv"}),
}


def _history(names: tuple[str, ...]) -> tuple[Parameter, ...]:
    return tuple(_HISTORY.get(name) or Parameter(name, "streams with this value", repeats=True) for name in names)


_ASKS_A_PROVIDER = (408, 409, 413, 415, 429, 502, 503, 504, 529)
_READS_A_BODY = (400, 408, 413, 415)
_MODELS = (
    Parameter("limit", "for Anthropic's clients: how many", schema={"type": "integer", "minimum": 1, "maximum": 1000}),
    Parameter("after_id", "for Anthropic's clients: those behind this one"),
    Parameter("before_id", "for Anthropic's clients: those before this one"),
    VERSION,
)

OPERATIONS = {
    "openai.chat_completions": Operation(
        tag="models",
        parameters=(SESSION,),
        body=CHAT_REQUEST,
        answer=answers.ChatCompletion,
        event=answers.ChatCompletionChunk,
        statuses=(400, 402, 404, *_ASKS_A_PROVIDER),
    ),
    "anthropic.messages": Operation(
        tag="models",
        parameters=(SESSION, VERSION, BETA),
        body=requests.MessagesRequest,
        answer=answers.Message,
        event=answers.MessageEvent,
        statuses=(400, 402, 404, *_ASKS_A_PROVIDER),
    ),
    "count_tokens.count_tokens": Operation(
        tag="models",
        parameters=(VERSION, BETA),
        body=requests.MessagesRequest,
        answer=answers.TokenCount,
        statuses=_READS_A_BODY,
    ),
    "models.list_models": Operation(
        tag="models",
        parameters=_MODELS,
        answer=answers.OpenAIModels,
        answer_of_anthropic=answers.AnthropicModels,
        statuses=(400,),
    ),
    "models.get_model": Operation(
        tag="models",
        below=MODEL,
        parameters=(VERSION,),
        answer=answers.OpenAIModel,
        answer_of_anthropic=answers.AnthropicModel,
        statuses=(404,),
    ),
    "health.live": Operation(tag="service", answer=answers.Health),
    "health.ready": Operation(tag="service", answer=answers.Health, statuses=(503,)),
    "metrics.metrics": Operation(tag="service", content=(TEXT,), statuses=(503,)),
    "sessions.overview": Operation(tag="service", answer=answers.Overview, statuses=(503,)),
    "sessions.active": Operation(tag="streams", answer=answers.LiveStreams, statuses=(503,)),
    "sessions.cancel": Operation(tag="streams", below=ID, answer=answers.Cancelled, statuses=(404, 503)),
    "sessions.cancel_stale": Operation(
        tag="streams",
        parameters=(Parameter("idle", "seconds", schema={"type": "number", "minimum": 0}),),
        answer=answers.Cancelled,
        statuses=(400, 503),
    ),
    "history.list_streams": Operation(
        tag="history", parameters=_history(history.LISTING), answer=answers.StreamRows, statuses=(400, 503)
    ),
    "history.get_stream": Operation(tag="history", below=ID, answer=answers.StreamRow, statuses=(404, 503)),
    "history.get_stats": Operation(
        tag="history", parameters=_history(history.GROUPING), answer=answers.Stats, statuses=(400, 503)
    ),
    "history.list_providers": Operation(
        tag="history", parameters=_history(history.FILTERS), answer=answers.Providers, statuses=(400, 503)
    ),
    "history.export": Operation(
        tag="history", parameters=_history(history.EXPORT), content=("text/csv", JSON), statuses=(400, 503)
    ),
    "agent.message": Operation(
        tag="agent",
        parameters=(FORMAT, SESSION),
        body=requests.AgentMessage,
        event=answers.AgentFrame,
        statuses=(400, 404, *_ASKS_A_PROVIDER),
    ),
    "agent_socket.converse": Operation(
        tag="agent",
        parameters=(FORMAT, SESSION),
        hears=requests.AgentSaying,
        tells=answers.AgentFrame,
        statuses=(400, 404),
    ),
    "events.listen": Operation(
        tag="service",
        parameters=(Parameter("types", f"only these, with commas between them: {', '.join(events.TYPES)}"),),
        tells=answers.Event,
        statuses=(400,),
    ),
    "chatkit.session": Operation(
        tag="agent",
        body=requests.ChatKitUser,
        body_is_optional=True,
        answer=answers.Secret,
        statuses=(404, *_READS_A_BODY, 429, 502, 504),
    ),
    "login.login": Operation(
        tag="dashboard", body=requests.Key, answer=answers.LoggedIn, statuses=(*_READS_A_BODY, 429, 503)
    ),
    "login.logout": Operation(tag="dashboard", success=204),
    "dashboard.page": Operation(tag="dashboard", content=("text/html",)),
    "dashboard.static": Operation(
        tag="dashboard",
        below=Parameter("file", "the name of a file", "path"),
        content=("text/css", "text/javascript"),
        statuses=(404,),
    ),
    "openapi.describe": Operation(tag="service", answer=dict[str, Any]),
}
