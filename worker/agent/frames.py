"""What a run tells the clients of `/api/stream/message` and `/ws/stream`: one frame an event, in one of four formats.

    json     all of DESIGN's section 6: {"type":"status",…}, {"type":"tool",…}, {"type":"delta","content":…}, …
    openai   a chat completion that streams: chunks of text and thought, then [DONE], or an error without it
    token    {"token":…} for each piece of text; the last frame has `"type":"done"` too
    t        the same with the key `t`

A frame is a server-sent event or a WebSocket's text message (`Wire`), and says the same in both.  What a format has no
word for is a comment where the wire has comments, so that a client hears within moments that its run is under way.

The formats other than json can't say where one turn of the model ends and the next begins.  There a blank line stands
between the texts of two turns, which would run into each other else.

These are `worker.agent.presenter.Presenter`s: each method returns what goes out now, b"" for nothing.  Pure.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from worker.agent.presenter import CANCELLED, TIMEOUT
from worker.dialects.codec import Reply
from worker.dialects.neutral import Begin, Event, Stop, TextDelta, ThinkingDelta
from worker.dialects.openai.errors import error_body
from worker.dialects.openai.stream_encoder import OpenAIStreamEncoder

Format = Literal["json", "openai", "token", "t"]
FORMATS: tuple[Format, ...] = get_args(Format)

# What `done` names by a word is said in a sentence, with a type, where a dialect wants that.
ERRORS = {
    CANCELLED: ("the run was cancelled", "cancelled"),
    TIMEOUT: ("the run took longer than [agent] response_timeout allows", "timeout_error"),
}
PARAGRAPH = "\n\n"

_encode = msgspec.json.Encoder().encode


class Wire(Struct, frozen=True):
    """How a frame goes out."""

    frame: Callable[[bytes], bytes]
    """A payload as a whole frame…"""
    comment: Callable[[str], bytes]
    """…and what no client minds, b"" where there is no such thing."""


def _event(payload: bytes) -> bytes:
    return b"data: %b\n\n" % payload


def _event_comment(text: str) -> bytes:
    return b": %b\n\n" % text.encode()


SSE = Wire(_event, _event_comment)


class Frames:
    """The format `json`, and what the others have in common with it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._over = False

    def status_thinking(self, step: int) -> bytes:
        """The model is asked for the `step`th time."""
        return self._frame({"type": "status", "status": "thinking"})

    def status_executing(self, tools: Sequence[str]) -> bytes:
        """The turn's tools begin."""
        return self._frame({"type": "status", "status": "executing", "tools": list(tools)})

    def tool(self, name: str, state: Literal["start", "end"], index: int, of: int, ms: float | None) -> bytes:
        """One of them, the `index`th of the turn's, from 1; `ms` is how long it took, None at its start."""
        taken = None if ms is None else round(ms, 1)
        return self._frame({"type": "tool", "name": name, "state": state, "index": index, "of": of, "ms": taken})

    def event(self, event: Event) -> bytes:
        """What the model says; thought is not told, the status says that there is some."""
        return self._frame({"type": "delta", "content": event.text}) if isinstance(event, TextDelta) else b""

    def checkpoint(self, tokens: int) -> bytes:
        """So many tokens have come."""
        return self._frame({"type": "checkpoint", "tokens": tokens})

    def done(self, error: str | None = None) -> bytes:
        """The last frame; `error` is one of `ERRORS`, or a sentence."""
        if self._over:
            return b""
        self._over = True
        return self._frame({"type": "done"} if error is None else {"type": "done", "error": error})

    def refused(self, message: str, *, code: str | None = None, param: str | None = None) -> bytes:
        """What was asked is not done: why, in a word, and in which field.  Belongs to no run."""
        return self._frame({"type": "error", "error": message, "code": code, "param": param})

    def _frame(self, fields: dict[str, Any]) -> bytes:
        return self._wire.frame(_encode(fields))


class PlainFrames(Frames):
    """What the formats without statuses have in common."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._said = False
        self._turned = False
        """Since then another turn has begun."""

    def status_thinking(self, step: int) -> bytes:
        """See `Frames`."""
        self._turned = self._said
        return self._wire.comment("thinking")

    def status_executing(self, tools: Sequence[str]) -> bytes:
        """See `Frames`."""
        return self._wire.comment("executing")

    def tool(self, name: str, state: Literal["start", "end"], index: int, of: int, ms: float | None) -> bytes:
        """Nothing is told."""
        return b""

    def checkpoint(self, tokens: int) -> bytes:
        """Nothing is told."""
        return b""

    def _spaced(self, text: str) -> str:
        """`text`, and a blank line before it where it begins another turn's."""
        if self._turned and text:
            text, self._turned = PARAGRAPH + text, False
        self._said = self._said or (bool(text) and not text.isspace())
        return text


class TokenFrames(PlainFrames):
    """The formats `token` and `t`: every frame has the `key`."""

    def __init__(self, wire: Wire, key: str) -> None:
        super().__init__(wire)
        self._key = key

    def event(self, event: Event) -> bytes:
        """See `Frames`."""
        return self._frame({self._key: self._spaced(event.text)}) if isinstance(event, TextDelta) else b""

    def _frame(self, fields: dict[str, Any]) -> bytes:
        return super()._frame({self._key: "", **fields})


class OpenAIFrames(PlainFrames):
    """The format `openai`."""

    def __init__(self, wire: Wire, reply: Reply) -> None:
        super().__init__(wire)
        self._encoder = OpenAIStreamEncoder(reply)
        self._stop = Stop("end")

    def status_thinking(self, step: int) -> bytes:
        """The first chunk, which tells the role, and nothing later."""
        return self._chunks(self._encoder.send(Begin())) or super().status_thinking(step)

    def event(self, event: Event) -> bytes:
        """Text, thought and why the model stopped.  Tool calls are no matter of the client's: it would run them."""
        match event:
            case TextDelta(text):
                return self._chunks(self._encoder.send(TextDelta(self._spaced(text))))
            case ThinkingDelta():
                return self._chunks(self._encoder.send(event))
            case Stop():
                self._stop = event
        return b""

    def done(self, error: str | None = None) -> bytes:
        """Why it stopped and `[DONE]`, or an error."""
        if self._over:
            return b""
        self._over = True
        if error is None:
            self._encoder.send(self._stop)
            return self._chunks(self._encoder.finish())
        message, type = ERRORS.get(error, (error, "upstream_error"))
        return self._wire.frame(error_body(502, message, type=type, code=error if error in ERRORS else None))

    def refused(self, message: str, *, code: str | None = None, param: str | None = None) -> bytes:
        """See `Frames`."""
        return self._wire.frame(error_body(400, message, code=code, param=param))

    def _chunks(self, events: bytes) -> bytes:
        """The encoder's server-sent events as frames; JSON holds no raw line break."""
        if self._wire is SSE or not events:
            return events
        payloads = (event.removeprefix(b"data: ") for event in events.split(b"\n\n"))
        return b"".join(self._wire.frame(payload) for payload in payloads if payload)


def make_frames(format: Format, wire: Wire, reply: Reply) -> Frames:
    """The frames of one run.  `reply` is for chat completions: their id, model and time."""
    match format:
        case "json":
            return Frames(wire)
        case "openai":
            return OpenAIFrames(wire, reply)
        case "token" | "t":
            return TokenFrames(wire, format)
