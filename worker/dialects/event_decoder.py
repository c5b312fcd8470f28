"""What the decoders of both dialects' streams do alike: they read whole events, and keep failures in their place."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.neutral import Event, tells_more
from worker.dialects.sse import EventCutter, payloads


class EventDecoder(ABC):
    """See `worker.dialects.codec.StreamDecoder`.

    An exception is raised behind the events that came before it in the same bytes, with the next call: how the network
    cuts a stream decides nothing about what the client gets.  Where they tell no more than that an answer begins it
    is raised at once, as another attempt may do better.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self.done = False
        self._cutter = EventCutter(max_event_bytes)
        self._error: DialectError | UpstreamBroken | None = None
        """Waits for the next call."""

    def receive(self, data: bytes) -> list[Event]:
        """The events that end in `data`; `DialectError` for what is too large or makes no sense."""
        if self._error is not None:
            raise self._error
        block = self._cutter.receive(data)
        events: list[Event] = []
        if block and not self.done:
            try:
                self._decode(payloads(block), events)
            except (DialectError, UpstreamBroken) as error:
                if not tells_more(events):
                    raise
                self._error = error
        return events

    def receive_eof(self) -> list[Event]:
        """The last events; `UpstreamBroken` unless the answer is whole."""
        if self._error is not None:
            raise self._error
        events: list[Event] = []
        if not self.done:
            # A last event may lack its blank line: legal JSON counts, half of one doesn't.
            self._decode(filter(self._is_whole, payloads(self._cutter.receive_eof() + b"\n\n")), events)
        if not self.done:
            self._end(events)
        return events

    @abstractmethod
    def _decode(self, found: Iterable[bytes], events: list[Event]) -> None:
        """Append what these payloads tell, until `done`."""

    @abstractmethod
    def _is_whole(self, payload: bytes) -> bool:
        """Whether it is no half of one."""

    @abstractmethod
    def _end(self, events: list[Event]) -> None:
        """The stream ends here: `done`, or `UpstreamBroken`."""
