"""Signals that are held until they may raise."""

import signal

import pytest

from supervisor.cli.interrupt import Interrupted, held


@pytest.fixture(autouse=True)
def _handlers():
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_a_signal_comes_at_the_end_of_what_must_be_done_whole():
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with held():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")
        done.append("not this")
    assert done == ["all of it"]


def test_it_raises_where_that_is_allowed_and_only_once():
    with pytest.raises(KeyboardInterrupt), held() as kept:  # noqa: PT012
        with pytest.raises(Interrupted) as told, kept.let():
            signal.raise_signal(signal.SIGINT)
        assert told.value.signum == signal.SIGINT
        signal.raise_signal(signal.SIGHUP)
        assert kept.signals == [signal.SIGINT, signal.SIGHUP]
        with pytest.raises(Interrupted), kept.let():
            pytest.fail("one that waits must not be forgotten")
        kept.signals.remove(signal.SIGHUP)


def test_inside_of_what_may_be_interrupted_something_may_not():
    done = []
    with held() as kept:
        with pytest.raises(Interrupted), kept.let():  # noqa: PT012
            with held() as inner:
                assert inner is kept
                signal.raise_signal(signal.SIGTERM)
                done.append("all of it")
            done.append("not this")
        with held():
            pass
        kept.signals.clear()
    assert done == ["all of it"]


def test_an_inner_one_leaves_the_outer_one_as_it_was():
    with held() as kept:
        with pytest.raises(Interrupted), kept.let():  # noqa: PT012
            with held():
                pass
            signal.raise_signal(signal.SIGTERM)
        kept.signals.clear()


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held() as kept:
        signal.raise_signal(signal.SIGINT)
        assert kept.signals == []
