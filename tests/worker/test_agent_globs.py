"""Patterns of paths, and the rules of .gitignore files against git itself."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.globs import Glob, Rules


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*.py", "a.py .py", "a/b.py a.pyc"),
        ("**/*.py", "a.py a/b.py a/b/c.py", "a.ts"),
        ("a/**/b", "a/b a/x/b a/x/y/b", "a b ab a/xb"),
        ("a/**", "a/b a/b/c", "a b/a"),
        ("**", "a a/b", ""),
        ("a//./b", "a/b", "a"),
        ("a{b,c{d,e}}f", "abf acdf acef", "af acf"),
        ("{a,b/c}/d", "a/d b/c/d", "b/d"),
        ("a{b}c{", "a{b}c{", "abc"),
        ("{,x}a", "a xa", "ya"),
        ("[ab]", "a b [ab]", "c"),
        ("[!ab]?", "cd", "ad"),
        ("a**b", "ab axb", "a/b"),
    ],
)
def test_patterns(pattern, matching, other):
    glob = Glob(pattern)
    assert [path for path in matching.split() if not glob.matches(path)] == []
    assert [path for path in other.split() if glob.matches(path)] == []


def test_a_folder_in_which_nothing_can_match_is_known():
    glob = Glob("src/*/a.py")
    assert not glob.enter(glob.start, "docs")
    assert glob.enter(glob.start, "src")


@given(st.text("ab*?[]{},/!\\.-", max_size=30), st.text("ab/[]", min_size=1, max_size=20))
def test_any_pattern_is_one_or_an_error(pattern, path):
    try:
        glob = Glob(pattern)
    except ValueError:
        return
    assert glob.matches(path) in (True, False)


PATHS = ("a", "b.o", "c.o", "d/a", "d/b.o", "d/e/a", "d/e/f.x", "g/h", "g/i/h", "x y", "#n", "!n", "k*", "kk", "[ab]")


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
@pytest.mark.parametrize(
    "text",
    [
        "*.o\n!b.o\n", "/a\n", "a\n", "d/\n", "d/*\n!d/e\n", "d/e\n", "**/h\n", "g/**/h\n", "g/**\n", "e/\n",
        "*\n!*.o\n", "\n# a\n  \n", "x y  \n", "\\#n\n", "\\!n\n", "k\\*\n", "*.[ox]\r\n", "d/**/a\n",
        "/*/h\n", "[!a]\n", "{a,kk}\n",
    ],
)  # fmt: skip
def test_rules_are_those_of_git(tmp_path, text):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text(text)
    for path in PATHS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    told = subprocess.run(
        ["git", "-c", "core.excludesFile=", "check-ignore", "--stdin", "-z"],
        cwd=tmp_path,
        input="\0".join(PATHS).encode(),
        capture_output=True,
        check=False,
    )
    rules = Rules(text.split("\n"))

    def ignored(path):
        names = path.split("/")
        folders = ["/".join(names[:end]) for end in range(1, len(names))]
        return any(rules.verdict(folder, folder=True) for folder in folders) or bool(rules.verdict(path, folder=False))

    assert [path for path in PATHS if ignored(path)] == told.stdout.decode().split("\0")[:-1]
