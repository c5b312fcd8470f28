"""What a session has said, as bytes that are kept and back: legal whatever became of its last run, and bounded.

    turn        the user's own words, up to his next ones
    exchange    in a turn: one message of the assistant's and, where it calls tools, one with the result of every call

Only whole turns are left out; of a turn that is too long by itself, whole exchanges.  So no call ever loses its
result, which every provider answers with an error.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

import msgspec

from worker.dialects.arguments import object_text
from worker.dialects.neutral import Message, Part, Text, ToolCall, ToolResult

UNANSWERED = "The run ended before this tool had a result."

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[tuple[Message, ...]] = msgspec.json.Decoder(tuple[Message, ...])
_FIRST = len(b"[")
_BEHIND = len(b",")
"""Or the bracket at the end."""


def encode(messages: Sequence[Message], max_bytes: int) -> bytes:
    """The newest of `messages` that fit into `max_bytes`, made `legal`; b"" where nothing fits."""
    turns = list(_turns(legal(messages)))
    room = max_bytes - _FIRST
    kept = _newest(turns, room)
    if turns and not kept:
        words, *exchanges = _exchanges(turns[-1])
        said = _encoded(words)
        room -= _size(said)
        kept = said + _newest(exchanges, room) if room >= 0 else []
    return b"[" + b",".join(kept) + b"]" if kept else b""


def decode(data: bytes) -> tuple[Message, ...]:
    """What `encode` was given; nothing for b"", and for what another version has written that means nothing here."""
    try:
        return _decoder.decode(data) if data else ()
    except msgspec.DecodeError:
        return ()


def legal(messages: Iterable[Message]) -> tuple[Message, ...]:
    """`messages` as a provider takes them, though a run may have been cut off anywhere.

    Behind the calls of a message stand the results of all of them and of no others, by themselves; a call without a
    result gets one that says so, or goes if it was cut off while it was written.  So does thought that led to nothing.
    """
    made: list[Message] = []
    calling: Message | None = None
    told: defaultdict[str, deque[ToolResult]] = defaultdict(deque)
    for message in messages:
        if message.role != "user":
            made += _exchange(calling, told)
            calling = message
            told.clear()
            continue
        for part in message.parts:
            if isinstance(part, ToolResult):
                told[part.call_id].append(part)
        words = tuple(part for part in message.parts if not isinstance(part, ToolResult) and not _is_blank(part))
        if words:
            made += _exchange(calling, told)
            calling = None
            told.clear()
            made.append(Message("user", words))
    return (*made, *_exchange(calling, told))


def _exchange(calling: Message | None, told: dict[str, deque[ToolResult]]) -> list[Message]:
    """A message of the assistant's (or the system's), and the results of its calls; nothing if it says nothing."""
    parts: list[Part] = []
    results: list[Part] = []
    for part in calling.parts if calling is not None else ():
        if isinstance(part, ToolCall):
            if found := told.get(part.id):
                results.append(found.popleft())
            elif object_text(part.arguments) is not None:
                results.append(ToolResult(part.id, (Text(UNANSWERED),), is_error=True))
            else:
                continue
        if not _is_blank(part):
            parts.append(part)
    if calling is None or not any(isinstance(part, Text | ToolCall) for part in parts):
        return []
    made = [Message(calling.role, tuple(parts))]
    return [*made, Message("user", tuple(results))] if results else made


def _is_blank(part: Part) -> bool:
    return isinstance(part, Text) and not part.text


def _turns(messages: Iterable[Message]) -> Iterable[list[Message]]:
    """Whole turns; what stands before the first words of the user belongs to none."""
    turn: list[Message] = []
    for message in messages:
        if message.role == "user" and not isinstance(message.parts[0], ToolResult):
            if turn:
                yield turn
            turn = []
        elif not turn:
            continue
        turn.append(message)
    if turn:
        yield turn


def _exchanges(turn: Sequence[Message]) -> list[list[Message]]:
    """The parts of a turn that can be left out, behind the user's words."""
    parts: list[list[Message]] = []
    for message in turn:
        if parts and message.role == "user":
            parts[-1].append(message)
        else:
            parts.append([message])
    return parts


def _newest(groups: Sequence[Sequence[Message]], room: int) -> list[bytes]:
    """As many of the last groups, encoded, as `room` bytes hold.  No more is encoded than that and one group."""
    kept: list[list[bytes]] = []
    for group in reversed(groups):
        encoded = _encoded(group)
        room -= _size(encoded)
        if room < 0:
            break
        kept.append(encoded)
    return [message for group in reversed(kept) for message in group]


def _encoded(group: Iterable[Message]) -> list[bytes]:
    return [_encoder.encode(message) for message in group]


def _size(encoded: Iterable[bytes]) -> int:
    return sum(len(message) + _BEHIND for message in encoded)
