"""What a run tells a client that asked as `/v1/messages`: progress lines in a text block, then the answer.  Pure.

    Executing Read, Bash…            one block of text, as `[agent.progress]` words it
    Read (1/2)…
    Bash (2/2)…
    Thinking (step 2)…
    ────
    the answer                       blocks of its own

Nothing is said of the first turn's thinking, so that an answer without tools is as it would be anyway.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from shared import config
from worker.agent.presenter import CANCELLED, TIMEOUT
from worker.agent.turn import Hearing, tell_nobody
from worker.dialects.codec import StreamEncoder
from worker.dialects.neutral import Answer, Apart, Event, Failed, TextDelta

ERRORS = {
    CANCELLED: ("the run was cancelled", "cancelled"),
    TIMEOUT: ("the run took longer than [agent] response_timeout allows", "timeout_error"),
}


class Progress:
    """See `worker.agent.presenter.Presenter`; `encoder` speaks the client's dialect."""

    def __init__(self, wording: config.Progress, encoder: StreamEncoder) -> None:
        self._wording = wording
        self._encoder = encoder
        self._in_lines = False
        """The last that was said is a line of ours…"""
        self._in_answer = False
        """…or the model's."""

    def status_thinking(self, step: int) -> bytes:
        """See `Presenter`."""
        return self._line(self._wording.thinking, step=str(step)) if step > 1 else b""

    def status_executing(self, tools: Sequence[str]) -> bytes:
        """See `Presenter`; a tool that is called twice is named once."""
        return self._line(self._wording.executing, tools=", ".join(dict.fromkeys(tools)))

    def tool(self, name: str, state: Literal["start", "end"], index: int, of: int, ms: float | None) -> bytes:
        """See `Presenter`; the start is told."""
        return self._line(self._wording.tool, tool=name, index=str(index), of=str(of)) if state == "start" else b""

    def event(self, event: Event) -> bytes:
        """See `Presenter`."""
        if not isinstance(event, TextDelta):
            return self._encoder.send(event)
        border = self._encoder.send(Apart()) if self._in_lines else b""
        self._in_lines, self._in_answer = False, True
        return border + self._encoder.send(event)

    def checkpoint(self, tokens: int) -> bytes:
        """The dialect has no word for it."""
        return b""

    def done(self, error: str | None = None) -> bytes:
        """See `Presenter`."""
        if error is None:
            return self._encoder.finish()
        return self._encoder.send(Failed(*ERRORS.get(error, (error, "api_error"))))

    def _line(self, wording: str, **values: str) -> bytes:
        if not wording:
            return b""
        for name, value in values.items():
            wording = wording.replace(f"{{{name}}}", value)
        border = self._encoder.send(Apart()) if self._in_answer else b""
        self._in_lines, self._in_answer = True, False
        return border + self._encoder.send(TextDelta(f"{wording}\n"))


class WholeAnswer:
    """The answer as one body, gathered till the run ends: a `StreamEncoder`.  Failures are told by a status."""

    def __init__(self, id: str, encode: Callable[[Answer], bytes]) -> None:
        self._hearing = Hearing(tell_nobody)
        self._id = id
        self._encode = encode

    def send(self, event: Event) -> bytes:
        """Gathers."""
        self._hearing.send(event)
        return b""

    def finish(self) -> bytes:
        """The body."""
        self._hearing.finish()
        return self._encode(self._hearing.answer(self._id, (), {}))
