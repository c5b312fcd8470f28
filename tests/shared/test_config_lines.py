"""`shared.config.lines`: every key of a TOML text is found on its line."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config.lines import Path, key_lines

DOCUMENT = '''\
top = 1 # [not.a.table]

[server]
bind = ["a", # ]
  "b",
  'c]',
]
"quoted key" = """
[fake]
x = 1 \\""" ""
"""
'literal.key' = \'\'\'
it's
\'\'\'
dotted . "inner part".x = {a = 1, "b.c" = [2, {d = 3}]}
after = 1979-05-27T07:32:00Z

[[list]]
name = "one"
[list.sub]
k = 1
[[list]]
name = "two"
  [ list . sub ]
  k = 2
[[list.deep]]
z = inf
[models."claude-*"]
provider = "x"
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("server",), 3),
        (("server", "bind"), 4),
        (("server", "bind", 0), 4),
        (("server", "bind", 1), 5),
        (("server", "bind", 2), 6),
        (("server", "quoted key"), 8),
        (("server", "literal.key"), 12),
        (("server", "dotted", "inner part", "x"), 15),
        (("server", "dotted", "inner part", "x", "b.c", 1, "d"), 15),
        (("server", "after"), 16),
        (("list",), 18),
        (("list", 0, "name"), 19),
        (("list", 0, "sub", "k"), 21),
        (("list", 1, "name"), 23),
        (("list", 1, "sub"), 24),
        (("list", 1, "sub", "k"), 25),
        (("list", 1, "deep", 0, "z"), 27),
        (("models", "claude-*", "provider"), 29),
    ],
)
def test_finds_the_line(path: Path, line: int):
    assert key_lines(DOCUMENT)[path] == line


def test_line_ends_of_windows_count_once():
    assert key_lines("a = 1\r\n\r\n[b]\r\nc = 1\r\n")["b", "c"] == 4


def paths_of(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths_of(item, (*path, index))


def test_knows_exactly_the_keys_that_tomllib_knows():
    assert set(key_lines(DOCUMENT)) == set(paths_of(tomllib.loads(DOCUMENT)))


keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4)
values = st.recursive(
    st.booleans() | st.integers(-9, 99) | st.text(st.sampled_from("a]}#,='\"\\\n["), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[ # ]\n" + ",\n".join(map(toml, value)) + "\n]" if value else "[ ]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@settings(deadline=None)
@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=3), max_size=3))
def test_agrees_with_tomllib_on_generated_documents(tables: dict[str, dict[str, Any]]):
    rows = []
    expected = {}
    line = 1
    for name, table in tables.items():
        rows.append(f"[{quoted(name)}]\n")
        line += 1
        for key, value in table.items():
            rows.append(f"{quoted(key)} = {toml(value)}\n")
            expected[name, key] = line
            line += rows[-1].count("\n")
    text = "".join(rows)
    found = key_lines(text)
    assert set(found) == set(paths_of(tomllib.loads(text)))
    assert {path: found[path] for path in expected} == expected


@settings(deadline=None)
@given(st.text() | st.text(st.sampled_from("[]{}=.,#\"'\\\n a")))
def test_makes_something_of_any_text(text: str):
    last = text.count("\n") + 1
    assert all(1 <= line <= last for line in key_lines(text).values())
