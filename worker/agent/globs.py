"""Patterns of paths, as shells and .gitignore files have them.  Pure.

    *  ?  [a-z]  [!a-z]    inside one name          {a,b}    one or the other, also with slashes
    **                     any number of folders    [id]     the name itself, too: some frameworks name folders so

A pattern is matched a name at a time, by the set of places in it that the names so far may have led to: no pattern
takes long, and a folder under which nothing can match is known before it is read.
"""

import re
from collections.abc import Iterable, Iterator
from fnmatch import translate
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple

MAX_ALTERNATIVES = 100
"""Of braces, written out."""
MAX_CHARS = 1000

State = frozenset[tuple[int, int]]
"""Alternative and place in it; empty: nothing below can match."""


class Glob:
    """One pattern; `ValueError` with half a sentence if it is none."""

    def __init__(self, pattern: str, *, braces: bool = True) -> None:
        if len(pattern) > MAX_CHARS:
            raise ValueError(f"has more than {MAX_CHARS:,} characters")
        written = list(islice(_expanded(pattern), MAX_ALTERNATIVES + 1)) if braces else [pattern]
        if len(written) > MAX_ALTERNATIVES:
            raise ValueError(f"has more than {MAX_ALTERNATIVES} alternatives in braces")
        self._alternatives = [_segments(text) for text in written]
        self.start: State = self._closed({(index, 0) for index in range(len(written))})

    def enter(self, state: State, name: str) -> State:
        """Where `name`, below what led to `state`, leads."""
        reached = set()
        for alternative, place in state:
            segments = self._alternatives[alternative]
            if place == len(segments):
                continue
            segment = segments[place]
            if segment == "**":
                reached.add((alternative, place))
            elif segment in (name, "*") or _regex(segment).match(name):
                reached.add((alternative, place + 1))
        return self._closed(reached)

    def accepts(self, state: State) -> bool:
        """Whether what led to `state` matches."""
        return any(place == len(self._alternatives[alternative]) for alternative, place in state)

    def matches(self, path: str) -> bool:
        """Whether a relative path matches."""
        state = self.start
        for name in path.split("/"):
            state = self.enter(state, name)
            if not state:
                return False
        return self.accepts(state)

    def _closed(self, places: set[tuple[int, int]]) -> State:
        """`**` may stand for no folder at all."""
        skipped = {(a, place + 1) for a, place in places if self._alternatives[a][place : place + 1] == ["**"]}
        return frozenset(places | skipped)


@lru_cache(1024)
def _regex(segment: str) -> re.Pattern[str]:
    # `translate` makes what never tries twice, so no name takes long.
    return re.compile(translate(segment))


def _segments(pattern: str) -> list[str]:
    """The names of a pattern.  No `**` follows another, and one at the end stands for at least one name."""
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if ".." in names:
        raise ValueError('can\'t contain ".."')
    if not names:
        raise ValueError("is empty")
    if pattern.endswith("/"):
        names.append("**")
    names = [name for index, name in enumerate(names) if name != "**" or names[index - 1 : index] != ["**"]]
    return [*names, "*"] if names[-1] == "**" else names


def _expanded(pattern: str) -> Iterator[str]:
    """`a{b,c}` as `ab` and `ac`; braces without a comma, or without their other half, are letters."""
    depth = start = 0
    commas: list[int] = []
    for at, letter in enumerate(pattern):
        if letter == "{":
            depth += 1
            if depth == 1:
                start, commas = at, []
        elif letter == "," and depth == 1:
            commas.append(at)
        elif letter == "}" and depth:
            depth -= 1
            if depth == 0 and commas:
                edges = [start, *commas, at]
                for left, right in pairwise(edges):
                    yield from _expanded(pattern[:start] + pattern[left + 1 : right] + pattern[at + 1 :])
                return
    yield pattern


class Rules:
    """The lines of one .gitignore file, or globs that are written like them (gitignore(5))."""

    def __init__(self, lines: Iterable[str], *, braces: bool = False) -> None:
        """Lines that are no pattern are passed over.  Braces mean something to ripgrep, not to git."""
        self._rules = [rule for line in lines if (rule := _rule(line, braces=braces)) is not None]

    def verdict(self, path: str, *, folder: bool) -> bool | None:
        """What the last rule says that matches, True, or with `!` False.

        `path` is relative to the rules' folder; whoever asks has asked for the folders that it lies in before.
        """
        name = path.rpartition("/")[2]
        for rule in reversed(self._rules):
            if (folder or not rule.folders_only) and rule.glob.matches(name if rule.name_only else path):
                return rule.verdict
        return None


class _Rule(NamedTuple):
    verdict: bool
    folders_only: bool
    name_only: bool
    """A pattern without a slash is one of names, wherever they stand."""
    glob: Glob


def _rule(line: str, *, braces: bool) -> _Rule | None:
    text = line.rstrip("\r\n")
    if not text.endswith("\\ "):
        text = text.rstrip(" ")
    if text.startswith("#"):
        return None
    pattern = _unescaped(text.removeprefix("!"))
    bare = pattern.rstrip("/")
    try:
        glob = Glob(bare, braces=braces)
    except ValueError:
        return None
    return _Rule(not text.startswith("!"), bare != pattern, "/" not in bare, glob)


def _unescaped(text: str) -> str:
    r"""`\*` as `[*]`, which `Glob` knows; other letters need no backslash."""
    return re.sub(r"\\(.)", lambda match: f"[{match[1]}]" if match[1] in "*?[" else match[1], text)
