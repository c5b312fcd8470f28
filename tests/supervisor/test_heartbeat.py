"""Heartbeats: silence is judged in the supervisor's waking time."""

import pytest

from supervisor.heartbeat import DUMP_TIME, LAST_WORDS_TIME, TICK, AwakeClock, verdict


@pytest.mark.parametrize(
    ("silence", "stuck_for", "expected"),
    [
        (0.0, None, "fine"),
        (30.0, None, "fine"),
        (30.1, None, "dump"),
        (30.1, 0.0, "wait"),
        (0.0, DUMP_TIME / 2, "wait"),  # a late beat does not save it: its replacement is on the way
        (31.0, DUMP_TIME, "last_words"),
        (31.0, DUMP_TIME + LAST_WORDS_TIME, "kill"),
        (99.0, 60.0, "kill"),
    ],
)
def test_verdict(silence, stuck_for, expected):
    assert verdict(silence, stuck_for, 30.0) == expected


def test_an_awake_supervisor_reads_real_time():
    clock = AwakeClock(1000.0)
    readings = [clock.read(1000.0 + tick * TICK) for tick in range(1, 41)]
    assert readings == pytest.approx([tick * TICK for tick in range(1, 41)])


def test_an_hour_of_absence_counts_as_two_ticks():
    clock = AwakeClock(0.0)
    heard = clock.read(1.0)
    assert clock.read(3601.0) - heard == pytest.approx(2 * TICK)
    assert verdict(clock.read(3602.0) - heard, None, 30.0) == "fine"


def test_a_clock_that_goes_back_moves_nothing():
    clock = AwakeClock(100.0)
    assert clock.read(40.0) == 0.0
    assert clock.read(40.5) == 0.5
