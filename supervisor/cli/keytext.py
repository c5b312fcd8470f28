"""Keys in the text of a configuration: comments, order and layout stay as somebody wrote them.

Pure.  A section is lines, which are put at the end or taken out; only inline tables and arrays need a parser that keeps
the layout (tomlkit).  What is made is read back, and must mean what was meant: else `ConfigError`.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import tomlkit

from shared.clientkeys import check_client_key, fingerprint
from shared.config.lines import key_lines
from shared.errors import ConfigError
from supervisor.cli.tomledit import edited, first_that_means


def add_client(text: str, name: str, values: Mapping[str, Any]) -> str:
    """`text` with `[auth.clients.<name>]`, which is not there yet; at the end, where no comment is about it."""
    wanted = tomllib.loads(text)
    wanted.setdefault("auth", {}).setdefault("clients", {})[name] = dict(values)

    def edit(document: Any) -> None:
        auth = document["auth"]
        if "clients" not in auth:
            auth.add("clients", tomlkit.inline_table())
        client = tomlkit.inline_table()
        client.update(values)
        auth["clients"].add(name, client)

    return _first_that_means(wanted, _appended(text, name, values), edited(text, edit))


def remove_client(text: str, name: str) -> str:
    """`text` without `[auth.clients.<name>]`, which is there."""
    wanted = tomllib.loads(text)
    del wanted["auth"]["clients"][name]

    def edit(document: Any) -> None:
        del document["auth"]["clients"][name]

    return _first_that_means(wanted, _without_lines(text, name), edited(text, edit))


def remove_key(text: str, mark: str) -> str:
    """`text` without those of `[auth] keys` that have the fingerprint `mark`."""
    wanted = tomllib.loads(text)
    keys = wanted["auth"]["keys"]
    gone = [index for index, key in enumerate(keys) if fingerprint_of(key) == mark]
    for index in reversed(gone):
        del keys[index]

    def edit(document: Any) -> None:
        for index in reversed(gone):
            del document["auth"]["keys"][index]

    return _first_that_means(wanted, edited(text, edit))


def remove_line(text: str, mark: str) -> str:
    """The text of a `keys_file` without the lines whose keys have the fingerprint `mark`."""
    return "".join(line for line in _lines(text) if fingerprint_of(line.strip()) != mark)


def fingerprint_of(key: str) -> str | None:
    """The fingerprint of what may be a key; None if it can't be one."""
    try:
        check_client_key(key)
    except ConfigError:
        return None
    return fingerprint(key)


def _appended(text: str, name: str, values: Mapping[str, Any]) -> Iterator[str]:
    client = tomlkit.table()
    client.update(values)
    section = (
        tomlkit.dumps({"auth": {"clients": {name: client}}}).removeprefix("[auth]\n").removeprefix("[auth.clients]\n")
    )
    newline = "\r\n" if "\r\n" in text else "\n"
    before = text if not text or text.endswith("\n") else text + newline
    if before.strip():
        before += newline
    yield before + section.strip().replace("\n", newline) + newline


def _without_lines(text: str, name: str) -> Iterator[str]:
    """`text` without the section's first line and some behind it, from none to all: the first that fits has them all.

    So the comments above it stay, and those below, which may be about what comes next.
    """
    lines = _lines(text)
    start = key_lines(text).get(("auth", "clients", name), 0) - 1
    if start < 0:
        return
    for end in range(start + 1, len(lines) + 1):
        is_gap = start > 0 and not lines[start - 1].strip() and (end == len(lines) or not lines[end].strip())
        yield "".join(lines[: start - is_gap] + lines[end:])


def _lines(text: str) -> list[str]:
    """With their ends; `str.splitlines` knows more ends than TOML does."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _first_that_means(wanted: dict[str, Any], *texts: Iterator[str]) -> str:
    """But for tables of which nothing is left."""
    return first_that_means(_pruned(wanted), "[auth]", *texts, read=lambda made: _pruned(tomllib.loads(made)))


def _pruned(data: dict[str, Any]) -> dict[str, Any]:
    auth = dict(data.get("auth", {}))
    if not auth.get("clients", True):
        del auth["clients"]
    return {**{key: value for key, value in data.items() if key != "auth"}, **({"auth": auth} if auth else {})}
