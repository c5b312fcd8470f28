import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.output import cut, sendable, shown


def test_what_fits_stays():
    assert cut("a\nb", 3) == "a\nb"


def test_the_middle_is_left_out_by_whole_lines():
    text = "".join(f"line {number}\n" for number in range(1000))
    short = cut(text, 50)
    assert short == (
        "line 0\nline 1\nline 2\n[… 8,851 characters, 995 lines of it, left out here …]\nline 998\nline 999\n"
    )


def test_the_middle_of_one_line_is_left_out():
    assert cut("x" * 10_000, 10) == "xxxxx\n[… 9,990 characters left out here …]\nxxxxx"


@pytest.mark.parametrize("max_chars", [0, 1, 2, 3])
def test_almost_no_room(max_chars):
    assert len(cut("a\nb\nc\nd", max_chars)) <= max_chars + 60


@given(st.text(alphabet=st.sampled_from("ab\n漢\udcff"), max_size=300), st.integers(0, 300))
def test_beginning_and_end_are_kept_within_bounds(text, max_chars):
    short = cut(text, max_chars)
    assert len(short) <= max_chars + 70
    short.encode()
    if len(text) > max_chars:
        head, _, rest = short.partition("[… ")
        tail = rest.partition("left out here …]\n")[2]
        whole = sendable(text)
        assert whole.startswith(head.removesuffix("\n"))
        assert whole.endswith(tail)


def test_what_is_no_unicode_is_replaced():
    assert sendable("a\udcffb漢") == "a?b漢"


def test_a_name_stays_on_its_line():
    assert shown("naïve 漢字.txt") == "naïve 漢字.txt"
    assert shown("a\nb") == "'a\\nb'"
    assert shown("\udcff") == "'\\udcff'"
