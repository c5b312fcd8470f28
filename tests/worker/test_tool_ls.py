import os

import pytest
from fakes.file_tools import call

from worker.agent.errors import ToolError
from worker.agent.tools import ls as module
from worker.agent.tools.ls import LS


@pytest.fixture
def root(tmp_path):
    for name in [
        "README.md",
        "src/main.py",
        "src/lib/a.py",
        "src/lib/b.pyc",
        ".git/config",
        ".env",
        "node_modules/x/y",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


async def test_a_folder_and_what_is_below(root):
    assert await call(LS(), root, path=".") == (
        """\
./
  - .env
  - .git/ …
  - README.md
  - empty/
  - node_modules/ …
  - src/
    - lib/
      - a.py
      - b.pyc
    - main.py"""
    )
    assert await call(LS(), root) == await call(LS(), root, path=".")


@pytest.mark.parametrize("path", ["src/lib", "./src/lib/", "{root}/src/lib", "empty/../src/lib"])
async def test_any_folder_inside(root, path):
    path = path.format(root=root)
    assert await call(LS(), root, path=path) == f"{path.rstrip('/')}/\n  - a.py\n  - b.pyc"


async def test_a_folder_that_is_asked_for_is_entered(root):
    assert await call(LS(), root, path=".git") == ".git/\n  - config"


@pytest.mark.parametrize(
    ("ignore", "gone"),
    [
        (["*.pyc"], {"b.pyc"}),
        (["**/*.pyc"], {"b.pyc"}),
        (["**/README.md"], {"README.md"}),
        (["src/lib"], {"lib/", "a.py", "b.pyc"}),
        (["src/lib/"], {"lib/", "a.py", "b.pyc"}),
        (["src/lib/**"], {"a.py", "b.pyc"}),
        (["./src/main.py"], {"main.py"}),
        (["src"], {"src/", "lib/", "a.py", "b.pyc", "main.py"}),
        (["[rR]*", "e?pty"], {"README.md", "empty/"}),
        (["", "/", "nothing", "["], set()),
    ],
)
async def test_patterns_leave_out(root, ignore, gone):
    def names(told):
        return {line.split("- ")[1].split(" ")[0] for line in told.splitlines()[1:]}

    everything = names(await call(LS(), root))
    assert names(await call(LS(), root, ignore=ignore)) == everything - gone


async def test_nothing_to_list_is_said(root):
    assert await call(LS(), root, path="empty") == "empty/\n[the folder is empty, or all of it is ignored]"
    assert "all of it is ignored" in await call(LS(), root, ignore=["*"])


async def test_links_are_named_and_not_followed(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").touch()
    (root / "out").symlink_to(outside)
    (root / "empty/up").symlink_to("..")
    (root / "in").symlink_to("src/lib")
    told = await call(LS(), root)
    assert "  - out@\n" in told
    assert "    - up@\n" in told
    assert "secret" not in told
    assert await call(LS(), root, path="in") == "in/\n  - a.py\n  - b.pyc"
    with pytest.raises(ToolError, match="out leads out of the workspace"):
        await call(LS(), root, path="out")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("..", "leads out of the workspace"),
        ("/", "leads out of the workspace"),
        ("/proc/self/root", "leads out of the workspace"),
        ("README.md", "is a file, not a folder"),
        ("fifo", "is a FIFO, not a folder"),
        ("nothing", "nothing does not exist"),
        ("\0", "NUL"),
    ],
)
async def test_what_is_no_folder_inside_is_refused(root, path, why):
    os.mkfifo(root / "fifo")
    with pytest.raises(ToolError, match=why):
        await call(LS(), root, path=path)


async def test_large_folders_are_listed_from_the_top(root, monkeypatch):
    monkeypatch.setattr(module, "MAX_ENTRIES", 10)
    for number in range(8):
        (root / "src/lib" / f"{number}").touch()
    told = (await call(LS(), root)).splitlines()
    assert "    - main.py" in told
    assert "    - lib/ (not all of it)" in told
    assert told[-1] == "[… only 10 entries are listed: name a folder below, or use Glob …]"
    assert len(told) == 12


async def test_endless_folders_are_read_in_part(root, monkeypatch):
    monkeypatch.setattr(module, "MAX_SCANNED", 1)
    told = await call(LS(), root, path="src/lib")
    assert told.startswith("src/lib/ (not all of it)\n  - ")
    assert len(told.splitlines()) == 2


async def test_deep_folders_end_somewhere(root):
    (root / "empty" / "/".join("d" * 900)).mkdir(parents=True)
    told = await call(LS(), root, path="empty")
    assert told.count("- d/") == module.MAX_DEPTH + 1
    assert told.endswith("- d/ …")


async def test_a_name_can_not_pass_for_another_line(root):
    (root / "empty/a\n  - b").touch()
    os.close(os.open(os.fsencode(root / "empty") + b"/\xff", os.O_CREAT))
    told = await call(LS(), root, path="empty")
    assert told == "empty/\n  - 'a\\n  - b'\n  - '\\udcff'"
