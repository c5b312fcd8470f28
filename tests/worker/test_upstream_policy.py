import pytest

from shared.config import Provider
from shared.errors import UpstreamBroken, UpstreamConnectError, UpstreamTimeout
from worker.upstream.policy import Failure, GiveUp, NextTarget, Retry, failure_of, next_step, parse_retry_after

PROVIDER = Provider(name="p", max_retries=2, backoff_base=1.0, max_backoff=4.0)
AGAIN = [Failure("connect"), Failure("broken"), *(Failure("status", status) for status in (500, 502, 503, 504, 529))]
STATUSES_ELSEWHERE = (301, 401, 402, 403, 404, 408, 429)
ELSEWHERE = [Failure("timeout"), Failure("untranslatable"), Failure("limited")]
ELSEWHERE += [Failure("status", code) for code in STATUSES_ELSEWHERE]
AT_FAULT = [Failure("status", status) for status in (400, 405, 409, 413, 415, 422)]


@pytest.mark.parametrize("failure", AGAIN, ids=str)
def test_the_same_target_is_asked_again_with_growing_delays_then_the_next(failure):
    def steps(provider, left):
        return [next_step(failure, attempt, provider, fallbacks_left=left) for attempt in range(3)]

    assert steps(PROVIDER, 1) == [Retry(1.0), Retry(2.0), NextTarget()]
    assert steps(PROVIDER, 0) == [Retry(1.0), Retry(2.0), GiveUp()]


@pytest.mark.parametrize("failure", ELSEWHERE, ids=str)
def test_what_another_provider_may_do_better_goes_there_at_once(failure):
    assert next_step(failure, 0, PROVIDER, fallbacks_left=1) == NextTarget()
    assert next_step(failure, 0, PROVIDER, fallbacks_left=0) == GiveUp()


@pytest.mark.parametrize("failure", AT_FAULT, ids=str)
def test_a_request_at_fault_is_tried_nowhere_else(failure):
    assert next_step(failure, 0, PROVIDER, fallbacks_left=3) == GiveUp()


def test_the_delay_is_bounded_whatever_the_attempt():
    provider = Provider(name="p", max_retries=5000, backoff_base=1.0, max_backoff=4.0)
    assert next_step(Failure("broken"), 4999, provider, fallbacks_left=0) == Retry(4.0)


def test_no_retries_when_there_shall_be_none():
    provider = Provider(name="p", max_retries=0)
    assert next_step(Failure("connect"), 0, provider, fallbacks_left=0) == GiveUp()


@pytest.mark.parametrize(("wanted", "step"), [(0.0, Retry(1.0)), (3.0, Retry(3.0)), (4.0, Retry(4.0)), (5.0, GiveUp())])
def test_a_small_retry_after_is_a_minimum_and_a_large_one_ends_it(wanted, step):
    assert next_step(Failure("status", 503, wanted), 0, PROVIDER, fallbacks_left=0) == step


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UpstreamConnectError("x"), "connect"),
        (UpstreamTimeout("x", "ConnectTimeout"), "connect"),
        (UpstreamTimeout("x"), "timeout"),
        (UpstreamBroken("x", "RemoteProtocolError"), "broken"),
    ],
)
def test_exceptions_as_failures(error, kind):
    assert failure_of(error) == Failure(kind)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Sun, 06 Nov 99999999 08:49:37 GMT", None),
    ],
)
def test_retry_after(value, seconds):
    assert parse_retry_after(value, now=784111767.0) == seconds
