import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config import Price
from worker.cost import cost_of

PRICE = Price(input=2.0, output=10.0, cache_read=0.5, cache_write=2.5)
counts = st.none() | st.integers(0, 2**40)
dollars = st.floats(0, 1e6)
prices = st.builds(
    Price, input=dollars, output=dollars, cache_read=st.none() | dollars, cache_write=st.none() | dollars
)


def test_without_a_price_nothing_is_known():
    assert cost_of(None, 100, 100, None, None) is None


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        ((0, 0, 0, 0), 0.0),
        ((None, None, None, None), 0.0),
        ((1_000_000, 0, None, None), 2.0),
        ((0, 1_000_000, None, None), 10.0),
        ((None, 500_000, None, None), 5.0),
        # The cached ones are a part of the prompt: 600,000 read, 100,000 written, 300,000 neither.
        ((1_000_000, 0, 600_000, 100_000), 0.3 + 0.25 + 0.6),
        ((1_000_000, 0, 1_000_000, None), 0.5),
    ],
)
def test_tokens_have_their_own_prices(tokens, cost):
    assert cost_of(PRICE, *tokens) == pytest.approx(cost)


def test_cached_tokens_cost_what_others_do_unless_told():
    assert cost_of(Price(input=3.0, output=1.0), 1000, 0, 500, 500) == pytest.approx(0.003)


def test_a_free_model_costs_nothing():
    assert cost_of(Price(), 1000, 1000, 10, 10) == 0.0
    assert cost_of(Price(input=2.0, cache_read=0.0), 1000, 0, 1000, 0) == 0.0


def test_more_cached_than_there_was_is_not_believed():
    assert cost_of(PRICE, 100, 0, 1000, 1000) == cost_of(PRICE, 100, 0, 100, 0)
    assert cost_of(PRICE, 100, 0, 60, 1000) == cost_of(PRICE, 100, 0, 60, 40)


@given(prices, counts, counts, counts, counts)
def test_a_cost_is_a_number_between_nothing_and_the_dearest(price, prompt, completion, read, written):
    cost = cost_of(price, prompt, completion, read, written)
    dearest = max(price.input, price.cache_read or 0.0, price.cache_write or 0.0)
    most = ((prompt or 0) * dearest + (completion or 0) * price.output) / 1e6
    assert math.isfinite(cost)
    assert 0 <= cost <= most * (1 + 1e-12)


@given(dollars, counts, counts, counts)
def test_a_cache_that_costs_what_the_rest_does_changes_nothing(dollars, prompt, read, written):
    plain = cost_of(Price(input=dollars), prompt, 0, None, None)
    assert cost_of(Price(input=dollars), prompt, 0, read, written) == pytest.approx(plain)
    same = Price(input=dollars, cache_read=dollars, cache_write=dollars)
    assert cost_of(same, prompt, 0, read, written) == pytest.approx(plain)


@given(prices, st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 2**30)), max_size=5))
def test_streams_cost_the_sum_of_their_tokens(price, streams):
    alone = sum(cost_of(price, prompt, completion, None, None) for prompt, completion in streams)
    together = cost_of(price, sum(p for p, _ in streams), sum(c for _, c in streams), None, None)
    assert alone == pytest.approx(together)
