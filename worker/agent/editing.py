"""Replaces strings in a text, as the tools Edit and MultiEdit do.  Pure."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from worker.agent.errors import ToolError

MAX_LINES_NAMED: Final = 10


OldString = Annotated[
    str, Meta(description="The text to replace, exactly as in the file, indentation included, line numbers not")
]
NewString = Annotated[str, Meta(description="The text to put in its place")]
ReplaceAll = Annotated[bool, Meta(description="Replace every occurrence; else there must be exactly one")]


class Replacement(Struct, frozen=True, kw_only=True):
    """One edit: `old_string` must stand in the text exactly once, unless `replace_all`."""

    old_string: OldString
    new_string: NewString
    replace_all: ReplaceAll = False


class Replaced(Struct, frozen=True):
    """What an edit has done."""

    count: int
    line: int
    """Of the first replacement, from 1."""


def apply(text: str, edits: Sequence[Replacement], max_chars: int) -> tuple[str, list[Replaced]]:
    """The text after all edits, each made to what the one before it left, and what each has done.

    `ToolError` if one of them can't be made, or makes more than `max_chars` of the text.
    """
    done = []
    for number, edit in enumerate(edits, 1):
        try:
            text, replaced = _apply(text, edit, max_chars)
        except ToolError as error:
            if len(edits) == 1:
                raise
            raise ToolError(f"Edit {number} of {len(edits)}: {error} None of the edits was made.") from None
        done.append(replaced)
    return text, done


def _apply(text: str, edit: Replacement, max_chars: int) -> tuple[str, Replaced]:
    old, new = edit.old_string, edit.new_string
    if old == new:
        raise ToolError("old_string and new_string are the same: there is nothing to change.")
    if not old:
        if text:
            raise ToolError("old_string is empty, and the file is not: name the text that is to be replaced.")
        return new, Replaced(1, 1)
    if has_crlf(text):
        # Read shows lines without their CR, so a model can't have meant bare LFs.
        old, new = with_crlf(old), with_crlf(new)
    count = text.count(old)
    if not count:
        raise ToolError(f"old_string was not found.{_hint(text, old)}")
    if count > 1 and not edit.replace_all:
        lines = _lines_of(text, old, MAX_LINES_NAMED)
        named = f"{', '.join(map(str, lines))}{', …' if count > len(lines) else ''}"
        raise ToolError(
            f"old_string was found {count:,} times (lines {named}):"
            " give more of what stands around it, so that it is unique, or set replace_all."
        )
    # Before it is made: one short letter for a long text, everywhere, would fill the memory.
    if len(text) + count * (len(new) - len(old)) > max_chars:
        raise ToolError(f"The file would become larger than {max_chars:,} characters.")
    return text.replace(old, new), Replaced(count, _lines_of(text, old, 1)[0])


def has_crlf(text: str) -> bool:
    """Whether all lines end with CRLF."""
    return 0 < text.count("\n") == text.count("\r\n")


def with_crlf(text: str) -> str:
    """`text` with CRLF at the end of every line."""
    return text.replace("\r\n", "\n").replace("\n", "\r\n")


def _lines_of(text: str, old: str, at_most: int) -> list[int]:
    """The lines in which `old` begins."""
    lines: list[int] = []
    line, start = 1, 0
    while len(lines) < at_most and (found := text.find(old, start)) >= 0:
        line += text.count("\n", start, found)
        lines.append(line)
        line += old.count("\n")
        start = found + len(old)
    return lines


def _hint(text: str, old: str) -> str:
    """Where the text has the same words with other spaces between them."""
    wanted = [" ".join(line.split()) for line in old.strip().splitlines()]
    if not any(wanted):
        return ""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    for start, line in enumerate(lines):
        if line == wanted[0] and lines[start : start + len(wanted)] == wanted:
            return f" Line {start + 1} has the same words with other white space: copy it exactly."
    return " Read the file again: it may have changed, or the text may differ in small things."
