"""Turns of a conversation, as both dialects want them: user and assistant alternate, what tools said comes first."""

from collections.abc import Iterable

from worker.dialects.neutral import Message, Part, Role, ToolResult


def merged(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Neighbours of one role made one turn; in a user's turn results of tools stand before all else."""
    turns: list[tuple[Role, list[Part]]] = []
    for message in messages:
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(message.parts)
        else:
            turns.append((message.role, list(message.parts)))
    return tuple(Message(role, tuple(_results_first(parts) if role == "user" else parts)) for role, parts in turns)


def _results_first(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: not isinstance(part, ToolResult))
