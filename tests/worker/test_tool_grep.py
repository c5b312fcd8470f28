"""Grep with the program of our own, and with ripgrep where it is installed: what they say is the same."""

import os
import shutil
import sys

import pytest
import trio
from fakes.tools import serve_tools

from worker.agent.errors import ToolError
from worker.agent.tools import grep as grep_tool

RIPGREP = shutil.which("rg")


@pytest.fixture(params=["own", pytest.param("rg", marks=pytest.mark.skipif(not RIPGREP, reason="no ripgrep here"))])
async def tools(request, tmp_path, monkeypatch):
    if request.param == "own":
        monkeypatch.setattr("worker.agent.tools.grep.shutil.which", lambda name: None)
    root = tmp_path / "workspace"
    files = {
        "main.py": "import os\n\ndef main():\n    pass\n\nmain()\n",
        "src/a.py": "x = 1\nMain = 2\n",
        "src/b.ts": "const main = 1;\r\n",
        "src/gen/c.min.js": "main();\n" + "x" * 5000 + "main\n",
        "docs/long.md": "one\ntwo\nthree\nfour\nfive\nsix\nseven\n",
        "ignored/d.py": "main\n",
        "ignored/keep.py": "main\n",
        "sub/.gitignore": "*.log\n!b.log\n",
        "sub/a.log": "main\n",
        "sub/b.log": "main\n",
        ".github/ci.yml": "main: true\n",
        ".git/config": "main\n",
        ".gitignore": "# comment\n/ignored/*\n!/ignored/keep.py\n",
    }
    for minute, (path, text) in enumerate(files.items()):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        os.utime(file, (1e9 + 60 * minute, 1e9 + 60 * minute))
    (root / "binary").write_bytes(b"main\0main\n")
    async with serve_tools(root) as tools:
        yield tools


async def grep(tools, pattern, **arguments):
    return (await tools.call("Grep", pattern=pattern, **arguments)).split("\n")


async def test_files_come_newest_first(tools):
    assert await grep(tools, "main") == [
        ".github/ci.yml", "sub/b.log", "ignored/keep.py", "src/gen/c.min.js", "src/b.ts", "main.py",
    ]  # fmt: skip


async def test_lines_are_numbered(tools):
    assert await grep(tools, "main", output_mode="content", type="py") == [
        "ignored/keep.py:1:main", "main.py:3:def main():", "main.py:6:main()",
    ]  # fmt: skip
    unnumbered = {"output_mode": "content", "-n": False}
    assert await grep(tools, r"^main\(\)$", path="main.py", **unnumbered) == ["main.py:main()"]


async def test_context_is_told_apart_from_matches(tools):
    assert await grep(tools, "one|five", path="docs", output_mode="content", **{"-A": 1, "-B": 1}) == [
        "docs/long.md:1:one", "docs/long.md-2-two",
        "--",
        "docs/long.md-4-four", "docs/long.md:5:five", "docs/long.md-6-six",
    ]  # fmt: skip
    assert await grep(tools, "four", path="docs", output_mode="content", **{"-C": 1}) == [
        "docs/long.md-3-three", "docs/long.md:4:four", "docs/long.md-5-five",
    ]  # fmt: skip
    assert len(await grep(tools, "four", path="docs", output_mode="content", context=2)) == 5


async def test_lines_are_counted(tools):
    # What a glob asks for is looked at even where .gitignore names it.
    assert await grep(tools, "main", output_mode="count", glob="*.py") == [
        "ignored/d.py:1", "ignored/keep.py:1", "main.py:2", "4 lines in 3 files",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ({"glob": "*.ts"}, "src/b.ts"),
        ({"glob": "src/*.{ts,py}"}, "src/b.ts"),
        ({"glob": "src/**"}, "src/gen/c.min.js src/b.ts"),
        ({"glob": "*.ts *.yml"}, ".github/ci.yml src/b.ts"),
        ({"glob": "*.ts,*.yml"}, ".github/ci.yml src/b.ts"),
        ({"glob": "!*.{js,py,yml,log}"}, "src/b.ts"),
        ({"type": "ts"}, "src/b.ts"),
        ({"path": "src"}, "src/gen/c.min.js src/b.ts"),
        ({"path": "src/gen", "glob": "src/**/*.js"}, "src/gen/c.min.js"),
        ({"path": "./src/../main.py"}, "main.py"),
        ({"path": "sub"}, "sub/b.log"),
        ({"-i": True, "path": "src/a.py"}, "src/a.py"),
        ({"head_limit": 1}, ".github/ci.yml [1 to 1 of 6; offset=1 goes on]"),
        ({"head_limit": 2, "offset": 5}, "main.py [6 to 6 of 6]"),
    ],
)
async def test_files_can_be_chosen(tools, arguments, files):
    assert " ".join(await grep(tools, "main", **arguments)) == files


async def test_a_match_may_have_several_lines(tools):
    assert await grep(tools, r"two.three\nfour", output_mode="content", multiline=True) == [
        "docs/long.md:2:two", "docs/long.md:3:three", "docs/long.md:4:four",
    ]  # fmt: skip
    assert await grep(tools, r"one\ntwo", multiline=True) == ["docs/long.md"]


async def test_long_lines_are_cut(tools):
    first, second = await grep(tools, "main", path="src/gen", output_mode="content")
    assert first == "src/gen/c.min.js:1:main();"
    assert second.startswith("src/gen/c.min.js:2:xxx")
    assert len(second) < 700


async def test_nothing_found_is_said(tools):
    assert await grep(tools, "nowhere to be found") == ["No matches found"]
    assert await grep(tools, "main", offset=100) == ["No more than 6 found"]
    assert await grep(tools, "main", path="ignored/d.py") == ["ignored/d.py"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pattern": "("}, "unterminated|unclosed group"),
        ({"pattern": ""}, "pattern is empty"),
        ({"pattern": "a\nb"}, "set `multiline`"),
        ({"pattern": r"a\nb"}, "set `multiline`"),
        ({"pattern": "a", "glob": "../*"}, "can't contain"),
        ({"pattern": "a", "type": "klingon"}, "klingon"),
        ({"pattern": "a", "path": "../.."}, "out of the workspace"),
        ({"pattern": "a", "path": "/etc/passwd"}, "out of the workspace"),
        ({"pattern": "a", "path": "/proc/self/root/etc"}, "out of the workspace"),
        ({"pattern": "a", "path": "nowhere"}, "does not exist"),
        ({"pattern": "a", "path": "fifo"}, "FIFO"),
        ({"pattern": "a\0"}, "NUL"),
    ],
)
async def test_what_cannot_be_searched_is_said(tools, arguments, said):
    os.mkfifo(f"{tools.context.settings.workspace}/fifo")
    with pytest.raises(ToolError, match=said):
        await tools.call("Grep", **arguments)


async def test_a_backslash_before_an_n_is_no_line_break(tools, tmp_path):
    (tmp_path / "workspace/path.txt").write_text(r"C:\new")
    assert await grep(tools, r"C:\\new") == ["path.txt"]


async def test_patterns_and_paths_are_no_options(tools, tmp_path):
    (tmp_path / "workspace/--version").write_text("--files\n")
    assert await grep(tools, "--files", path="--version", output_mode="content") == ["--version:1:--files"]


async def test_links_are_not_followed(tools, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("main\n")
    (tmp_path / "workspace/out").symlink_to(tmp_path / "secret")
    (tmp_path / "workspace/key").symlink_to(tmp_path / "secret/key")
    (tmp_path / "workspace/inside").symlink_to("src")
    assert len(await grep(tools, "main")) == 6
    assert await grep(tools, "main", path="inside", glob="*.ts") == ["src/b.ts"]
    with pytest.raises(ToolError, match="out of the workspace"):
        await tools.call("Grep", pattern="main", path="out")


async def test_a_folder_that_became_a_link_is_not_searched(tools, tmp_path, monkeypatch):
    """…between the moment that its path is resolved and the one that the search begins."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.py").write_text("main\n")
    resolve = grep_tool._resolved

    def swap(workspace, path):
        resolved = resolve(workspace, path)
        (tmp_path / "workspace/src").rename(tmp_path / "workspace/moved")
        (tmp_path / "workspace/src").symlink_to(secret)
        return resolved

    monkeypatch.setattr(grep_tool, "_resolved", swap)
    with pytest.raises(ToolError, match=r"src can't be searched: Not a directory"):
        await tools.call("Grep", pattern="main", path="src")


async def test_a_catastrophic_pattern_ends_with_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.agent.tools.grep.shutil.which", lambda name: None)
    (tmp_path / "a").write_text("ab\n")
    (tmp_path / "evil").write_text("a" * 60 + "\n")
    async with serve_tools(tmp_path, timeouts={"Grep": 3.0}) as tools:
        found = await tools.call("Grep", pattern="(a+)+b", output_mode="content")
    assert found == "a:1:ab\n[stopped after 2.4 s, at evil: there may be more]"


async def test_a_cancelled_search_leaves_nothing_alive(tmp_path, monkeypatch):
    monkeypatch.setattr("worker.agent.tools.grep.shutil.which", lambda name: None)
    (tmp_path / "evil").write_text("a" * 60 + "\n")
    mark = f"{tmp_path.name}-(a+)+b"

    def alive():
        commands = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    commands.append(file.read().decode(errors="replace"))
            except OSError:
                continue
        return any(sys.executable in command and mark in command for command in commands)

    async with serve_tools(tmp_path) as tools, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: tools.call("Grep", pattern=f"{mark}|(a+)+b"))
        with trio.fail_after(10):
            while not alive():  # noqa: ASYNC110 (what starts elsewhere has no event)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert not alive()
