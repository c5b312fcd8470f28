import pytest
from fakes.streams import make_record, make_start
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import Progress
from shared.records import Tokens
from supervisor.ledger import CLOSED_IDS, Ledger


@pytest.fixture
def ledger():
    return Ledger()


def test_a_stream_from_start_to_end(ledger):
    ledger.started(11, make_start("a"))
    ledger.progress(11, [Progress("a", 7, 700), Progress("unknown", 1, 1)])
    (stream,) = ledger.active()
    assert (stream.worker_pid, stream.start.id, stream.tokens, stream.received_bytes) == (11, "a", 7, 700)
    assert ledger.active(11) == [stream]
    assert ledger.active(12) == []
    record = make_record("a")
    assert ledger.ended(11, record) is record
    assert ledger.active() == []
    totals = ledger.totals()
    assert (totals.started, totals.active, totals.completed) == (1, 0, 1)
    assert (totals.prompt_tokens, totals.completion_tokens) == (10, 20)


def test_a_second_record_of_a_stream_is_none(ledger):
    ledger.started(11, make_start("a"))
    assert ledger.ended(11, make_record("a"))
    assert ledger.ended(11, make_record("a", status="failed")) is None
    ledger.started(11, make_start("a"))
    assert (ledger.totals().started, ledger.active_count()) == (1, 0)


def test_an_end_without_a_start_counts_as_both(ledger):
    assert ledger.ended(11, make_record("a", status="cancelled", prompt=None, completion=None))
    totals = ledger.totals()
    assert (totals.started, totals.cancelled, totals.completion_tokens) == (1, 1, 0)


def test_a_repeated_start_counts_once(ledger):
    ledger.started(11, make_start("a"))
    ledger.progress(11, [Progress("a", 7, 700)])
    ledger.started(11, make_start("a"))
    assert ledger.totals().started == 1
    assert ledger.active()[0].tokens == 7


def test_a_dead_worker_leaves_failed_records_with_what_was_heard(ledger):
    ledger.started(11, make_start("a", started=100.0))
    ledger.started(11, make_start("b", started=200.0))
    ledger.started(12, make_start("c"))
    ledger.progress(11, [Progress("a", 5, 1), Progress("a", 9, 2)])
    first, second = ledger.worker_died(11, now=150.0)
    assert (first.start.id, first.status, first.error_type) == ("a", "failed", "worker_died")
    assert first.completion == Tokens(9, "partial")
    assert first.duration == 50.0
    # The wall clock went back meanwhile.
    assert (second.duration, second.completion) == (0.0, Tokens(0, "partial"))
    assert [stream.start.id for stream in ledger.active()] == ["c"]
    assert ledger.worker_died(11, now=151.0) == []
    assert ledger.ended(11, make_record("a")) is None
    assert ledger.totals().failed == 2


def test_what_a_dead_worker_had_told_has_its_cost(ledger):
    for id, price in (("priced", 10.0), ("free", 0.0), ("unpriced", None), ("unheard", 10.0)):
        ledger.started(11, make_start(id, output_price=price))
    ledger.progress(11, [Progress(id, 500, 1) for id in ("priced", "free", "unpriced")])
    records = ledger.worker_died(11, now=2_000.0)
    assert {record.start.id: record.cost for record in records} == {
        "priced": 0.005,
        "free": 0.0,
        "unpriced": None,
        "unheard": 0.0,
    }


def test_providers_are_counted_as_asked_and_as_answered(ledger):
    ledger.started(11, make_start("a", provider="kimi"))
    ledger.started(11, make_start("b", provider="kimi"))
    assert ledger.provider_counts()["kimi"].active == 2
    ledger.ended(11, make_record("a", start=make_start("a", provider="kimi"), provider="groq"))
    ledger.ended(11, make_record("b", status="failed", error_type="ReadError"))
    kimi, groq = ledger.provider_counts()["kimi"], ledger.provider_counts()["groq"]
    assert (kimi.active, kimi.completed, kimi.failed, kimi.last_error) == (0, 0, 1, "ReadError")
    assert (groq.active, groq.completed, groq.last_error) == (0, 1, None)


def test_the_memory_of_closed_streams_is_bounded(ledger):
    for number in range(CLOSED_IDS + 10):
        ledger.ended(11, make_record(f"s{number}"))
    assert len(ledger._closed) == CLOSED_IDS
    assert ledger.ended(11, make_record(f"s{CLOSED_IDS}")) is None


PIDS = st.integers(min_value=1, max_value=3)
IDS = st.sampled_from("abcdefgh")
PROVIDERS = st.sampled_from(["kimi", "groq"])
STATUSES = st.sampled_from(["completed", "cancelled", "failed"])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("started"), PIDS, IDS, PROVIDERS),
            st.tuples(st.just("ended"), PIDS, IDS, PROVIDERS, STATUSES),
            st.tuples(st.just("died"), PIDS),
        )
    )
)
def test_started_is_active_plus_ended_and_every_id_ends_once(steps):
    ledger = Ledger()
    # An id belongs to one worker and one asked provider, as it does in life.
    recorded = []
    for step in steps:
        match step:
            case ("started", pid, id, provider):
                ledger.started(pid, make_start(f"{pid}{id}", provider=provider))
            case ("ended", pid, id, provider, status):
                record = make_record(f"{pid}{id}", provider=provider, status=status)
                if ledger.ended(pid, record):
                    recorded.append(record.start.id)
            case ("died", pid):
                recorded += [record.start.id for record in ledger.worker_died(pid, now=2_000.0)]
                assert ledger.active(pid) == []
        totals = ledger.totals()
        ended = totals.completed + totals.cancelled + totals.failed
        assert totals.started == totals.active + ended
        assert totals.active == len(ledger.active()) == ledger.active_count()
        assert totals.active == sum(counts.active for counts in ledger.provider_counts().values())
        assert all(counts.active >= 0 for counts in ledger.provider_counts().values())
        assert len(recorded) == len(set(recorded)) == ended


def test_when_a_stream_last_moved(ledger):
    ledger.started(11, make_start("a"), 10.0)
    (stream,) = ledger.active()
    assert (stream.began, stream.moved) == (10.0, 10.0)
    for step, now, moved in (
        (Progress("a", 0, 0), 11.0, 10.0),
        (Progress("a", 0, 20), 12.0, 12.0),  # bytes that hold no text
        (Progress("a", 5, 20), 13.0, 13.0),
        (Progress("a", 5, 20), 99.0, 13.0),
    ):
        ledger.progress(11, [step], now)
        assert (stream.began, stream.moved) == (10.0, moved)


def test_how_fast_a_stream_is(ledger):
    ledger.started(11, make_start("a"), 10.0)
    (stream,) = ledger.active()
    for tokens, now, rate in (
        (10, 11.0, 10.0),
        (90, 11.001, 10.0),  # two beats that were read together
        (90, 12.0, 80.0),
        (90, 13.0, 0.0),
        (3, 14.0, 0.0),  # another attempt began
        (5, 15.0, 2.0),
    ):
        ledger.progress(11, [Progress("a", tokens, 0)], now)
        assert stream.rate == pytest.approx(rate)


def test_the_accuracy_of_our_counts(ledger):
    assert ledger.token_accuracy is None
    ledger.ended(11, make_record("a", completion=Tokens(100, "provider"), counted_completion=90))
    ledger.ended(11, make_record("b", completion=Tokens(100, "provider"), counted_completion=106))
    ledger.ended(11, make_record("b", completion=Tokens(100, "provider"), counted_completion=1))  # told twice
    ledger.ended(11, make_record("c", completion=Tokens(7, "counted"), counted_completion=None))
    ledger.ended(11, make_record("d", completion=Tokens(7, "partial")))
    assert ledger.token_accuracy == 0.98
