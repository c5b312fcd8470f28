"""docs/faults.md has the rows of the catalogue, in the same words."""

from collections import Counter

from fakes.faults import DOCUMENT, UNMEASURED, catalogue, documented

WRITE = "write it anew: KIMI_PROXY_WRITE_DOCS=1 bin/test tests/faults"


def test_every_row_is_documented_and_nothing_else():
    documents = documented(DOCUMENT.read_text())
    rows = [row.words for row in catalogue()]
    assert not set(rows) - set(documents), WRITE
    assert not set(documents) - set(rows), WRITE
    assert list(documents) == rows, WRITE


def test_every_row_was_measured():
    measured = documented(DOCUMENT.read_text())
    assert not [words for words, time in measured.items() if time == UNMEASURED], WRITE


def test_no_two_rows_have_the_same_name():
    assert not [name for name, count in Counter(row.name for row in catalogue()).items() if count > 1]
