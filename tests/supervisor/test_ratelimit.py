"""Limits: exact, first come first served, and without leaks, whatever happens in whatever order."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from shared.clientkeys import fingerprint, hashed
from shared.config import Auth, Client, Config, Provider, RateLimit, RateLimiting
from supervisor.ratelimit import Decision, Limits


def config(
    *,
    rate: tuple[int, int] | None = None,
    at_once: int | None = None,
    key_rate: tuple[int, int] | None = None,
    key_at_once: int | None = None,
    max_wait: float = 0.0,
) -> Config:
    """Provider `p` with limits, `q` with the same, and `free` without; rates as (a minute, burst)."""
    limit = RateLimit(requests_per_minute=rate[0], burst_size=rate[1]) if rate else None
    per_key = RateLimit(requests_per_minute=key_rate[0], burst_size=key_rate[1]) if key_rate else None
    providers = {name: Provider(name=name, rate_limit=limit, max_concurrent=at_once) for name in "pq"}
    return Config(
        providers={**providers, "free": Provider(name="free")},
        rate_limiting=RateLimiting(max_wait=max_wait, per_key=per_key, max_concurrent_per_key=key_at_once),
    )


def admitted(decisions: list[Decision]) -> list[str]:
    return [decision.id for decision in decisions if decision.admitted]


def refused(decisions: list[Decision]) -> list[str]:
    return [decision.id for decision in decisions if not decision.admitted]


class Asking:
    """Streams with names of their own, one after the other."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.count = 0

    def one(self, now: float, provider: str = "p", client: str | None = None) -> list[Decision]:
        self.count += 1
        return self.limits.ask(f"s{self.count}", provider, client, now)

    def many(self, count: int, now: float, provider: str = "p", client: str | None = None) -> int:
        """How many of so many got in."""
        return sum(len(admitted(self.one(now, provider, client))) for _ in range(count))


# --- requests a minute


def test_a_burst_and_then_the_rate():
    asking = Asking(Limits(config(rate=(60, 10))))
    assert asking.many(30, 100.0) == 10
    assert asking.many(5, 100.9) == 0
    assert asking.many(5, 101.0) == 1
    assert asking.many(5, 103.5) == 2
    assert asking.many(5, 104.0) == 1
    assert asking.many(50, 1000.0) == 10


def test_small_steps_lose_nothing():
    asking = Asking(Limits(config(rate=(600, 1))))
    assert asking.many(2, 0.0) == 1
    assert sum(asking.many(1, step / 1000) for step in range(1, 10_001)) == 100


def test_what_a_refused_one_is_told():
    asking = Asking(Limits(config(rate=(60, 2))))
    asking.many(2, 0.0)
    [decision] = asking.one(0.25)
    limit = decision.limit
    assert not decision.admitted
    assert (limit.name, limit.limit, limit.remaining, limit.concurrent) == ("provider p", 60, 0, False)
    assert limit.retry_after == pytest.approx(0.75)
    assert limit.reset_after == pytest.approx(1.75)


def test_what_one_who_is_let_in_is_told():
    limits = Limits(config(rate=(60, 5), at_once=2, key_rate=(30, 3), key_at_once=1))
    [decision] = limits.ask("a", "p", "1a2b", 0.0)
    limit = decision.limit
    assert decision.admitted
    assert (limit.name, limit.limit, limit.remaining, limit.retry_after) == ("key 1a2b", 30, 2, 0.0)
    assert limit.reset_after == pytest.approx(2.0)


def test_without_a_limit_everybody_is_let_in_and_told_nothing():
    limits = Limits(config(rate=(60, 1)))
    assert limits.ask("a", "free", "1a2b", 0.0) == [Decision("a", True, None)]
    assert limits.ask("b", "unknown", None, 0.0) == [Decision("b", True, None)]


def test_where_only_streams_at_once_are_limited_that_is_told():
    [decision] = Limits(config(at_once=3)).ask("a", "p", None, 0.0)
    assert (decision.limit.limit, decision.limit.remaining, decision.limit.concurrent) == (3, 2, True)


def test_each_provider_and_each_key_has_its_own_bucket():
    asking = Asking(Limits(config(rate=(60, 3))))
    assert [asking.many(5, 0.0, provider) for provider in "pq"] == [3, 3]
    asking = Asking(Limits(config(key_rate=(60, 3))))
    assert [asking.many(5, 0.0, client=client) for client in ("one", "two", None)] == [3, 3, 5]


def test_a_key_s_bucket_is_one_for_all_providers():
    asking = Asking(Limits(config(key_rate=(60, 3))))
    assert asking.many(2, 0.0, "p", "one") + asking.many(2, 0.0, "q", "one") == 3


def test_one_who_is_refused_by_one_limit_takes_nothing_of_the_others():
    asking = Asking(Limits(config(rate=(60, 3), key_rate=(60, 1))))
    assert asking.many(5, 0.0, client="one") == 1
    assert asking.many(5, 0.0, client="two") == 1
    assert asking.many(5, 0.0) == 1


def test_an_unused_token_goes_back():
    asking = Asking(Limits(config(rate=(60, 1))))
    assert asking.many(1, 0.0) == 1
    asking.limits.withdraw(["s1"], 0.0, unused=True)
    assert asking.many(2, 0.0) == 1
    asking.limits.withdraw(["s2"], 0.0)
    assert asking.many(1, 0.0) == 0, "a used one does not"


def test_going_back_never_makes_more_than_the_burst():
    asking = Asking(Limits(config(rate=(60, 2))))
    asking.many(1, 0.0)
    asking.limits.withdraw(["s1"], 100.0, unused=True)
    assert asking.many(5, 100.0) == 2


# --- streams at once


def test_streams_at_once():
    asking = Asking(Limits(config(at_once=2)))
    assert asking.many(3, 0.0) == 2
    [decision] = asking.one(1.0)
    assert (decision.limit.limit, decision.limit.remaining, decision.limit.concurrent) == (2, 0, True)
    assert decision.limit.retry_after == 1.0
    asking.limits.withdraw(["s1"], 1.0)
    asking.limits.withdraw(["s1"], 1.0)
    assert asking.many(3, 1.0) == 1


def test_a_key_s_streams_at_once_are_counted_over_all_providers():
    asking = Asking(Limits(config(key_at_once=2)))
    assert asking.many(2, 0.0, "p", "one") == 2
    assert asking.many(1, 0.0, "q", "one") == 0
    assert asking.many(1, 0.0, "q", "two") == 1


def test_asking_for_another_provider_gives_the_place_at_the_first_back():
    limits = Limits(config(at_once=1))
    limits.ask("a", "p", None, 0.0)
    limits.ask("a", "q", None, 0.0)
    assert admitted(limits.ask("b", "p", None, 0.0)) == ["b"]
    assert refused(limits.ask("c", "q", None, 0.0)) == ["c"]


# --- waiting


def test_waiting_for_a_token():
    asking = Asking(Limits(config(rate=(60, 1), max_wait=10.0)))
    assert asking.many(3, 0.0) == 1
    assert asking.limits.waiting == 2
    assert asking.limits.tick(0.9) == []
    assert admitted(asking.limits.tick(1.0)) == ["s2"]
    assert asking.one(2.0) == []
    assert admitted(asking.limits.tick(2.0)) == ["s3"], "who came first goes first"
    assert admitted(asking.limits.tick(3.0)) == ["s4"]
    assert asking.limits.waiting == 0


def test_waiting_for_a_place():
    asking = Asking(Limits(config(at_once=1, max_wait=10.0)))
    asking.many(3, 0.0)
    assert admitted(asking.limits.withdraw(["s1"], 0.1)) == ["s2"]
    assert admitted(asking.limits.withdraw(["s2"], 0.2)) == ["s3"]


def test_waiting_ends():
    asking = Asking(Limits(config(rate=(6, 1), max_wait=2.0)))
    asking.many(1, 0.0)
    asking.one(0.0)
    asking.one(1.0)
    assert asking.limits.tick(1.9) == []
    [decision] = asking.limits.tick(2.0)
    assert (decision.id, decision.admitted) == ("s2", False)
    assert decision.limit.retry_after == pytest.approx(18.0), "behind the one that waits"
    assert refused(asking.limits.tick(3.0)) == ["s3"]
    assert asking.limits.waiting == 0


def test_who_leaves_while_waiting_gives_the_place_to_the_next():
    asking = Asking(Limits(config(rate=(60, 1), max_wait=10.0)))
    asking.many(3, 0.0)
    assert asking.limits.withdraw(["s2"], 0.5) == []
    assert admitted(asking.limits.tick(1.0)) == ["s3"]


def test_who_waits_for_one_limit_is_in_nobody_s_way_at_another():
    asking = Asking(Limits(config(rate=(6000, 10), key_at_once=1, max_wait=10.0)))
    assert asking.many(3, 0.0, client="busy") == 1
    assert asking.many(3, 0.0, client="other") == 1
    assert asking.many(5, 0.0) == 5


def test_nobody_is_overtaken_where_he_waits():
    """First come, first served at the provider's limit, over lines of different keys."""
    asking = Asking(Limits(config(rate=(60, 1), key_at_once=5, max_wait=100.0)))
    asking.many(1, 0.0, client="one")
    clients = ["one", "two", None, "one", "three", None, "two"]
    for client in clients:
        asking.one(0.1, client=client)
    order = [id for second in range(1, 9) for id in admitted(asking.limits.tick(float(second)))]
    assert order == [f"s{number}" for number in range(2, 9)]


def test_several_are_let_in_at_once_if_there_is_room():
    asking = Asking(Limits(config(rate=(60, 3), max_wait=10.0)))
    asking.many(6, 0.0)
    assert admitted(asking.limits.tick(2.0)) == ["s4", "s5"]


def test_many_leave_at_once():
    """A worker's death: nobody who died with it gets what it held."""
    asking = Asking(Limits(config(rate=(60, 2), at_once=2, max_wait=10.0)))
    asking.many(6, 0.0)
    assert admitted(asking.limits.withdraw(["s1", "s2", "s3", "s4"], 1.0)) == ["s5"]
    assert (asking.limits.inside, asking.limits.waiting) == (1, 1)


# --- reloads


def test_a_reload_keeps_the_level():
    asking = Asking(Limits(config(rate=(60, 10))))
    assert asking.many(7, 0.0) == 7
    asking.limits.configure(config(rate=(120, 20)))
    assert asking.many(20, 0.0) == 3
    assert asking.many(20, 1.0) == 2
    asking.limits.configure(config(rate=(60, 1)))
    asking.limits.tick(100.0)
    assert asking.many(20, 100.0) == 1


def test_the_time_before_a_reload_counts_by_the_old_rate():
    asking = Asking(Limits(config(rate=(60, 10))))
    asking.many(10, 0.0)
    asking.limits.tick(1.0)
    asking.limits.configure(config(rate=(6000, 10)))
    assert asking.many(20, 1.0) == 1


def test_limits_come_and_go():
    asking = Asking(Limits(config()))
    assert asking.many(20, 0.0) == 20
    asking.limits.configure(config(rate=(60, 2), at_once=21))
    assert asking.many(5, 0.0) == 1, "those who are inside count"
    asking.limits.configure(config())
    assert asking.many(20, 0.0) == 20
    asking.limits.configure(config(at_once=30))
    assert asking.many(1, 0.0) == 0
    asking.limits.withdraw([f"s{number}" for number in range(1, 100)], 0.0)
    assert asking.many(40, 0.0) == 30


def test_a_limit_that_goes_lets_in_who_waits_for_it():
    asking = Asking(Limits(config(at_once=1, max_wait=10.0)))
    asking.many(3, 0.0)
    asking.limits.configure(config(max_wait=10.0))
    assert admitted(asking.limits.tick(0.1)) == ["s2", "s3"]


def test_a_shorter_wait_holds_for_those_who_wait():
    asking = Asking(Limits(config(at_once=1, max_wait=10.0)))
    asking.many(3, 0.0)
    asking.limits.configure(config(at_once=1))
    assert refused(asking.limits.tick(0.1)) == ["s2", "s3"]


# --- whatever happens

LIMITS = st.builds(
    config,
    rate=st.none() | st.tuples(st.integers(1, 2000), st.integers(1, 8)),
    at_once=st.none() | st.integers(1, 4),
    key_rate=st.none() | st.tuples(st.integers(1, 2000), st.integers(1, 8)),
    key_at_once=st.none() | st.integers(1, 4),
    max_wait=st.sampled_from([0.0, 0.3, 5.0]),
)


@settings(deadline=None, max_examples=200)
@given(
    rate=st.integers(1, 6000),
    burst=st.integers(1, 20),
    max_wait=st.sampled_from([0.0, 1.0]),
    steps=st.lists(st.floats(0, 2), min_size=1, max_size=150),
    unused=st.sets(st.integers(1, 150)),
)
def test_in_no_window_more_are_let_in_than_a_bucket_allows(rate, burst, max_wait, steps, unused):
    limits = Limits(config(rate=(rate, burst), max_wait=max_wait))
    now, times = 0.0, {}
    for number, step in enumerate(steps, 1):
        now += step * step
        for decision in limits.ask(f"s{number}", "p", None, now):
            if decision.admitted:
                times[decision.id] = now
        if number in unused and times.pop(f"s{number}", None) is not None:
            for id in admitted(limits.withdraw([f"s{number}"], now, unused=True)):
                times[id] = now
    used = sorted(times.values())
    for first in range(len(used)):
        for last in range(first, len(used)):
            assert last - first + 1 <= burst + rate / 60 * (used[last] - used[first]) + 1e-6


@settings(deadline=None, max_examples=300)
@given(LIMITS, LIMITS, st.integers(0, 2**32))
def test_whatever_happens_nothing_leaks_and_everybody_is_answered_once(before, after, seed):
    rnd = random.Random(seed)
    limits, now = Limits(before), 0.0
    held: dict[str, tuple[str, str | None]] = {}
    waiting: dict[str, tuple[str, str | None, float]] = {}
    current = before

    def hear(decisions: list[Decision]) -> None:
        for decision in decisions:
            provider, client, _ = waiting.pop(decision.id)
            if decision.admitted:
                held[decision.id] = (provider, client)
            else:
                assert decision.limit is not None
                assert decision.limit.retry_after > 0

    for number in range(120):
        now += rnd.random() / 5
        event = rnd.random()
        if event < 0.55:
            id, provider, client = f"s{number}", rnd.choice(["p", "q", "free"]), rnd.choice(["one", "two", None])
            waiting[id] = (provider, client, now)
            hear(limits.ask(id, provider, client, now))
        elif event < 0.95 and (held or waiting):
            ids = rnd.sample([*held, *waiting], k=rnd.choice([1, 1, 1, min(3, len(held) + len(waiting))]))
            for id in ids:
                held.pop(id, None)
                waiting.pop(id, None)
            hear(limits.withdraw(ids, now, unused=rnd.random() < 0.3))
        elif current is before and number > 60:
            current = after
            limits.configure(after)
            hear(limits.tick(now))
        else:
            hear(limits.tick(now))
        assert (limits.inside, limits.waiting) == (len(held), len(waiting))
        if event >= 0.95:
            assert all(now - since < current.rate_limiting.max_wait for _, _, since in waiting.values())
        if current is before:
            for name, provider in before.providers.items():
                assert sum(one == name for one, _ in held.values()) <= (provider.max_concurrent or math.inf)
            for key in ("one", "two"):
                most = before.rate_limiting.max_concurrent_per_key or math.inf
                assert sum(client == key for _, client in held.values()) <= most
    limits.withdraw([*held, *waiting], now)
    assert (limits.inside, limits.waiting, limits._lines) == (0, 0, {})
    assert all(slots.taken == 0 for slots in limits._slots.values())
    now += 1e6
    for number in range(4):  # as good as new
        [decision] = limits.ask(f"new{number}", "p", "one", now + number * 1000)
        assert decision.admitted
        limits.withdraw([decision.id], now + number * 1000)


# --- clients with a name


def with_clients(base: Config, *clients: Client) -> Config:
    return structs.replace(base, auth=Auth(clients=clients))


def client(name: str, rate: tuple[int, int] | None = None, at_once: int | None = None) -> Client:
    limit = RateLimit(requests_per_minute=rate[0], burst_size=rate[1]) if rate else None
    return Client(name=name, key=hashed(name), rate_limit=limit, max_concurrent=at_once)


def test_a_client_s_own_limits_go_before_those_of_every_key():
    base = with_clients(config(key_rate=(60, 2), key_at_once=9), client("wide", rate=(60, 5)), client("as all"))
    asking = Asking(Limits(base))
    assert asking.many(10, 0.0, "free", fingerprint("wide")) == 5
    assert asking.many(10, 0.0, "q", fingerprint("as all")) == 2
    assert asking.many(10, 0.0, "free", "0" * 12) == 2
    narrow = Asking(Limits(with_clients(config(key_at_once=9), client("narrow", at_once=1))))
    assert narrow.many(10, 0.0, "free", fingerprint("narrow")) == 1
    assert narrow.many(10, 0.0, "free", "0" * 12) == 9


def test_refusals_name_the_client():
    asking = Asking(Limits(with_clients(config(key_rate=(60, 1)), client("ci", at_once=1))))
    asking.many(1, 0.0, "free", fingerprint("ci"))
    [decision] = asking.one(0.0, "free", fingerprint("ci"))
    assert decision.limit is not None
    assert decision.limit.name == "client ci"
    asking.many(1, 0.0, "free", "0" * 12)
    [decision] = asking.one(0.0, "free", "0" * 12)
    assert decision.limit is not None
    assert decision.limit.name == f"key {'0' * 12}"


def test_a_reload_changes_a_client_s_limits_and_its_name_and_keeps_its_level():
    limits = Limits(with_clients(config(), client("ci", rate=(60, 10))))
    asking = Asking(limits)
    assert asking.many(8, 0.0, "free", fingerprint("ci")) == 8
    renamed = structs.replace(client("ci", rate=(60, 5)), name="build")
    limits.configure(with_clients(config(), renamed))
    assert asking.many(5, 0.0, "free", fingerprint("ci")) == 2
    [decision] = asking.one(0.0, "free", fingerprint("ci"))
    assert decision.limit is not None
    assert decision.limit.name == "client build"
    limits.configure(with_clients(config()))
    assert asking.many(50, 0.0, "free", fingerprint("ci")) == 50
