"""Backoff: who waits how long after a death, and what is a crash loop."""

import pytest

from supervisor.backoff import CRASH_LOOP, FRESH, MAX_DELAY, YOUNG, Backoff, Slots, became_ready, crash_loop, died


def test_one_that_served_long_enough_is_replaced_at_once():
    assert died(FRESH, 100.0, YOUNG, ready=True) == FRESH


def test_a_long_life_forgives_the_early_deaths_before_it():
    troubled = died(died(FRESH, 0.0, 0.1, ready=True), 1.0, 0.1, ready=True)
    assert died(troubled, 100.0, 60.0, ready=True) == FRESH


@pytest.mark.parametrize(
    ("deaths", "delay"), [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (10, MAX_DELAY), (5000, MAX_DELAY)]
)
def test_young_deaths_double_the_delay_up_to_the_bound(deaths, delay):
    backoff = FRESH
    for _ in range(deaths):
        backoff = died(backoff, 50.0, 1.0, ready=True)
    assert backoff.not_before == pytest.approx(50.0 + delay)
    assert backoff.unready == 0


def test_a_worker_that_never_got_ready_died_young_however_long_it_took():
    assert died(FRESH, 0.0, 600.0, ready=False).not_before == pytest.approx(0.1)


def test_a_crash_loop_tries_on_slowly_and_ready_ends_it():
    backoff = FRESH
    for _ in range(CRASH_LOOP - 1):
        backoff = died(backoff, 0.0, 0.0, ready=False)
        assert crash_loop({1: backoff}) is None
        assert backoff.not_before < 1.0
    backoff = died(backoff, 0.0, 0.0, ready=False)
    assert backoff.not_before == MAX_DELAY
    assert "worker 1 died 5 times" in (crash_loop({1: backoff, 2: FRESH}) or "")
    assert crash_loop({1: became_ready(backoff)}) is None


def test_the_verdict_names_every_looping_slot():
    verdict = crash_loop({3: Backoff(unready=7), 1: Backoff(unready=5), 2: FRESH})
    assert verdict is not None
    assert "worker 1, 3 died 7 times" in verdict


def test_restarts_are_counted_for_good():
    slots = Slots()
    slots.take_death(1, 0.0, 60.0, ready=True)
    slots.take_death(2, 1.0, 0.0, ready=False)
    slots.take_death(2, 2.0, 0.0, ready=False)
    slots.forgive()
    slots.take_ready(2)
    assert (slots.restarts(1), slots.restarts(2), slots.restarts(3)) == (1, 2, 0)
    assert slots.all_restarts == 3
