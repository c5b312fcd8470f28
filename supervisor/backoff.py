"""When a slot whose worker died may start the next one.

A worker that served for a while is replaced at once; one that died young waits, twice as long each time.  A slot
whose workers keep dying before they are ready is in a crash loop: it goes on trying, but slowly, and says so.
"""

from collections.abc import Mapping

from msgspec import Struct

YOUNG = 5.0
"""A worker that lived shorter than this died young."""
FIRST_DELAY = 0.1
MAX_DELAY = 30.0
CRASH_LOOP = 5
"""So many deaths before `Ready` in a row are a crash loop."""


class Backoff(Struct, frozen=True):
    """The recent deaths in one slot."""

    young: int = 0
    """Young or unready deaths in a row."""
    unready: int = 0
    """Deaths before `Ready` in a row."""
    not_before: float = 0.0
    """The clock's time at which the next worker may start."""


FRESH = Backoff()


def died(before: Backoff, now: float, lived: float, *, ready: bool) -> Backoff:
    """`before`, after a worker died unasked that had lived for `lived` seconds and was ready at some time, or not."""
    if ready and lived >= YOUNG:
        return FRESH
    young = before.young + 1
    unready = 0 if ready else before.unready + 1
    delay = MAX_DELAY if unready >= CRASH_LOOP else min(FIRST_DELAY * 2.0 ** min(young - 1, 16), MAX_DELAY)
    return Backoff(young=young, unready=unready, not_before=now + delay)


def became_ready(before: Backoff) -> Backoff:
    """`before`, after the slot's worker said `Ready`: no crash loop any more, yet it may still die young."""
    return Backoff(young=before.young, unready=0, not_before=before.not_before)


def crash_loop(slots: Mapping[int, Backoff]) -> str | None:
    """What people should hear of crash loops, by slot number; None if there is none."""
    looping = sorted(slot for slot, backoff in slots.items() if backoff.unready >= CRASH_LOOP)
    if not looping:
        return None
    worst = max(slots[slot].unready for slot in looping)
    who = "worker " + ", ".join(map(str, looping))
    return f"crash loop: {who} died {worst} times in a row before being ready; the log says why"


class Slots:
    """The troubles of every slot, by its number."""

    def __init__(self) -> None:
        self.backoffs: dict[int, Backoff] = {}
        self._restarts: dict[int, int] = {}

    @property
    def crash_loop(self) -> str | None:
        """A sentence about the slots that can't be filled, if there are any."""
        return crash_loop(self.backoffs)

    def restarts(self, slot: int) -> int:
        """How often this slot's worker died unasked."""
        return self._restarts.get(slot, 0)

    @property
    def all_restarts(self) -> int:
        """The same for all slots together; it never goes down."""
        return sum(self._restarts.values())

    def take_ready(self, slot: int) -> None:
        """The slot's worker said `Ready`."""
        self.backoffs[slot] = became_ready(self.backoffs.get(slot, FRESH))

    def take_death(self, slot: int, now: float, lived: float, *, ready: bool) -> None:
        """The slot's worker died unasked, or could not even be started."""
        self._restarts[slot] = self.restarts(slot) + 1
        self.backoffs[slot] = died(self.backoffs.get(slot, FRESH), now, lived, ready=ready)

    def forgive(self) -> None:
        """A new configuration: everybody may try again at once."""
        self.backoffs.clear()
