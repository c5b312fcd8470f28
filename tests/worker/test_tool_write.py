import pytest
from fakes.file_tools import call

from worker.agent.errors import ToolError
from worker.agent.tools.write import Write


async def test_a_file_is_made_with_its_folders(tmp_path):
    told = await call(Write(), tmp_path, file_path="src/new/a.txt", content="one\nzwölf\n")
    assert told == "Created src/new/a.txt: 2 lines, 11 bytes."
    assert (tmp_path / "src/new/a.txt").read_bytes() == "one\nzwölf\n".encode()


async def test_a_file_is_replaced_and_keeps_its_mode(tmp_path):
    (tmp_path / "run.sh").write_text("old")
    (tmp_path / "run.sh").chmod(0o755)
    told = await call(Write(), tmp_path, file_path=str(tmp_path / "run.sh"), content="#!/bin/sh")
    assert told == f"Replaced {tmp_path}/run.sh: 1 line, 9 bytes."
    assert (tmp_path / "run.sh").read_text() == "#!/bin/sh"
    assert (tmp_path / "run.sh").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("content", ["", "\n", "one\r\ntwo", "\0", "\u2028"])
async def test_the_content_is_taken_to_the_letter(tmp_path, content):
    await call(Write(), tmp_path, file_path="a.txt", content=content)
    assert (tmp_path / "a.txt").read_bytes() == content.encode()


async def test_the_target_of_a_link_is_written_not_the_link(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "link").symlink_to("a.txt")
    await call(Write(), tmp_path, file_path="link", content="new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../out.txt", "leads out of the workspace"),
        ("/tmp/out.txt", "leads out of the workspace"),
        ("link/out.txt", "leads out of the workspace"),
        ("folder", "is a folder, not a file"),
        ("folder/", "is a folder, not a file"),
        ("new/", "is a folder, not a file"),
        ("file/a.txt", "a part of the path is a file"),
        ("a\0.txt", "NUL"),
    ],
)
async def test_what_can_not_be_written_is_told(tmp_path, path, why):
    root = tmp_path / "workspace"
    (root / "folder").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(ToolError, match=why):
        await call(Write(), root, file_path=path, content="x")
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]
    assert sorted(path.name for path in root.iterdir()) == ["file", "folder", "link"]


async def test_too_much_is_refused(tmp_path):
    with pytest.raises(ToolError, match="too much for one file"):
        await call(Write(), tmp_path, file_path="a.txt", content="x" * 11_000_000)
    assert not list(tmp_path.iterdir())
