"""The queries against a real database, and against the same questions answered in Python."""

import math
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest
from fakes.history import NOW, PROVIDERS, many_records, write_history
from hypothesis import given
from hypothesis import strategies as st

from shared.history import answers, queries
from shared.history.columns import COLUMNS
from shared.history.parameters import (
    Filters,
    Grouping,
    Listing,
    parse_filters,
    parse_grouping,
    parse_listing,
)
from shared.history.reader import read
from supervisor import schema

RECORDS = many_records(700)
ALL = Filters()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_history(tmp_path_factory.mktemp("history") / "sessions.db", RECORDS)


def page(path, listing):
    [rows] = read(path, queries.page(listing))
    page, cursor = queries.page_of(rows, listing.limit)
    return [answers.stream(row) for row in page], cursor


def everything(path, filters=ALL, limit=1000):
    told, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        more, cursor = page(path, Listing(filters=filters, limit=limit, cursor=cursor))
        assert len(more) == limit or cursor is None
        told += more
        pages += 1
    return told


def records(keep=lambda _: True):
    """As they are told, the newest first, and of those that began together the one that was written last."""
    told = [answers.stream((*schema.row(record), 0)) for record in RECORDS]
    return sorted(filter(keep, told[::-1]), key=lambda stream: -stream["started"])


def test_all_of_them_the_newest_first(path):
    assert everything(path) == records()


@pytest.mark.parametrize("limit", [1, 7, 100, 350, 699, 700, 701])
def test_pages_make_up_the_whole(path, limit):
    assert everything(path, limit=limit) == records()


def test_the_last_page_has_no_next(path):
    told, cursor = page(path, Listing(limit=700))
    assert (len(told), cursor) == (700, None)


def test_streams_that_end_meanwhile_shift_no_page(tmp_path):
    path = write_history(tmp_path / "sessions.db", many_records(20))
    first, cursor = page(path, Listing(limit=10))
    late = many_records(5, seed=2)
    write_history(path, [record for record in late if record.start.started > cursor.started])
    second, _ = page(path, Listing(limit=100, cursor=cursor))
    assert sorted(stream["id"] for stream in first + second) == sorted(r.start.id for r in many_records(20))


FILTERS = {
    "provider=kimi": lambda s: s["provider"] == "kimi",
    "provider=kimi&provider=groq": lambda s: s["provider"] in ("kimi", "groq"),
    "model=gpt-y&status=failed": lambda s: s["model"] == "gpt-y" and s["status"] == "failed",
    "upstream_model=-odd": lambda s: s["upstream_model"] == "-odd",
    "session=one": lambda s: s["session"] == "one",
    "session=na%C3%AFve+%E6%97%A5%E6%9C%AC": lambda s: s["session"] == "naïve 日本",
    "dialect=anthropic": lambda s: s["dialect"] == "anthropic",
    "client=1a2b3c4d": lambda s: s["client"] == "1a2b3c4d",
    "error_type=ReadError": lambda s: s["error_type"] == "ReadError",
    "error_type=shutdown&error_type=worker_died": lambda s: s["error_type"] in ("shutdown", "worker_died"),
    "min_duration=15": lambda s: s["duration"] >= 15,
    "since=24h": lambda s: s["started"] >= NOW - 86_400,
    "until=24h": lambda s: s["started"] < NOW - 86_400,
    f"since={NOW - 7200}&until={NOW - 3600}": lambda s: NOW - 7200 <= s["started"] < NOW - 3600,
    "text=req_1": lambda s: "req_1" in s["trace"].lower() or "req_1" in s["id"],
    "text=REQ_69": lambda s: "req_69" in s["trace"].lower(),
    "text=quo%22te": lambda s: s["session"] == 'quo"te, comma',
    "text=%25": lambda s: False,
    "session=' OR 1=1 --": lambda s: False,
    "since=2d&provider=nvidia&status=completed&status=cancelled&min_duration=1&dialect=openai": lambda s: (
        s["started"] >= NOW - 2 * 86_400
        and s["provider"] == "nvidia"
        and s["status"] != "failed"
        and s["duration"] >= 1
        and s["dialect"] == "openai"
    ),
}


def parsed(query):
    return parse_qs(query)


@pytest.mark.parametrize("query", FILTERS)
def test_filters(path, query):
    wanted = records(FILTERS[query])
    filters = parse_filters(parsed(query), NOW)
    assert everything(path, filters, limit=50) == wanted
    [totals] = read(path, queries.totals(filters))
    assert answers.totals(totals)["streams"] == len(wanted)
    assert wanted or query in ("text=%25", "session=' OR 1=1 --")


def test_one(path):
    wanted = records()[123]
    [[row]] = read(path, queries.one(wanted["id"]))
    assert answers.stream(row) == wanted
    assert read(path, queries.one("nobody")) == [[]]


# Sums


def percentile(values, percent):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[math.ceil(percent * len(ordered) / 100) - 1] if ordered else None


def sums(streams):
    def total(name):
        return sum(stream[name] or 0 for stream in streams)

    status = Counter(stream["status"] for stream in streams)
    first_bytes = [stream["first_byte"] for stream in streams if stream["first_byte"] is not None]
    writing = [
        stream
        for stream in streams
        if stream["streaming"]
        and stream["completion_tokens"]
        and stream["first_byte"] is not None
        and stream["duration"] > stream["first_byte"]
    ]
    seconds = sum(stream["duration"] - stream["first_byte"] for stream in writing)
    priced = [stream["cost"] for stream in streams if stream["cost"] is not None]
    return {
        "streams": len(streams),
        **{name: status[name] for name in ("completed", "cancelled", "failed")},
        **{name: total(name) for name in ("retries", "prompt_tokens", "completion_tokens")},
        **{name: total(name) for name in ("cache_read", "cache_write")},
        "cost": pytest.approx(sum(priced)) if priced else None,
        "priced": len(priced),
        "first_byte_p50": percentile(first_bytes, 50),
        "first_byte_p95": percentile(first_bytes, 95),
        "tokens_per_second": (
            pytest.approx(sum(stream["completion_tokens"] for stream in writing) / seconds) if writing else None
        ),
        "last": max((stream["started"] for stream in streams), default=None),
    }


def moment(stream, form):
    return datetime.fromtimestamp(stream["started"], UTC).strftime(form)


KEYS = {
    "provider": lambda s: s["provider"],
    "model": lambda s: s["model"],
    "upstream_model": lambda s: s["upstream_model"],
    "session": lambda s: s["session"],
    "client": lambda s: s["client"],
    "dialect": lambda s: s["dialect"],
    "status": lambda s: s["status"],
    "error_type": lambda s: s["error_type"],
    "hour": lambda s: moment(s, "%Y-%m-%dT%H:00:00Z"),
    "day": lambda s: moment(s, "%Y-%m-%d"),
    "month": lambda s: moment(s, "%Y-%m"),
}


def grouped(key, streams):
    found = defaultdict(list)
    for stream in streams:
        found[key(stream)].append(stream)
    return found


def told(path, grouping):
    [rows] = read(path, queries.groups(grouping))
    return answers.groups(grouping, rows)


def test_totals(path):
    [rows] = read(path, queries.totals(Filters()))
    assert answers.totals(rows) == sums(records())


@pytest.mark.parametrize("by", KEYS)
@pytest.mark.parametrize("query", ["", "status=completed&status=failed&since=30h"])
def test_groups(path, by, query):
    filters = parse_filters(parsed(query), NOW)
    wanted = grouped(KEYS[by], everything(path, filters))
    if by in ("session", "error_type"):
        wanted.pop(None, None)
    groups = told(path, Grouping(filters=filters, by=by))
    keys = [group["key"] for group in groups]
    assert {group.pop("key"): group for group in groups} == {key: sums(streams) for key, streams in wanted.items()}
    if by in queries.PERIODS:
        assert keys == sorted(keys)
    else:
        costs = [group["cost"] or 0 for group in groups]
        assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize(("since", "bucket"), [("24h", "30m"), ("3d", "6h"), ("1h", "7s"), ("30h", None)])
def test_buckets(path, since, bucket):
    parameters = {"by": ["time"], "since": [since], **({"bucket": [bucket]} if bucket else {})}
    grouping = parse_grouping(parameters, NOW)
    wanted = grouped(lambda s: s["started"] // grouping.bucket * grouping.bucket, everything(path, grouping.filters))
    groups = told(path, grouping)
    keys = [group["key"] for group in groups]
    assert {group.pop("key"): group for group in groups} == {key: sums(streams) for key, streams in wanted.items()}
    assert keys == sorted(keys)
    assert all(type(key) is int for key in keys)


def test_a_limit_keeps_the_newest_periods_and_what_costs_most(path):
    for by, kept in (("hour", slice(-5, None)), ("session", slice(0, 2))):
        assert (
            told(path, parse_grouping({"by": [by], "limit": ["2" if by == "session" else "5"]}, NOW))
            == (told(path, Grouping(by=by))[kept])
        )


def test_groups_make_up_the_totals(path):
    [rows] = read(path, queries.totals(Filters()))
    totals = answers.totals(rows)
    for by in ("provider", "model", "hour", "day", "month", "status", "dialect", "client"):
        groups = told(path, Grouping(by=by))
        for name in ("streams", "failed", "prompt_tokens", "completion_tokens", "priced", "cache_read"):
            assert sum(group[name] for group in groups) == totals[name]
        assert sum(group["cost"] or 0 for group in groups) == pytest.approx(totals["cost"])


def test_providers_with_their_errors(path):
    filters = Filters(since=NOW - 86_400)
    groups, errors = read(path, queries.groups(Grouping(filters=filters, by="provider")), queries.errors(filters))
    found = answers.providers(groups, errors, ["kimi", "idle"])
    assert {provider["provider"] for provider in found} == {*PROVIDERS, "idle"}
    for provider in found:
        streams = records(lambda s, p=provider: s["provider"] == p["provider"] and s["started"] >= NOW - 86_400)
        wanted = Counter(stream["error_type"] for stream in streams if stream["status"] == "failed")
        assert provider.pop("errors") == wanted
        assert provider.pop("provider") in (*PROVIDERS, "idle")
        assert provider == sums(streams)


def test_nothing_is_nothing(tmp_path):
    path = write_history(tmp_path / "sessions.db", [])
    [totals, groups, errors] = read(
        path, queries.totals(Filters()), queries.groups(Grouping(by="day")), queries.errors(Filters())
    )
    assert (totals, groups, errors) == ([], [], [])
    assert answers.totals([]) == sums([])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=45))
def test_percentiles_are_of_the_nearest_rank(values):
    with closing(sqlite3.connect(":memory:")) as connection:
        for step in schema.MIGRATIONS:
            for statement in step:
                connection.execute(statement)
        for number, record in enumerate(many_records(len(values) + 3)):
            row = dict(zip(COLUMNS, schema.row(record), strict=True))
            row["first_byte"] = values[number] if number < len(values) else None
            connection.execute(schema.INSERT, tuple(row.values()))
        query = queries.totals(Filters())
        told = answers.totals(connection.execute(query.sql, query.parameters).fetchall())
    assert told["first_byte_p50"] == percentile(values, 50)
    assert told["first_byte_p95"] == percentile(values, 95)


# How SQLite goes about it


def plan(path, query):
    with closing(sqlite3.connect(path)) as connection:
        return " ".join(row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {query.sql}", query.parameters))


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("", "streams_started"),
        ("since=1h&until=30m", "streams_started"),
        (f"cursor={NOW}_77", "streams_started"),
        ("session=one", "streams_session"),
        ("provider=kimi", "streams_provider"),
    ],
)
def test_pages_come_from_an_index_without_sorting(path, query, index):
    told = plan(path, queries.page(parse_listing(parsed(query), NOW)))
    assert f"INDEX {index}" in told
    assert "TEMP B-TREE" not in told


def test_the_columns_are_asked_by_name():
    assert all(column in queries.one("x").sql for column in COLUMNS)
