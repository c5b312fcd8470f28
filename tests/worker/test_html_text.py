"""`worker.agent.html_text`: what is left of a page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.agent import html_text
from worker.agent.html_text import readable

URL = "https://public.test/a/b"


def text_of(html: str) -> str:
    return readable(html, URL).text


PAGES = {
    "<p>one</p><p>two\n  three</p>": "one\n\ntwo three",
    "<h1>Title</h1>text<h3>Part</h3>": "# Title\n\ntext\n\n### Part",
    "<ul><li>one<li>two</ul>after": "- one\n- two\n\nafter",
    "<a href='/x'>there</a> and <a href='c'>here</a>": "[there](https://public.test/x) and [here](https://public.test/a/c)",
    "<a href='#top'>up</a> <a href='javascript:x'>run</a> <a href='mailto:a@b'>mail</a>": "up run mail",
    "<a href='/x'></a>empty <a href='/y'> <b>bold</b> link </a>!": "empty [bold link](https://public.test/y)!",
    "<a href='http://[bad'>text</a>": "text",
    "one<br>two<br/>three": "one\ntwo\nthree",
    "<pre>  a\n    b  \n</pre>after": "```\n  a\n    b\n```\n\nafter",
    "say <code>x = 1</code> now": "say `x = 1` now",
    "<table><tr><th>a<th>b<tr><td>1<td>2</table>": "a | b\n1 | 2",
    "<img alt='a  picture'> <img src=x>": "a picture",
    "a&nbsp;&amp;&#98;&lt;&eacute;&#x41;": "a &b<éA",
    "<script>if (a < b) '</p>'</script>seen<style>p {}</style>": "seen",
    "<noscript>no</noscript><template><p>no</p></template><svg><text>no</text></svg>yes": "yes",
    "<svg><svg>no</svg>no</svg>yes<svg/>": "yes",
    "<head><title>T</title><meta charset=x></head><body>b</body>": "b",
    "<!-- no --><!DOCTYPE html><?php no ?><![CDATA[no]]>yes": "yes",
    "<![if IE]>yes<![endif]>": "yes",
    "plain text, no tags": "plain text, no tags",
    "one &amp": "one &",
    "cut <a href='/x": "cut",
    "<p><p><p><p>one<div><div><div>two": "one\n\ntwo",
    "": "",
    "&#99999999999999999999;x": "\ufffd;x",
}


@pytest.mark.parametrize(("html", "text"), PAGES.items())
def test_pages(html, text):
    assert text_of(html) == text


def test_the_title():
    page = readable("<title> A\n title &amp; more</title><svg><title>no</title></svg><p>x", URL)
    assert page.title == "A title & more"
    assert page.text == "x"


@pytest.mark.parametrize("size", [1, 7, 100])
def test_pieces_make_no_difference(size, monkeypatch):
    monkeypatch.setattr(html_text, "PIECE_CHARS", size)
    for html, text in PAGES.items():
        assert text_of(html) == text


@given(st.text(alphabet="<>!-[]/abps &#x;='\"?\n", max_size=300))
def test_anything_goes(html):
    readable(html, URL)


BROKEN = [
    "<a ",
    "<a b='",
    "<!--",
    "<![CDATA[",
    "</a",
    "<a b=",
    "<?",
    "<!DOCTYPE [",
    "<",
    "&#",
    "<pre> ",
    "<ul><li>",
    "<svg>",
]


@pytest.mark.parametrize("part", BROKEN)
def test_hostile_pages_are_bounded(part, monkeypatch):
    """What the parser would read for minutes is given up; time is a matter of `MAX_SECONDS`, here there is none."""
    monkeypatch.setattr(html_text, "MAX_SECONDS", 0.2)
    readable("<p>begin</p>" + part * (1024 * 1024 // len(part)), URL)


def test_a_tag_without_end_is_given_up():
    page = readable("<p>begin</p><a b='" + "x" * 2_000_000, URL)
    assert page == html_text.Readable("", "begin", is_cut=True)


def test_a_long_script_is_no_reason_to_give_up():
    page = readable("<p>begin</p><script>" + "x" * 2_000_000 + "</script>end", URL)
    assert page.text == "begin\n\nend"
    assert not page.is_cut
