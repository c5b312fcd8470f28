"""The HTTP status of an upstream's error that comes in a stream, whose own status was 200."""

from worker.dialects.anthropic.errors import TYPES
from worker.dialects.openai.failure import cause_of

_BY_WORD = {word: status for status, word in TYPES.items()}


def status_of_error(data: bytes) -> int | None:
    """The status that an error names, or its word stands for, in either dialect; None where neither is known."""
    cause = cause_of(data)
    if cause is None:
        return None
    told, word = cause
    return int(told) if str(told).isdecimal() else _BY_WORD.get(word)
