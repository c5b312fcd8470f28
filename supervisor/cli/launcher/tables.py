"""Tables in the text of a configuration: comments, order and layout stay as somebody wrote them.

    set_table(text, ("models", "claude-*"), {"provider": "kimi", "model": "kimi-k2.6"}, "what Claude Code asks for")

Pure.  A table that is not there yet is lines at the end, where no comment is about it; a new key stands right below its
table's head; only values that change need a parser that keeps the layout (tomlkit).  What is made is read back, and
must mean what was meant.
"""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit

from shared.config.faults import table_name
from shared.config.lines import key_lines
from supervisor.cli.tomledit import edited, first_that_means

Path = tuple[str, str]


def set_table(text: str, path: Path, values: Mapping[str, Any], about: str | None = None) -> str:
    """`text` with `values` in the table at `path`, None for keys that must not be there; its other keys stay.

    `about` is the comment above a table that is new.  `ConfigError` where only a person can change it.
    """
    data = tomllib.loads(text)
    there = data.get(path[0], {}).get(path[1])
    kept = {key: value for key, value in values.items() if value is not None}
    if there is None:
        wanted = _with(data, path, kept)
        return first_that_means(wanted, table_name(path), _appended(text, path, kept, about), _added(text, path, kept))
    changed = {key: value for key, value in kept.items() if key in there and there[key] != value}
    gone = {key: None for key, value in values.items() if value is None and key in there}
    new = {key: value for key, value in kept.items() if key not in there}
    for step in (changed, gone, new):
        if step:
            there = {key: value for key, value in {**there, **step}.items() if value is not None}
            set_here = _edited(text, path, step)
            tries = (_below_head(text, path, step), set_here) if step is new else (set_here,)
            text = first_that_means(_with(data, path, there), table_name(path), *tries)
    return text


def _with(data: dict[str, Any], path: Path, table: dict[str, Any]) -> dict[str, Any]:
    wanted = copy.deepcopy(data)
    wanted.setdefault(path[0], {})[path[1]] = table
    return wanted


def _lines_of(values: Mapping[str, Any], newline: str) -> str:
    return tomlkit.dumps(dict(values)).replace("\n", newline)


def _appended(text: str, path: Path, values: Mapping[str, Any], about: str | None) -> Iterator[str]:
    newline = "\r\n" if "\r\n" in text else "\n"
    before = text if not text or text.endswith("\n") else text + newline
    if before.strip():
        before += newline
    comment = f"# {about}{newline}" if about else ""
    yield f"{before}{comment}{table_name(path)}{newline}{_lines_of(values, newline)}"


def _below_head(text: str, path: Path, values: Mapping[str, Any]) -> Iterator[str]:
    line = key_lines(text).get(path, 0)
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if 0 < line <= len(lines):
        newline = "\r\n" if "\r\n" in text else "\n"
        head = lines[line - 1] if lines[line - 1].endswith("\n") else lines[line - 1] + newline
        yield "".join([*lines[: line - 1], head, _lines_of(values, newline), *lines[line:]])


def _added(text: str, path: Path, values: Mapping[str, Any]) -> Iterator[str]:
    def edit(document: Any) -> None:
        table = tomlkit.inline_table()
        table.update(values)
        document[path[0]].add(path[1], table)

    yield from edited(text, edit)


def _edited(text: str, path: Path, values: Mapping[str, Any]) -> Iterator[str]:
    def edit(document: Any) -> None:
        table = document[path[0]][path[1]]
        for key, value in values.items():
            if value is None:
                del table[key]
            else:
                table[key] = value

    yield from edited(text, edit)
