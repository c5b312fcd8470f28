"""When a worker that has stopped beating is stuck, and what is done with it.

    beating ── silent for longer than the timeout ──▶ stuck: dump its stacks ── DUMP_TIME ──▶ last words
                                                                                                  │
                                                                             kill ◀── LAST_WORDS_TIME

There is no way back from stuck: its replacement is on the way.
"""

from typing import Literal

TICK = 1.0
"""How often the fleet looks at its workers' pulses."""
DUMP_TIME = 0.5
"""What a stuck worker gets to write its stacks before it is killed."""
LAST_WORDS_TIME = 0.1
"""What it gets then for a dump from the C side, for the case that the other one needed what hangs."""
_MAX_STEP = 2 * TICK


class AwakeClock:
    """A clock that stands still while the supervisor itself is not running.

    A supervisor that was stopped, starved or swapped out has not heard its workers, which says nothing about them.
    Whoever looks at the clock moves it, by no more than two ticks at a time; in a supervisor that runs, the next look
    is never further away.
    """

    def __init__(self, now: float) -> None:
        self._seen = now
        self._awake = 0.0

    def read(self, now: float) -> float:
        """Seconds for which the supervisor has been awake; `now` is monotonic time."""
        self._awake += min(max(now - self._seen, 0.0), _MAX_STEP)
        self._seen = now
        return self._awake


Verdict = Literal["fine", "dump", "wait", "last_words", "kill"]


def verdict(silence: float, stuck_for: float | None, timeout: float) -> Verdict:
    """What to do with a worker that was last heard `silence` seconds of awake time ago.

    `stuck_for` is how long ago it was told to dump its stacks, None if it was not.
    """
    if stuck_for is None:
        return "dump" if silence > timeout else "fine"
    if stuck_for < DUMP_TIME:
        return "wait"
    return "kill" if stuck_for >= DUMP_TIME + LAST_WORDS_TIME else "last_words"
