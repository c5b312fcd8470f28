import math

import pytest
from fakes.prometheus import parse
from hypothesis import given
from hypothesis import strategies as st

from supervisor.exposition import Counter, Gauge, Histogram, Names, exposition


def test_what_each_kind_looks_like():
    counter = Counter("c_total", "Things.", ("provider", "model"))
    counter.add(("kimi", "k2"))
    counter.add(("kimi", "k2"), 2)
    counter.add(("groq", "x"), 0.25)
    gauge = Gauge("g", "Now.", ("worker",))
    gauge.set_all({("1",): True, ("2",): 1.5e-7})
    histogram = Histogram("h_seconds", "How long.", (0.5, 1.0), ("kind",))
    for value in (0.5, 0.7, 9):
        histogram.observe(value, ("a",))
    plain = Histogram("p", "Plain.", (1,))
    assert exposition([counter, gauge, histogram, plain]).decode() == (
        "# HELP c_total Things.\n"
        "# TYPE c_total counter\n"
        'c_total{provider="kimi",model="k2"} 3\n'
        'c_total{provider="groq",model="x"} 0.25\n'
        "# HELP g Now.\n"
        "# TYPE g gauge\n"
        'g{worker="1"} 1\n'
        'g{worker="2"} 1.5e-07\n'
        "# HELP h_seconds How long.\n"
        "# TYPE h_seconds histogram\n"
        'h_seconds_bucket{kind="a",le="0.5"} 1\n'
        'h_seconds_bucket{kind="a",le="1.0"} 2\n'
        'h_seconds_bucket{kind="a",le="+Inf"} 3\n'
        'h_seconds_sum{kind="a"} 10.2\n'
        'h_seconds_count{kind="a"} 3\n'
        "# HELP p Plain.\n"
        "# TYPE p histogram\n"
        'p_bucket{le="1"} 0\n'
        'p_bucket{le="+Inf"} 0\n'
        "p_sum 0.0\n"
        "p_count 0\n"
    )


def test_a_family_without_labels_begins_at_nothing_and_one_with_labels_is_empty():
    told = parse(exposition([Counter("a_total", "A."), Counter("b_total", "B.", ("x",)), Gauge("c", "C.")]))
    assert told.samples == {("a_total", frozenset()): 0}
    assert told.types == {"a_total": "counter", "b_total": "counter", "c": "gauge"}


def test_help_is_one_line():
    assert exposition([Gauge("g", "a\\b\nc")]) == b"# HELP g a\\\\b\\nc\n# TYPE g gauge\n"


@given(st.dictionaries(st.text(), st.floats() | st.integers(-(2**60), 2**60)))
def test_whatever_a_label_holds_can_be_read_again(values):
    gauge = Gauge("g", "Any.", ("name",))
    gauge.set_all({(name,): value for name, value in values.items()})
    told = parse(exposition([gauge]))
    assert len(told.samples) == len(values)
    for name, value in values.items():
        assert told.value("g", name=name) == pytest.approx(value, rel=1e-12, nan_ok=True)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32)))
def test_a_histogram_counts_every_value_once(values):
    bounds = (-1.0, 0.0, 0.5, 100.0)
    histogram = Histogram("h", "Any.", bounds)
    for value in values:
        histogram.observe(value)
    told = parse(exposition([histogram]))
    assert told.value("h_count") == len(values)
    for bound in bounds:
        assert told.value("h_bucket", le=repr(bound)) == sum(value <= bound for value in values)
    assert told.value("h_sum") == pytest.approx(math.fsum(max(value, 0) for value in values))


@given(st.lists(st.integers(-(2**30), 2**30) | st.floats(allow_nan=False)))
def test_a_counter_never_goes_down(amounts):
    counter = Counter("c_total", "Any.")
    before = 0.0
    for amount in amounts:
        counter.add((), amount)
        assert counter.values[()] >= before
        before = counter.values[()]


def test_names_beyond_the_bound_are_other():
    names = Names(2, max_chars=5)
    assert [names[name] for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", "other", "a", "other", "b"]
    assert Names(2, max_chars=5)["too long"] == "other"
