"""From HTML to what a reader sees of it, as Markdown: headings, lists, links, code; everything else is text.

The parser is the standard library's.  It is linear in most of what it reads, but not in what never ends (a tag, a
comment), and holds the interpreter's lock while it looks for that end; so it gets its HTML in pieces, and no more of
it when its time is over or what it has not understood yet gets too long.
"""

import html
import re
import time
from html.parser import HTMLParser
from urllib.parse import urljoin

from msgspec import Struct

_UNSEEN = frozenset(("script", "style", "noscript", "template", "svg", "math", "iframe", "object", "canvas", "select"))
_PARAGRAPHS = frozenset((
    "address", "article", "aside", "blockquote", "body", "details", "div", "dl", "fieldset", "figcaption", "figure",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "main", "nav", "ol", "p", "pre", "section",
    "summary", "table", "ul",
))  # fmt: skip
_LINES = frozenset(("li", "tr", "dt", "dd", "option", "caption", "thead", "tbody"))
_HEADING = re.compile(r"h([1-6])")
_BLANKS = re.compile(r"\s+")
# What the parser raises an exception for: numbers that Python won't read, and declarations that nobody writes.
_LONG_NUMBER = re.compile(r"&#[0-9]{8,}")
_SECTION = "<!["

MAX_LINK_CHARS = 500
MAX_SECONDS = 2.0
PIECE_CHARS = 64 * 1024
MAX_UNFINISHED_CHARS = 256 * 1024
"""Of a tag or a comment, not of a script."""


class Readable(Struct, frozen=True):
    """What is left."""

    title: str
    text: str
    is_cut: bool = False
    """There was more, which was not read."""


def readable(source: str, url: str) -> Readable:
    """What the HTML `source` says; links in it become absolute by `url`."""
    reader = _Reader(url)
    source = _LONG_NUMBER.sub("\ufffd", source.replace(_SECTION, "<!x["))
    deadline = time.monotonic() + MAX_SECONDS
    is_cut = False
    for at in range(0, len(source), PIECE_CHARS):
        if reader.is_stuck or time.monotonic() > deadline:
            is_cut = True
            break
        reader.feed(source[at : at + PIECE_CHARS])
    else:
        reader.end()
    return Readable(reader.title(), reader.text(), is_cut)


class _Reader(HTMLParser):
    """Theory of operation: text is put into lines, and tags say where a line or a paragraph ends.  Nothing is kept of
    the tree but what is inside `<pre>`, a link, or an element that isn't seen."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self._url = url
        self._parts: list[str] = []
        self._title: list[str] = []
        self._in_title = False
        self._unseen: str | None = None
        """The outermost element that isn't seen…"""
        self._depth = 0
        """…and how many of its kind are open."""
        self._pre = 0
        self._links: list[tuple[int, str]] = []
        """The link that is open: where in the parts its text begins, and where it leads."""
        self._at_line_start = True
        self._blank_before = False

    @property
    def is_stuck(self) -> bool:
        """Whether what it reads seems never to end."""
        return self.cdata_elem is None and len(self.rawdata) > MAX_UNFINISHED_CHARS

    def end(self) -> None:
        """There is no more.  Not `close()`: that tries every `<` of what is unfinished, which is quadratic."""
        if not self.rawdata.startswith("<"):
            self.handle_data(html.unescape(self.rawdata))

    def title(self) -> str:
        """Of the page, "" if it has none."""
        return _BLANKS.sub(" ", "".join(self._title)).strip()

    def text(self) -> str:
        """All of it, without blanks at the ends of lines, and without more than one empty line in a row."""
        lines: list[str] = []
        for line in "".join(self._parts).split("\n"):
            line = line.rstrip()
            if line or (lines and lines[-1]):
                lines.append(line)
        return "\n".join(lines).strip("\n")

    # What the parser calls

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unseen is not None:
            self._depth += tag == self._unseen
        elif tag in _UNSEEN:
            self._unseen, self._depth = tag, 1
        elif tag == "title":
            self._in_title = not self._title
        elif tag in _PARAGRAPHS:
            self._paragraph()
            self._begin(tag)
        elif tag in _LINES:
            self._line()
            if tag == "li":
                self._put("- ")
        elif tag == "br":
            self._parts.append("\n")
            self._at_line_start = True
        elif tag in ("td", "th"):
            self._put("" if self._at_line_start else " | ")
        elif tag == "img":
            self._put(_BLANKS.sub(" ", dict(attrs).get("alt") or ""))
        elif tag == "a":
            self._close_link()
            if (href := dict(attrs).get("href")) and (target := self._target(href)):
                self._links.append((len(self._parts), target))
        elif tag == "code" and not self._pre:
            self._put("`")

    def _begin(self, tag: str) -> None:
        if heading := _HEADING.fullmatch(tag):
            self._put("#" * int(heading[1]) + " ")
        elif tag == "pre":
            self._pre += 1
            self._parts.append("```\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # In HTML the slash means nothing, but that void elements have no end; in SVG, which isn't seen, it does.
        if self._unseen is None or tag != self._unseen:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen is not None:
            self._depth -= tag == self._unseen
            if self._depth == 0:
                self._unseen = None
        elif tag == "title":
            self._in_title = False
        elif tag == "a":
            self._close_link()
        elif tag == "pre" and self._pre:
            self._pre -= 1
            self._line()
            self._parts.append("```")
            self._at_line_start = False
            self._paragraph()
        elif tag in _PARAGRAPHS:
            self._paragraph()
        elif tag in _LINES:
            self._line()
        elif tag == "code" and not self._pre:
            self._put("`")

    def handle_data(self, data: str) -> None:
        if self._unseen is not None:
            return
        if self._in_title:
            self._title.append(data)
        elif self._pre:
            self._parts.append(data)
            self._at_line_start = data.endswith("\n")
        else:
            self._put(_BLANKS.sub(" ", data))

    # Lines

    def _put(self, text: str) -> None:
        """More of the line; blanks at its beginning, and a second one in a row, are left out."""
        if self._at_line_start or self._blank_before:
            text = text.lstrip(" ")
        if text:
            self._parts.append(text)
            self._at_line_start = False
            self._blank_before = text.endswith(" ")

    def _line(self) -> None:
        if not self._at_line_start:
            self._parts.append("\n")
            self._at_line_start = True

    def _paragraph(self) -> None:
        self._close_link()
        self._line()
        self._parts.append("\n")

    # Links

    def _target(self, href: str) -> str | None:
        """Where a link leads; None where that is no other page."""
        if len(href) > MAX_LINK_CHARS or href.lstrip().startswith("#"):
            return None
        try:
            target = urljoin(self._url, href.strip())
        except ValueError:
            return None
        return target if target.startswith(("http://", "https://")) else None

    def _close_link(self) -> None:
        if self._links:
            begin, target = self._links.pop()
            label = "".join(self._parts[begin:]).strip()
            if label and "\n" not in label and label != target:
                self._parts[begin:] = [f"[{label}]({target})"]
                self._blank_before = False
