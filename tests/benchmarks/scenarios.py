"""What is asked of every row: five loads, each of them a mode of the mock upstream and a way of asking for it.

A sixth, `crowd`, is run by itself, on rows that have not been asked for anything else: it is also about memory.
"""

from dataclasses import dataclass, replace
from typing import Literal

from wire import is_paced

BURST_EVENTS = 1000
PACED_HZ = 20
CROWD, CROWD_HZ = 2000, 2
"""As many people as read along: two chunks a second are some three words.  At this pace nginx, the mock and the
load generator have most of their core to spare, so that what a row adds is its own."""

Unit = Literal["request", "event", "chunk"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One load.  Durations in seconds."""

    name: str
    title: str
    model: str
    """The mock's mode."""
    concurrency: int
    expected_marks: int
    """How many deltas a complete response holds."""
    unit: Unit
    """What the CPU time is divided by."""
    seconds: float
    """The measured window."""
    warmup: float
    """Load before the window; paced streams start spread over it."""

    @property
    def stream(self) -> bool:
        """Whether the response is an event stream."""
        return self.model != "json"

    @property
    def paced(self) -> bool:
        """Whether every connection carries one long stream with stamped deltas, instead of request after request."""
        return is_paced(self.model)


def scenarios(seconds: float, quick: bool) -> list[Scenario]:
    """The five loads in the order in which they run, each measured for `seconds`."""
    warmup = 0.3 if quick else 0.5
    json_1 = Scenario(
        name="json-1",
        title="JSON c=1",
        model="json",
        concurrency=1,
        expected_marks=1,
        unit="request",
        seconds=seconds,
        warmup=warmup,
    )
    json_32 = replace(json_1, name="json-32", title="JSON c=32", concurrency=32)
    burst = Scenario(
        name="burst",
        title="burst c=16",
        model=f"burst-{BURST_EVENTS}",
        concurrency=16,
        expected_marks=BURST_EVENTS,
        unit="event",
        seconds=seconds,
        warmup=warmup,
    )
    # The ramp keeps the streams' phases apart; the streams outlast the window, so that it sees all of them at work.
    streams, ramp = (100, 0.5) if quick else (400, 1.5)
    events = int(PACED_HZ * (ramp + seconds + 0.5))
    paced = Scenario(
        name="paced",
        title=f"paced c={streams}",
        model=f"paced-{events}-{PACED_HZ}",
        concurrency=streams,
        expected_marks=events,
        unit="chunk",
        seconds=seconds,
        warmup=ramp,
    )
    # Latency is measured with streams that are independent to the microsecond, CPU time with streams that come a few
    # at a time: only then does nginx come near the figure per chunk that spike S3 was compared with.
    ticked = replace(paced, name="ticked", title=f"ticked c={streams}", model=f"ticked-{events}-{PACED_HZ}")
    return [json_1, json_32, burst, paced, ticked]


def crowd(seconds: float, quick: bool) -> Scenario:
    """Very many streams at once, each at the pace of a reader; they come over ten seconds and outlast the window."""
    streams, ramp = (200, 1.0) if quick else (CROWD, 10.0)
    events = int(CROWD_HZ * (ramp + seconds + 1.0))
    return Scenario(
        name="crowd",
        title=f"crowd c={streams}",
        model=f"paced-{events}-{CROWD_HZ}",
        concurrency=streams,
        expected_marks=events,
        unit="chunk",
        seconds=seconds,
        warmup=ramp,
    )
