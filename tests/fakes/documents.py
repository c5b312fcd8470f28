"""What stands in the documents, taken out of their Markdown, for tests that run it."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def section(document: str, title: str) -> str:
    """What stands below a heading of the second level."""
    parts = re.split(r"(?m)^## (.*)$", (DOCS / document).read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def block(text: str, language: str, number: int = 0) -> str:
    """One of the fenced blocks of a language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)[number]


def table(text: str) -> dict[str, str]:
    """The first two cells of each row of the first table, without backticks."""
    [body] = re.findall(r"(?m)^\|[-| ]+\|\n((?:\|.*\n)+)", text)[:1]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:3]] for line in body.splitlines()]
    return dict(rows)
