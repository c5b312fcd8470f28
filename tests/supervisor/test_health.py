"""The states of providers.  Time is a number here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from shared.config import HealthRules
from shared.events import ProviderDegraded, ProviderRecovered
from shared.messages import Health, Trouble
from shared.records import StreamRecord, StreamStart
from supervisor import health
from supervisor.health import HEALTHY, HealthBoard, LastError, ProviderHealth, Window, type_of

EPOCH = 1_800_000_000.0
"""The wall clock at the monotonic 0."""
RULES = HealthRules(window=60.0, max_errors=5)
BREAKER = HealthRules(window=60.0, max_errors=5, circuit_breaker=True, open_time=30.0)


def trouble(provider="one", error_type="ConnectError", at=0.0, status=None) -> Trouble:
    return Trouble(
        id="s",
        provider=provider,
        error_type=error_type,
        message="it did not work",
        retry_count=0,
        tokens_received=0,
        retried=False,
        at=EPOCH + at,
        http_status=status,
    )


def record(provider="one", status="completed", duration=1.0) -> StreamRecord:
    start = StreamStart(
        id="s",
        trace="t",
        session=None,
        worker=1,
        provider=provider,
        model="m",
        dialect="openai",
        streaming=True,
        started=EPOCH,
    )
    return StreamRecord(start=start, provider=provider, upstream_model="m", status=status, duration=duration)


class Board(HealthBoard):
    """A board that keeps its events, and what the workers were told."""

    def __init__(self, rules: HealthRules = RULES) -> None:
        self.events: list[ProviderDegraded | ProviderRecovered] = []
        super().__init__(rules, self.events.append)

    def fail(self, now, count=1, provider="one", **fields) -> bool:
        """Whether any of `count` errors at once was to be told."""
        return any([self.trouble(trouble(provider, at=now, **fields), now) for _ in range(count)])

    def state(self, provider="one") -> str:
        return self.snapshot().get(provider, HEALTHY).state


# --- what counts


@pytest.mark.parametrize(
    "error_type",
    [
        "ConnectError", "ConnectTimeout", "ReadError", "ReadTimeout", "WriteError", "RemoteProtocolError",
        "IncompleteStream", "DecodingError", "DialectError", "UpstreamError",
    ],
)  # fmt: skip
def test_failures_of_the_provider_count_by_their_type(error_type):
    assert type_of(trouble(error_type=error_type)) == error_type


@pytest.mark.parametrize("error_type", sorted(health.OUR_OWN))
def test_what_is_not_its_fault_does_not_count(error_type):
    assert type_of(trouble(error_type=error_type)) is None
    board = Board()
    assert not board.fail(1.0, 100, error_type=error_type)
    assert board.snapshot() == {}


@pytest.mark.parametrize("status", [301, 401, 402, 403, 408, 429, 500, 502, 503, 504, 529])
def test_statuses_of_a_provider_that_is_of_no_use_count(status):
    assert type_of(trouble(error_type="HTTPStatusError", status=status)) == f"HTTP_{status}"


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 422, 451])
def test_statuses_that_blame_the_request_do_not(status):
    assert type_of(trouble(error_type="HTTPStatusError", status=status)) is None


# --- degraded and back


def test_more_errors_than_allowed_degrade_a_provider_once():
    board = Board()
    assert not board.fail(1.0, 3)
    assert not board.fail(2.0, 2, error_type="HTTPStatusError", status=503)
    assert board.state() == "healthy"
    assert board.message() == Health()
    assert board.fail(3.0)
    assert board.message() == Health(degraded=("one",))
    assert board.events == [
        ProviderDegraded(provider="one", errors=6, types={"ConnectError": 4, "HTTP_503": 2}, timestamp=EPOCH + 3)
    ]
    assert not board.fail(4.0, 100)
    assert len(board.events) == 1


def test_it_recovers_when_no_more_than_half_as_many_are_left():
    board = Board()
    for now in range(10, 16):
        board.fail(float(now))
    assert not board.tick(72.9)  # three are left
    assert board.tick(73.0)
    assert board.message() == Health()
    assert board.events[1:] == [ProviderRecovered(provider="one", timestamp=EPOCH + 73)]
    assert not board.tick(74.0)


def test_a_success_alone_is_no_recovery():
    board = Board()
    board.fail(1.0, 6)
    assert not board.ended(record(), 30.0)
    assert board.state() == "degraded"


def test_one_at_the_border_does_not_flap():
    board = Board()
    now = 0.0
    for step in range(2000):  # four to seven in the window
        now += 9.0 + step % 7
        board.fail(now)
        board.tick(now + 8.9)
    assert [type(event) for event in board.events] == [ProviderDegraded]


def test_providers_are_judged_each_by_itself():
    board = Board()
    for now in range(5):
        board.fail(float(now), provider="one")
        board.fail(float(now), provider="two")
    assert board.fail(5.0, provider="two")
    assert board.fail(6.0, provider="one")
    assert board.message() == Health(degraded=("one", "two"))
    assert board.tick(100.0)
    assert board.message() == Health()


def test_not_a_single_error_allowed():
    board = Board(HealthRules(max_errors=0))
    assert board.fail(1.0)
    assert not board.tick(60.9)
    assert board.tick(61.0)


def test_what_it_tells_for_people():
    board = Board()
    assert board.snapshot() == {}
    board.fail(1.0, 1, error_type="ReadError")
    assert board.snapshot() == {
        "one": ProviderHealth(
            errors=1, types={"ReadError": 1}, last_error=LastError("ReadError", "it did not work", EPOCH + 1)
        )
    }
    board.fail(2.0, 5)
    told = board.snapshot()["one"]
    assert (told.state, told.since, told.errors) == ("degraded", EPOCH + 2, 6)
    assert list(told.types.items()) == [("ConnectError", 5), ("ReadError", 1)]
    board.tick(100.0)
    last = LastError("ConnectError", "it did not work", EPOCH + 2)
    assert board.snapshot()["one"] == ProviderHealth(since=EPOCH + 100, last_error=last)


# --- the circuit breaker


def open_board(now=10.0) -> Board:
    board = Board(BREAKER)
    assert board.fail(now, 6)
    return board


def test_a_circuit_opens_with_the_degradation():
    board = open_board()
    assert board.message() == Health(open=("one",))
    assert [type(event) for event in board.events] == [ProviderDegraded]
    assert not board.fail(20.0, 3)  # of streams that were under way
    assert not board.ended(record(), 21.0)
    assert not board.tick(39.9)
    assert board.tick(40.0)
    assert board.message() == Health(half_open=("one",))
    assert len(board.events) == 1


def test_a_success_closes_it():
    board = open_board()
    board.tick(40.0)
    assert board.ended(record(duration=1.0), 41.5)
    assert board.message() == Health()
    assert board.events[1:] == [ProviderRecovered(provider="one", timestamp=EPOCH + 41.5)]
    assert board.snapshot()["one"].errors == 0
    assert not board.fail(42.0, 5)  # they count from the beginning
    assert board.fail(42.0)


def test_a_failure_opens_it_again_and_is_no_news():
    board = open_board()
    board.tick(40.0)
    assert board.fail(45.0)
    assert board.message() == Health(open=("one",))
    assert not board.tick(74.9)
    assert board.tick(75.0)
    assert board.message() == Health(half_open=("one",))
    assert len(board.events) == 1


@pytest.mark.parametrize(
    "ended",
    [record("two"), record(status="failed"), record(status="cancelled"), record(duration=20.0)],
    ids=["another's", "failed", "cancelled", "begun before"],
)
def test_what_proves_nothing_leaves_it_half_open(ended):
    board = open_board()
    board.tick(40.0)
    assert not board.ended(ended, 50.0)
    assert board.state() == "half_open"


def test_others_may_try_when_nothing_came_of_the_first():
    board = open_board()
    assert board.tick(40.0)
    told = [now for now in range(41, 141) if board.tick(float(now))]
    assert told == [70, 100, 130]
    assert board.message() == Health(half_open=("one",))
    assert board.tick(160.0)


def test_a_shorter_time_holds_for_what_is_open():
    board = open_board()
    board.configure(structs.replace(BREAKER, open_time=2.0))
    assert not board.tick(11.9)
    assert board.tick(12.0)
    assert board.state() == "half_open"


# --- a reload


def test_a_reload_judges_anew_and_forgets_nothing():
    board = Board()
    board.fail(1.0, 4)
    board.configure(structs.replace(RULES, max_errors=3))
    assert board.tick(2.0)
    assert board.message() == Health(degraded=("one",))
    board.configure(structs.replace(RULES, max_errors=8))
    assert board.tick(3.0)
    assert board.message() == Health()
    board.configure(structs.replace(RULES, window=1.0))
    assert not board.tick(4.0)
    assert board.snapshot()["one"].errors == 0


def test_the_breaker_goes_on_and_off_in_place():
    board = Board()
    board.fail(1.0, 6)
    board.configure(BREAKER)
    assert board.tick(2.0)
    assert board.message() == Health(open=("one",))
    board.configure(RULES)
    assert board.tick(3.0)
    assert board.message() == Health(degraded=("one",))
    board.configure(BREAKER)
    board.tick(4.0)
    board.tick(34.0)
    assert board.state() == "half_open"
    board.configure(RULES)
    assert board.tick(62.0)
    assert board.message() == Health()
    assert [type(event) for event in board.events] == [ProviderDegraded, ProviderRecovered]


# --- invariants

PROVIDERS = st.sampled_from(["one", "two"])
STEPS = st.lists(
    st.tuples(
        st.floats(min_value=0.0, max_value=8.0),
        st.one_of(
            st.tuples(st.just("fail"), PROVIDERS, st.sampled_from(["ConnectError", "ReadError", "LimitExceeded"])),
            st.tuples(st.just("end"), PROVIDERS, st.sampled_from(["completed", "cancelled", "failed"])),
            st.just(("tick",)),
        ),
    ),
    max_size=80,
)
ALL_RULES = st.builds(
    HealthRules,
    window=st.sampled_from([1.0, 10.0, 60.0]),
    max_errors=st.integers(0, 6),
    circuit_breaker=st.booleans(),
    open_time=st.sampled_from([1.0, 20.0]),
)


@given(
    st.floats(min_value=0.5, max_value=20.0),
    st.lists(st.tuples(st.floats(min_value=0.0, max_value=9.0), st.sampled_from("abc"))),
)
def test_the_window_holds_what_a_list_would(length, steps):
    window, every, now = Window(), [], 0.0
    for pause, type in steps:
        now += pause
        window.add(now, type)
        window.slide(now - length)
        every.append((now, type))
        left = [type for at, type in every if at > now - length]
        assert len(window) == len(left)
        assert window.types == {type: left.count(type) for type in left}


def test_a_flood_is_bounded_and_changes_no_decision(monkeypatch):
    monkeypatch.setattr(health, "MAX_KEPT", 10)
    window = Window()
    for now in range(100):
        window.add(float(now), "a" if now < 95 else "b")
    assert len(window) == 10
    assert window.types == {"a": 5, "b": 5}
    window.slide(97.0)
    assert window.types == {"b": 2}


@given(ALL_RULES, STEPS)
def test_whatever_happens(rules, steps):
    board, now = Board(rules), 0.0
    told = board.message()
    errors: dict[str, list[float]] = {"one": [], "two": []}
    for pause, step in steps:
        now += pause
        match step:
            case ("fail", provider, error_type):
                changed = board.fail(now, provider=provider, error_type=error_type)
                if error_type != "LimitExceeded":
                    errors[provider].append(now)
            case ("end", provider, status):
                changed = board.ended(record(provider, status, duration=0.0), now)
            case _:
                changed = board.tick(now)
        # Who is not told has missed nothing.
        message = board.message()
        assert changed or message == told
        told = message
        # Each provider stands in one place, and events say who is not healthy.
        ill = [*message.degraded, *message.open, *message.half_open]
        assert len(set(ill)) == len(ill)
        assert rules.circuit_breaker or not (message.open or message.half_open)
        assert not (rules.circuit_breaker and message.degraded)
        for provider in errors:
            own = [event for event in board.events if event.provider == provider]
            kinds = [ProviderDegraded, ProviderRecovered] * len(own)
            assert [type(event) for event in own] == kinds[: len(own)]
            assert (provider in ill) == bool(len(own) % 2)
        if step == ("tick",) and not rules.circuit_breaker:
            for provider, times in errors.items():
                count = sum(at > now - rules.window for at in times)
                assert board.snapshot().get(provider, HEALTHY).errors == count
                assert count <= rules.max_errors or provider in ill
                assert count > rules.max_errors // 2 or provider not in ill
    # Left alone, a degraded one recovers, and an open one may be tried.
    board.tick(now + 1000.0)
    assert board.message().degraded == board.message().open == ()
    assert {*board.message().half_open} == {*told.open, *told.half_open}
