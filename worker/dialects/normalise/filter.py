"""What the rules have in common: text that is held while it may be the beginning of a marker."""

from abc import ABC, abstractmethod

from worker.dialects.neutral import Begin, Event, TextDelta, ThinkingDelta, UsageTold
from worker.dialects.normalise.markers import Markers


class Filter(ABC):
    """One rule over one answer.

    Theory of operation: a rule is a table, state → (marker → the next state), and what it does with text by state.
    Only the markers of the present state are looked for.  Any event but more of the same text ends what is held: it
    was no marker then.
    """

    def __init__(self) -> None:
        self._held = ""
        self._source: type[TextDelta] | type[ThinkingDelta] = TextDelta
        """Of the text that was last looked at."""

    def send(self, event: Event, out: list[Event]) -> None:
        """Appends what becomes of `event`."""
        if isinstance(event, TextDelta | ThinkingDelta) and self._reads(event):
            if type(event) is not self._source:
                self._release(out)
                self._source = type(event)
            self._read(self._held + event.text, out)
        elif isinstance(event, Begin | UsageTold):
            out.append(event)
        else:
            self._release(out)
            self._other(event, out)

    def _read(self, text: str, out: list[Event]) -> None:
        at = 0
        while True:
            before, marker, at = self._markers().cut(text, at)
            if before:
                self._text(before, out)
            if marker is None:
                self._held = text[at:]
                return
            self._marker(marker, out)

    def _release(self, out: list[Event]) -> None:
        held, self._held = self._held, ""
        if held:
            self._text(held, out)

    # --- what a rule is

    def _reads(self, event: TextDelta | ThinkingDelta) -> bool:
        """Whether markers may stand in such text."""
        return True

    @abstractmethod
    def _markers(self) -> Markers:
        """Those that mean something in the present state."""

    @abstractmethod
    def _marker(self, marker: str, out: list[Event]) -> None:
        """The state that follows one."""

    @abstractmethod
    def _text(self, text: str, out: list[Event]) -> None:
        """What text is in the present state; it isn't empty."""

    @abstractmethod
    def _other(self, event: Event, out: list[Event]) -> None:
        """Events that are no text, and text that isn't read."""
