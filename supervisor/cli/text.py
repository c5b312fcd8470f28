"""Words for people: messages on stderr, durations, sizes and tables."""

import sys
import unicodedata
from collections.abc import Iterable, Sequence

from shared.journal import priority_prefix


def say(message: str, level: str = "notice") -> None:
    """One message on stderr; where that is systemd's journal, of this level."""
    print(f"{priority_prefix(level)}kimi-proxy: {message}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`, `5 d 3 h`: the two largest units."""
    whole = int(seconds)
    units = (("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60))
    first = next((index for index, (_, count) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for unit, count in units[first : first + 2] if count) or "0 s"


def size(count_bytes: int) -> str:
    """`512 B`, `25.1 MiB`."""
    value = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def printable(text: str) -> str:
    """`text` without what would steer a terminal: names of sessions and models are whatever clients sent."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def columns(text: str) -> int:
    """How many columns of a terminal printable `text` takes: wide characters two, combining ones none."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def clip(text: str, width: int) -> str:
    """As much of `text` as fits into `width` columns; what was cut leaves an ellipsis."""
    if columns(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += _columns_of(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…" if width > 0 else ""


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> str:
    """Columns as wide as their widest cell; those whose numbers are in `right` are aligned right."""
    cells = [list(header), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(columns(row[column]) for row in cells) for column in range(len(header))]
    aligned = set(right)
    return "\n".join("  ".join(_line(row, widths, aligned)).rstrip() for row in cells)


def _line(row: Sequence[str], widths: Sequence[int], aligned: set[int]) -> Iterable[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        padding = " " * (width - columns(cell))
        yield padding + cell if column in aligned else cell + padding


def _columns_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
