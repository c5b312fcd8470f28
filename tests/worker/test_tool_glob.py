import os

import pytest
from fakes.tools import serve_tools

from worker.agent.errors import ToolError
from worker.agent.tools.glob import MAX_FILES


def write(root, *paths):
    """Each a minute younger than the one before."""
    for minute, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        os.utime(file, (1e9 + 60 * minute, 1e9 + 60 * minute))


@pytest.fixture
async def tools(tmp_path):
    root = tmp_path / "workspace"
    root.mkdir()
    write(root, "src/old.py", "main.py", "src/deep/down/a.py", "src/b.ts", "src/.hidden/c.py", "README.md", ".git/d.py")
    async with serve_tools(root) as tools:
        yield tools


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*.py", "main.py"),
        ("**/*.py", "src/.hidden/c.py src/deep/down/a.py main.py src/old.py"),
        ("src/*", "src/b.ts src/old.py"),
        ("src/**", "src/.hidden/c.py src/b.ts src/deep/down/a.py src/old.py"),
        ("src/", "src/.hidden/c.py src/b.ts src/deep/down/a.py src/old.py"),
        ("src/**/a.*", "src/deep/down/a.py"),
        ("**/deep/**/*.py", "src/deep/down/a.py"),
        ("**/*.{ts,md}", "README.md src/b.ts"),
        ("{src,lib}/**/*.ts", "src/b.ts"),
        ("./[!R]*.py", "main.py"),
        (".git/*", ".git/d.py"),
        ("**/?.py", "src/.hidden/c.py src/deep/down/a.py"),
    ],
)
async def test_files_come_newest_first(tools, pattern, paths):
    assert (await tools.call("Glob", pattern=pattern)).split() == paths.split()


async def test_a_folder_may_be_named(tools):
    assert await tools.call("Glob", pattern="*.ts", path="src") == "src/b.ts"
    assert await tools.call("Glob", pattern="*.ts", path=f"{tools.context.settings.workspace}/src") == "src/b.ts"
    assert await tools.call("Glob", pattern=f"{tools.context.settings.workspace}/src/*.ts") == "src/b.ts"


async def test_a_name_in_brackets_is_also_a_name(tools, tmp_path):
    write(tmp_path / "workspace", "app/[id]/page.tsx", "app/i/page.tsx")
    assert set((await tools.call("Glob", pattern="app/[id]/*")).split()) == {"app/[id]/page.tsx", "app/i/page.tsx"}


async def test_only_the_newest_of_many_are_told(tools, tmp_path):
    write(tmp_path / "workspace", *[f"many/{number:03}" for number in range(MAX_FILES + 20)])
    *paths, note = (await tools.call("Glob", pattern="many/*")).split("\n")
    assert paths == [f"many/{number:03}" for number in reversed(range(20, MAX_FILES + 20))]
    assert note == "[the newest 100 of 120 files: a narrower pattern shows the others]"


async def test_nothing_found_says_how_to_look_deeper(tools):
    assert await tools.call("Glob", pattern="**/*.rs") == "No files found"
    assert "`**/*.ts` matches in all" in await tools.call("Glob", pattern="*.ts")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"pattern": "../*"}, 'can\'t contain ".."; name the folder as `path`'),
        ({"pattern": ""}, "is empty"),
        ({"pattern": "/etc/*"}, "out of the workspace"),
        ({"pattern": "*", "path": "../"}, "out of the workspace"),
        ({"pattern": "*", "path": "outside"}, "out of the workspace"),
        ({"pattern": "*", "path": "/proc/self/root"}, "out of the workspace"),
        ({"pattern": "*", "path": "main.py"}, "not a folder"),
        ({"pattern": "*", "path": "nowhere"}, "does not exist"),
        ({"pattern": "*", "path": "a\0b"}, "NUL"),
        ({"pattern": "{a,b}" * 30}, "more than 100 alternatives"),
        ({"pattern": "{a,b" * 900}, "more than 1,000 characters"),
    ],
)
async def test_what_cannot_be_searched_is_said(tools, tmp_path, arguments, said):
    (tmp_path / "workspace/outside").symlink_to(tmp_path)
    with pytest.raises(ToolError) as error:
        await tools.call("Glob", **arguments)
    assert said in str(error.value)


async def test_links_are_not_followed(tools, tmp_path):
    write(tmp_path, "secret/key.pem")
    (tmp_path / "workspace/out").symlink_to(tmp_path / "secret")
    (tmp_path / "workspace/loop").symlink_to(tmp_path / "workspace")
    (tmp_path / "workspace/key.pem").symlink_to(tmp_path / "secret/key.pem")
    assert await tools.call("Glob", pattern="**/*.pem") == "No files found"
    assert "No files found" in await tools.call("Glob", pattern="out/*")


async def test_patterns_that_try_everything_take_no_time(tools, tmp_path):
    write(tmp_path / "workspace", "a/" * 30 + "a" * 200)
    assert await tools.call("Glob", pattern="**/" + "*a" * 50 + "b") == "No files found"
    assert await tools.call("Glob", pattern="**/a/" * 40 + "b") == "No files found"


async def test_a_search_stops_when_its_time_is_over(tmp_path):
    write(tmp_path, "a", "b")
    async with serve_tools(tmp_path, timeouts={"Glob": -1.0}) as tools:
        assert "name a smaller folder" in await tools.call("Glob", pattern="**/*")
