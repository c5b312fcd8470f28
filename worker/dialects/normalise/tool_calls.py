"""The rule `tool_calls`: Kimi's own markers in text or in thought are tool calls.

    <|tool_calls_section_begin|>
      <|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|>  …
    <|tool_calls_section_end|>

    state        section begin   call begin   argument begin   call end    section end
    outside      section         header
    section                      header                                    outside
    header                                    arguments        as text     as text
    arguments                    header                        section     outside

What a table leaves out is text there.  https://huggingface.co/moonshotai/Kimi-K2-Instruct/blob/main/docs/tool_call_guidance.md
"""

import re
from typing import Literal

from worker.dialects.neutral import Event, Stop, ToolDelta, ToolStart
from worker.dialects.normalise.filter import Filter
from worker.dialects.normalise.markers import Markers

_State = Literal["outside", "section", "header", "arguments"]

_SECTION = "<|tool_calls_section_begin|>"
_SECTION_END = "<|tool_calls_section_end|>"
_CALL = "<|tool_call_begin|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_CALL_END = "<|tool_call_end|>"

_TABLE: dict[_State, dict[str, _State]] = {
    "outside": {_SECTION: "section", _CALL: "header"},
    "section": {_CALL: "header", _SECTION_END: "outside"},
    "header": {_ARGUMENTS: "arguments", _CALL_END: "section", _SECTION_END: "outside"},
    "arguments": {_CALL: "header", _CALL_END: "section", _SECTION_END: "outside"},
}
_MARKERS = {state: Markers(row) for state, row in _TABLE.items()}
MAX_HEADER_CHARS = 512
"""A longer one is none."""
_NAME = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::\d+)?", re.DOTALL)


class ToolCallFilter(Filter):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._state: _State = "outside"
        self._header = ""
        self._blank = ""
        """White space in a section: between calls it is no one's."""
        self._numbers: dict[int, int] = {}
        """The calls that the host found itself: their index there → here."""
        self._begun = 0
        self._found: int | None = None
        """The number of the last call that was found here."""

    def send(self, event: Event, out: list[Event]) -> None:
        if isinstance(event, Stop) and self._state == "arguments":
            self._held = ""  # a marker that was cut off: no JSON object ends like the beginning of one
        super().send(event, out)

    def _markers(self) -> Markers:
        return _MARKERS[self._state]

    def _marker(self, marker: str, out: list[Event]) -> None:
        state, self._state = self._state, _TABLE[self._state][marker]
        self._blank = ""
        if state != "header":
            return
        header, self._header = self._header, ""
        name = _NAME.fullmatch(header.strip())
        if self._state == "arguments" and name is not None:
            self._found = self._begun
            self._begun += 1
            out.append(ToolStart(self._found, header.strip(), name["name"]))
        else:
            self._say(_CALL + header + marker, out)
            self._state = "section" if self._state == "arguments" else self._state

    def _text(self, text: str, out: list[Event]) -> None:
        match self._state:
            case "outside":
                self._say(text, out)
            case "section":
                said = (self._blank + text).rstrip()
                self._blank = (self._blank + text)[len(said) :]
                if said:
                    self._say(said, out)
            case "header":
                self._header += text
                if len(self._header) > MAX_HEADER_CHARS:
                    self._give_up_header(out)
            case "arguments":
                assert self._found is not None
                out.append(ToolDelta(self._found, text))

    def _other(self, event: Event, out: list[Event]) -> None:
        match event:
            case ToolStart(index, id, name):
                self._numbers[index] = self._begun
                out.append(ToolStart(self._begun, id, name))
                self._begun += 1
            case ToolDelta(index, text):
                out.append(ToolDelta(self._numbers.get(index, index), text))
            case Stop(reason):
                if self._state == "header":
                    self._give_up_header(out)
                out.append(Stop("tools") if reason == "end" and self._found is not None else event)
            case _:
                out.append(event)

    def _give_up_header(self, out: list[Event]) -> None:
        """It was no call: what was held of it is text."""
        header, self._header = self._header, ""
        self._state = "outside"
        self._say(_CALL + header, out)

    def _say(self, text: str, out: list[Event]) -> None:
        out.append(self._source(text))
