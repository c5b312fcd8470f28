from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
from fakes.history import NOW
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import QueryError
from shared.history.parameters import (
    BUCKETS,
    EXPORT,
    FILTERS,
    GROUPING,
    LISTING,
    MAX_ROWS,
    Cursor,
    Filters,
    parse_export,
    parse_filters,
    parse_grouping,
    parse_listing,
)


def filters(query):
    return parse_filters(parse_qs(query), NOW)


def test_nothing_asked_is_everything():
    assert filters("") == Filters()
    listing = parse_listing({}, NOW)
    assert (listing.limit, listing.cursor) == (100, None)
    assert parse_grouping({}, NOW).by is None
    assert parse_export({}, NOW).format == "csv"


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("1763712000", 1_763_712_000.0),
        ("1763712000.5", 1_763_712_000.5),
        ("0", 0.0),
        ("2025-11-21", datetime(2025, 11, 21, tzinfo=UTC).timestamp()),
        ("2025-11-21T08:00:00Z", NOW),
        ("2025-11-21T08:00", NOW),
        ("2025-11-21T09:00:00%2B01:00", NOW),
        ("30m", NOW - 1800),
        ("24h", NOW - 86_400),
        ("7d", NOW - 7 * 86_400),
        ("2w", NOW - 14 * 86_400),
        ("90s", NOW - 90),
    ],
)
def test_moments(value, moment):
    assert filters(f"since={value}").since == moment


def test_filters_of_several_values():
    found = filters("provider=a&provider=b&status=failed&session=x%20y&min_duration=1.5&text=Req&client=c&model=m")
    assert found == Filters(
        provider=("a", "b"),
        status=("failed",),
        session=("x y",),
        min_duration=1.5,
        text="Req",
        client=("c",),
        model=("m",),
    )


def test_an_empty_field_of_a_form_is_no_filter():
    assert filters("provider=&status=&since=&text=") == Filters()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sinse=1", "`sinse`: there is no such parameter; did you mean `since`?"),
        ("foo=1", "`foo`: there is no such parameter; there are since, until, "),
        ("limit=5", "`limit`: there is no such parameter"),
        ("since=yesterday", "`since`: needed are epoch seconds, a date or time (2026-11-21, "),
        ("since=nan", "`since`: "),
        ("since=inf", "`since`: "),
        ("since=1e9", "`since`: "),
        ("until=-5", "`until`: "),
        ("since=2&until=1", "`since` must be before `until`"),
        ("since=1&since=2", "`since`: one value is enough"),
        ("status=ended", "`status`: needed is completed or cancelled or failed, not 'ended'"),
        ("dialect=latin", "`dialect`: needed is openai or anthropic"),
        ("min_duration=-1", "`min_duration`: a number of seconds is needed, not '-1'"),
        ("min_duration=nan", "`min_duration`: "),
        ("text=" + "x" * 301, "`text`: at most 300 characters"),
        ("&".join(f"model={n}" for n in range(51)), "`model`: at most 50 values"),
    ],
)
def test_what_is_wrong_is_told_with_its_name(query, said):
    with pytest.raises(QueryError) as error:
        filters(query)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "1.5", "²", "٣", "99999999999999999999"])
def test_limits(limit):
    assert parse_listing({"limit": ["1000"]}, NOW).limit == 1000
    with pytest.raises(QueryError, match="`limit`: a number from 1 to 1000 is needed"):
        parse_listing({"limit": [limit]}, NOW)


@pytest.mark.parametrize("cursor", ["x", "1_1", "1.0_", "1.0", "nan_1", "1.0_-1", "1.0_1'", "1.0_" + "9" * 19])
def test_cursors(cursor):
    with pytest.raises(QueryError, match="`cursor`: needed is `next`"):
        parse_listing({"cursor": [cursor]}, NOW)


@given(st.floats(0.001, 1e10), st.integers(0, 10**18 - 1))
def test_a_cursor_comes_back_as_it_went(started, rowid):
    cursor = Cursor(started, rowid)
    assert parse_listing({"cursor": [str(cursor)]}, NOW).cursor == cursor


def test_time_is_cut_into_as_many_pieces_as_a_chart_can_show():
    for span, width in (("60s", 1), ("1h", 30), ("24h", 1800), ("7d", 21_600), ("30d", 21_600), ("52w", 604_800)):
        grouping = parse_grouping({"by": ["time"], "since": [span]}, NOW)
        assert grouping.bucket == width
        assert width in BUCKETS
    day = parse_grouping({"by": ["time"]}, NOW)
    assert (day.filters.since, day.bucket) == (NOW - 86_400, 1800)
    long = parse_grouping({"by": ["time"], "since": ["0"]}, NOW)
    assert NOW / long.bucket <= 120


def test_a_bucket_of_ones_own():
    grouping = parse_grouping({"by": ["time"], "since": ["1h"], "bucket": ["5m"]}, NOW)
    assert grouping.bucket == 300
    assert parse_grouping({"by": ["time"], "since": ["1h"], "bucket": ["60"]}, NOW).bucket == 60
    for bucket, said in (("0", "a width"), ("x", "a width"), ("1s", "more than 1000"), ("367d", "a width")):
        with pytest.raises(QueryError, match=f"`bucket`: .*{said}"):
            parse_grouping({"by": ["time"], "since": ["1h"], "bucket": [bucket]}, NOW)
    with pytest.raises(QueryError, match="goes with `by=time` only"):
        parse_grouping({"by": ["day"], "bucket": ["5m"]}, NOW)


def test_by_and_format():
    assert parse_grouping({"by": ["day"]}, NOW).by == "day"
    assert parse_export({"format": ["json"]}, NOW).format == "json"
    with pytest.raises(QueryError, match="`by`: needed is provider or model"):
        parse_grouping({"by": ["cost; DROP TABLE streams"]}, NOW)
    with pytest.raises(QueryError, match="`format`: needed is csv or json"):
        parse_export({"format": ["xml"]}, NOW)


names = st.sampled_from([*dict.fromkeys((*FILTERS, *LISTING, *GROUPING, *EXPORT)), "else"])
values = st.one_of(st.text(max_size=20), st.sampled_from(["1", "5m", "time", "failed", "2025-11-21", "1.0_1", "day"]))


@given(st.dictionaries(names, st.lists(values, max_size=3), max_size=5))
def test_whatever_is_asked_is_understood_or_refused(parameters):
    for parse in (parse_filters, parse_listing, parse_grouping, parse_export):
        with suppress(QueryError):
            assert 1 <= getattr(parse(parameters, NOW), "limit", 1) <= MAX_ROWS
