"""What a run tells its client, in words of the client's kind.  Pure: it makes bytes, the run sends them."""

from collections.abc import Sequence
from typing import Literal, Protocol

from worker.dialects import neutral

CANCELLED = "stream_cancelled"
TIMEOUT = "timeout"
"""What `done` says of a run that was ended from outside, and of one that took too long."""


class Presenter(Protocol):
    """Each method returns what goes out now, b"" for nothing.  `done` comes exactly once, at the end."""

    def status_thinking(self, step: int) -> bytes:
        """The model is about to be asked for the `step`-th time, from 1 up."""
        ...

    def status_executing(self, tools: Sequence[str]) -> bytes:
        """These tools are about to run."""
        ...

    def tool(self, name: str, state: Literal["start", "end"], index: int, of: int, ms: float | None) -> bytes:
        """One of them starts or has ended, the `index`-th `of` so many, from 1 up; `ms`: how long it took."""
        ...

    def event(self, event: neutral.Event) -> bytes:
        """What the model says in any turn: `Begin` of the first, `TextDelta`, `ThinkingDelta`, `SignatureDelta`,
        `Redacted`.

        At the end of a run that has come to one follow the calls that are the client's to answer, if there are any
        (`ToolStart`, `ToolDelta`), the last turn's `Stop`, and `UsageTold`.
        """
        ...

    def checkpoint(self, tokens: int) -> bytes:
        """The model has said so many tokens: a multiple of 50."""
        ...

    def done(self, error: str | None = None) -> bytes:
        """The end.  `error`: None if the run came to its answer, `CANCELLED`, `TIMEOUT`, or a sentence."""
        ...


class Silent:
    """Tells nothing: for runs inside of others."""

    def status_thinking(self, step: int) -> bytes:
        """See `Presenter`."""
        return b""

    def status_executing(self, tools: Sequence[str]) -> bytes:
        """See `Presenter`."""
        return b""

    def tool(self, name: str, state: Literal["start", "end"], index: int, of: int, ms: float | None) -> bytes:
        """See `Presenter`."""
        return b""

    def event(self, event: neutral.Event) -> bytes:
        """See `Presenter`."""
        return b""

    def checkpoint(self, tokens: int) -> bytes:
        """See `Presenter`."""
        return b""

    def done(self, error: str | None = None) -> bytes:
        """See `Presenter`."""
        return b""
