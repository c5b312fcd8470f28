"""The last hour in minutes: how many streams ended how, and with how many tokens.  Pure.

A stream belongs to the minute in which it ended, by the clock of the worker that wrote its record.
"""

from msgspec import Struct

from shared.records import StreamRecord

MINUTE = 60
MINUTES = 60


class Minute(Struct, kw_only=True):
    """What ended within a minute."""

    at: int
    """Its beginning, in epoch seconds."""
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """US dollars, of the models that have a price."""


class Recent:
    """The newest `MINUTES` minutes in which something ended."""

    def __init__(self) -> None:
        self._minutes: dict[int, Minute] = {}

    def ended(self, record: StreamRecord) -> None:
        """A terminal record."""
        at = int((record.start.started + record.duration) // MINUTE) * MINUTE
        minute = self._minutes.get(at)
        if minute is None:
            minute = self._minutes[at] = Minute(at=at)
            if len(self._minutes) > MINUTES:
                del self._minutes[min(self._minutes)]
        match record.status:
            case "completed":
                minute.completed += 1
            case "cancelled":
                minute.cancelled += 1
            case "failed":
                minute.failed += 1
        minute.prompt_tokens += record.prompt.count if record.prompt else 0
        minute.completion_tokens += record.completion.count if record.completion else 0
        minute.cost += record.cost or 0.0

    def minutes(self, now: float) -> list[Minute]:
        """Those of the last hour before the epoch second `now`, in order."""
        oldest = now - MINUTES * MINUTE
        return [minute for at, minute in sorted(self._minutes.items()) if at > oldest]
