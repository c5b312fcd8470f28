"""What is asked of the keeper, and what it answers.  Durations in seconds."""

from msgspec import Struct


class Program(Struct, frozen=True, kw_only=True):
    """What is to be run."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    beneath: tuple[str, ...] = ()
    """Names of folders that lead from `cwd` to where it begins; none of them may be a link."""
    timeout: float
    max_bytes: int
    grace: float
    """How long killing it may take."""
    may_gain: bool = False
    """It may be setuid: only for what gives up its privileges itself."""


class Outcome(Struct, frozen=True, kw_only=True):
    """How it ended.  `head` and `tail` are what was kept of its output."""

    status: int
    """Negative: the signal that ended it."""
    timed_out: bool
    head: bytes
    dropped: int
    """How many bytes lack between head and tail."""
    tail: bytes
