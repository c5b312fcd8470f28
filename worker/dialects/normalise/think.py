"""The rule `think`: what stands between `<think>` and `</think>` in the text is thought.

    state      marker                              next
    text       <think>   ◁think▷                   thought
    thought    </think>  ◁/think▷                  text

White space right behind a marker is no one's.  A thought that never ends was all thought.
"""

from worker.dialects.neutral import Event, TextDelta, ThinkingDelta
from worker.dialects.normalise.filter import Filter
from worker.dialects.normalise.markers import Markers

_MARKERS = {"text": Markers(("<think>", "◁think▷")), "thought": Markers(("</think>", "◁/think▷"))}
_NEXT = {"text": "thought", "thought": "text"}
_SAYS: dict[str, type[TextDelta] | type[ThinkingDelta]] = {"text": TextDelta, "thought": ThinkingDelta}


class ThinkFilter(Filter):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._state = "text"
        self._behind_marker = False

    def _reads(self, event: TextDelta | ThinkingDelta) -> bool:
        return isinstance(event, TextDelta)

    def _markers(self) -> Markers:
        return _MARKERS[self._state]

    def _marker(self, marker: str, out: list[Event]) -> None:
        self._state = _NEXT[self._state]
        self._behind_marker = True

    def _text(self, text: str, out: list[Event]) -> None:
        if self._behind_marker:
            text = text.lstrip()
            if not text:
                return
            self._behind_marker = False
        out.append(_SAYS[self._state](text))

    def _other(self, event: Event, out: list[Event]) -> None:
        out.append(event)
