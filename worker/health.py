"""The health of the providers, as the supervisor tells it: whom a stream asks first, last, or not at all."""

import math
import time
from collections.abc import Callable
from typing import Literal

from shared.errors import UpstreamError
from shared.messages import Health
from worker.models import Target

MIN_RETRY_AFTER = 1.0
LAST_RESORT = 2

Targets = tuple[Target, ...]
State = Literal["healthy", "degraded", "open", "half_open"]


class CircuitOpen(UpstreamError):
    """Nobody was asked, as each provider that has the model has an open circuit.  `retry_after` in seconds."""

    error_type = "CircuitOpen"

    def __init__(self, targets: Targets, retry_after: float) -> None:
        names = ", ".join(dict.fromkeys(target.provider for target in targets))
        super().__init__(f"after too many errors, these providers are not asked for a while: {names}; try again later")
        self.retry_after = retry_after


class HealthView:
    """What one worker knows of it.  `clock`: monotonic seconds.

    A provider whose circuit is half open is tried by the first stream here whose first choice it is, once for each
    message that says so: in the whole service by as many streams as there are workers, and by that many again after
    `open_time`, should none of them have come to an end.  Asking the supervisor for each would make it exactly one, for
    a round trip.  Other streams come to it when all else has failed, and don't ask it if there is nothing else.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._health = Health()
        self._all_healthy = True
        self._untried: set[str] = set()
        self._opened: dict[str, float] = {}

    def take(self, health: Health) -> None:
        """What holds from now on."""
        now = self._clock()
        self._health = health
        self._all_healthy = not (health.degraded or health.open or health.half_open)
        self._untried = set(health.half_open)
        self._opened = {name: self._opened.get(name, now) for name in health.open}

    def state(self, provider: str) -> State:
        """How a provider is, as far as this worker has heard."""
        health = self._health
        if provider in health.open:
            return "open"
        if provider in health.half_open:
            return "half_open"
        return "degraded" if provider in health.degraded else "healthy"

    def order(self, targets: Targets) -> Targets:
        """`targets` as they are to be asked: the degraded last, those with an open circuit not at all.

        The same object if all are healthy; empty if nobody may be asked.
        """
        return targets if self._all_healthy else self._sorted(targets)

    def retry_after(self, targets: Targets, open_time: float) -> float:
        """Seconds until one of `targets`, none of which may be asked now, is tried again."""
        now = self._clock()
        waits = [self._opened.get(target.provider, -math.inf) + open_time - now for target in targets]
        return max(min(waits), MIN_RETRY_AFTER)

    def _sorted(self, targets: Targets) -> Targets:
        health = self._health
        asked = [target for target in targets if target.provider not in health.open]
        trial = next((target.provider for target in asked if target.provider not in health.degraded), None)
        if trial in self._untried:
            self._untried.discard(trial)
        else:
            trial = None

        def rank(target: Target) -> int:
            if target.provider in health.half_open and target.provider != trial:
                return LAST_RESORT
            return 1 if target.provider in health.degraded else 0

        ordered = sorted(asked, key=rank)  # keeps the order of equals
        if ordered and rank(ordered[0]) == LAST_RESORT:
            return ()
        return tuple(ordered)
