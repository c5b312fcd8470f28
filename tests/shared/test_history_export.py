import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.history.columns import COLUMNS, FLAGS
from shared.history.export import harmless, writer

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
rows = st.tuples(
    *[
        texts if name in ("session", "model") else st.integers(0, 1) if name in FLAGS else st.just(n)
        for n, name in enumerate(COLUMNS)
    ],
    st.integers(1, 99),
)


def whole(format, *pages):
    file = writer(format)
    return file.head() + b"".join(file.lines(page) for page in pages) + file.tail()


def parsed(data):
    return list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))


@given(st.lists(rows, max_size=4), st.lists(rows, max_size=4))
def test_csv_comes_back_as_it_went(one, two):
    head, *lines = parsed(whole("csv", one, two))
    assert tuple(head) == COLUMNS
    assert lines == [
        [harmless(str(cell)) if type(cell) is str else str(cell) for cell in row[:-1]] for row in one + two
    ]


@given(st.lists(rows, max_size=4), st.lists(rows, max_size=4))
def test_json_comes_back_as_it_went(one, two):
    told = json.loads(whole("json", one, two))
    assert [list(stream) for stream in told] == [list(COLUMNS)] * len(told)
    assert [list(stream.values()) for stream in told] == [list(row[:-1]) for row in one + two]
    assert all(type(stream[flag]) is bool for stream in told for flag in FLAGS)


@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_file_of_nothing(format):
    assert whole(format) == {"csv": (",".join(COLUMNS) + "\r\n").encode(), "json": b"[\n]\n"}[format]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"])
def test_what_a_spreadsheet_would_run_is_text(text):
    row = (text, *(None for _ in COLUMNS[1:]), 1)
    [_, line] = parsed(whole("csv", [row]))
    assert line[0] == "'" + text
    assert line[1:] == [""] * (len(COLUMNS) - 1)
    assert json.loads(whole("json", [row]))[0]["id"] == text


@pytest.mark.parametrize("text", ["", "a=1", "kimi-k2", "1", "'=1", 'a "b", c', "日本"])
def test_other_text_stays(text):
    assert harmless(text) == text


def test_numbers_stay():
    row = (*(-1.5 for _ in COLUMNS), 1)
    assert parsed(whole("csv", [row]))[1] == ["-1.5"] * len(COLUMNS)
