import pytest

from shared.messages import Health
from worker.health import HealthView
from worker.models import Target

A, B, C = (Target(name, "m") for name in "abc")
A2 = Target("a", "n")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def view(clock, **health):
    view = HealthView(clock)
    view.take(Health(**health))
    return view


def test_nothing_is_done_while_all_are_healthy(clock):
    targets = (A, B)
    assert HealthView(clock).order(targets) is targets
    seen = view(clock, degraded=("a",))
    seen.take(Health())
    assert seen.order(targets) is targets


def test_the_degraded_come_last_in_their_order(clock):
    assert view(clock, degraded=("a",)).order((A, B, A2, C)) == (B, C, A, A2)
    assert view(clock, degraded=("c", "a")).order((A, B, C)) == (B, A, C)
    assert view(clock, degraded=("a",)).order((A,)) == (A,)
    assert view(clock, degraded=("z",)).order((A, B)) == (A, B)


def test_an_open_circuit_is_left_out(clock):
    assert view(clock, open=("a",)).order((A, B)) == (B,)
    assert view(clock, open=("a",), degraded=("b",)).order((A, B, C)) == (C, B)
    assert view(clock, open=("a", "b")).order((A, B, A2)) == ()


def test_a_half_open_one_is_tried_once_in_its_place(clock):
    seen = view(clock, half_open=("a",))
    assert seen.order((A, B, A2)) == (A, B, A2)
    assert seen.order((A, B, A2)) == (B, A, A2)
    assert seen.order((A, B)) == (B, A)
    assert seen.order((A, A2)) == ()
    seen.take(Health(half_open=("a",)))
    assert seen.order((A,)) == (A,)
    assert seen.order((A,)) == ()


def test_the_trial_is_kept_for_a_stream_that_comes_to_it(clock):
    seen = view(clock, half_open=("b",), degraded=("c",))
    assert seen.order((A, B)) == (A, B)
    assert seen.order((A, C, B)) == (A, C, B)
    assert seen.order((C, B, A)) == (B, A, C)
    assert seen.order((C, B, A)) == (A, C, B)
    assert seen.order((C, B)) == (C, B)


def test_how_each_is(clock):
    seen = view(clock, degraded=("a",), open=("b",), half_open=("c",))
    assert [seen.state(name) for name in "abcd"] == ["degraded", "open", "half_open", "healthy"]


def test_when_to_ask_again(clock):
    seen = view(clock, open=("a",))
    assert seen.retry_after((A,), 30.0) == 30.0
    clock.now += 10
    seen.take(Health(open=("a", "b")))
    assert seen.retry_after((A, A2), 30.0) == 20.0
    assert seen.retry_after((B,), 30.0) == 30.0
    assert seen.retry_after((A, B), 30.0) == 20.0
    clock.now += 19.5
    assert seen.retry_after((A, B), 30.0) == 1.0
    seen.take(Health(half_open=("a",), open=("b",)))
    assert seen.retry_after((A, B), 30.0) == 1.0
    seen.take(Health(open=("a", "b")))
    assert seen.retry_after((A,), 30.0) == 30.0
