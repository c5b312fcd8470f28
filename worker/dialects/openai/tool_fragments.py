"""The tool calls of an OpenAI stream, put together from what hosts make of its `tool_calls` deltas.

By the dialect, a call's first fragment has `index`, `id` and `name`, and later ones `index` and more `arguments`.
Seen in the wild, and understood here:

    `index` left out, from 1 up, with gaps, or 0 for every call    `id` late, never, repeated, or new in each fragment
    `name` after the first arguments, in pieces, or repeated       `arguments` as an object instead of its text
"""

from typing import Any

import msgspec

from worker.dialects.fragments import Fragments
from worker.dialects.neutral import Event, ToolDelta, ToolStart
from worker.dialects.openai.wire import ToolCall


class _Call:
    """One call.  `number` is its place among those that have begun; -1 until then."""

    __slots__ = ("arguments", "id", "name", "number")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.number = -1
        self.arguments = Fragments()


class ToolFragments:
    """Theory of operation: a call begins (`ToolStart`) with its first arguments, as a name may come in pieces until
    then; one that never has any begins at the answer's end.  Those that were named before it begin before it.
    """

    def __init__(self) -> None:
        self._last: _Call | None = None
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._waiting: list[_Call] = []
        """Calls that haven't begun."""
        self._begun = 0

    @property
    def any_begun(self) -> bool:
        """Whether the answer holds a call."""
        return self._begun > 0

    def receive(self, fragment: ToolCall, events: list[Event]) -> None:
        """Appends what `fragment` tells."""
        id = _text(fragment.id)
        function = fragment.function
        name = "" if function is None else _text(function.name)
        arguments = "" if function is None else _arguments(function.arguments)
        call = self._find(fragment.index, id, name, arguments)
        if id and not call.id:
            call.id = id
            self._by_id.setdefault(id, call)
        if call.number >= 0:
            if arguments and not _repeats(call, id, name, arguments):
                call.arguments.add(arguments)
                events.append(ToolDelta(call.number, arguments))
            return
        if name != call.name:
            call.name += name
        if arguments:
            call.arguments.add(arguments)
        if call.name and (written := call.arguments.text):
            self._begin_up_to(call, events)
            events.append(ToolDelta(call.number, written))

    def receive_end(self, events: list[Event]) -> bool:
        """Appends the calls without arguments.  False if there is one that was never named."""
        named = [call for call in self._waiting if call.name]
        if named:
            self._begin_up_to(named[-1], events)
        return not any(call.id or call.arguments.text for call in self._waiting)

    def _begin_up_to(self, last: _Call, events: list[Event]) -> None:
        end = self._waiting.index(last) + 1
        for call in self._waiting[:end]:
            if call.name:
                call.number = self._begun
                self._begun += 1
                events.append(ToolStart(call.number, call.id, call.name))
        self._waiting = [call for call in self._waiting if call.number < 0]

    def _find(self, index: int | None, id: str, name: str, arguments: str) -> _Call:
        """The call that a fragment belongs to, maybe a new one."""
        call = self._by_id.get(id, self._last) if index is None else self._by_index.get(index)
        if call is None or _begins_another(call, index, id, name, arguments):
            call = _Call()
            self._waiting.append(call)
            if index is not None:
                self._by_index[index] = call
        self._last = call
        return call


def _begins_another(call: _Call, index: int | None, id: str, name: str, arguments: str) -> bool:
    """Whether a fragment that seems to go on with `call` is the first of another."""
    if id and call.id:
        # An id alone tells nothing where there is an index: old vLLM makes one up for every fragment.
        return id != call.id and (bool(name) or index is None)
    if not name or not call.name:
        return False
    if name != call.name:
        return call.number >= 0 or index is None  # else one more piece of the name
    # The same name again: a repetition, unless there is nothing left to add to.
    return call.number >= 0 and bool(arguments.strip()) and call.arguments.is_whole()


def _repeats(call: _Call, id: str, name: str, arguments: str) -> bool:
    """Whether a fragment tells a whole call once more, as some hosts do at the end."""
    return bool(id and name) and call.arguments.is_whole() and arguments == call.arguments.text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: Any) -> str:
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return _text(value)
