import os

import pytest
from fakes.file_tools import call
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.editing import Replacement, apply
from worker.agent.errors import ToolError
from worker.agent.tools.edit import Edit, edit_file
from worker.agent.tools.multi_edit import MultiEdit
from worker.agent.workspace import MAX_FILE_BYTES, Workspace


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.py").write_text("def one():\n    return 1\n\ndef two():\n    return 1\n")
    return tmp_path


async def edit(root, old, new, **more):
    return await call(Edit(), root, file_path="a.py", old_string=old, new_string=new, **more)


async def test_the_only_occurrence_is_replaced(root):
    (root / "a.py").chmod(0o755)
    assert await edit(root, "def two", "def three") == "Changed a.py.\nReplaced 1 occurrence, in line 4."
    assert (root / "a.py").read_text() == "def one():\n    return 1\n\ndef three():\n    return 1\n"
    assert (root / "a.py").stat().st_mode & 0o777 == 0o755


async def test_an_ambiguous_string_is_refused_with_the_number_of_matches(root):
    before = (root / "a.py").read_text()
    with pytest.raises(ToolError, match=r"a\.py: old_string was found 2 times \(lines 2, 5\): .* or set replace_all"):
        await edit(root, "return 1", "return 2")
    assert (root / "a.py").read_text() == before


async def test_many_matches_are_not_all_named(root):
    (root / "a.py").write_text("x\n" * 5000)
    with pytest.raises(ToolError, match=r"found 5,000 times \(lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …\)"):
        await edit(root, "x", "y")


async def test_all_occurrences_are_replaced(root):
    told = await edit(root, "return 1", "return 2", replace_all=True)
    assert told == "Changed a.py.\nReplaced 2 occurrences, the first in line 2."
    assert (root / "a.py").read_text() == "def one():\n    return 2\n\ndef two():\n    return 2\n"


async def test_several_lines_are_one_string(root):
    await edit(root, "    return 1\n\ndef two():\n", "")
    assert (root / "a.py").read_text() == "def one():\n    return 1\n"


@pytest.mark.parametrize(
    ("old", "why"),
    [
        ("return 3", "was not found. Read the file again"),
        ("def one():\n  return 1", "was not found. Line 1 has the same words with other white space"),
        ("\treturn 1\n\n\ndef", "was not found. Read"),
        ("  \n \t ", "was not found."),
    ],
)
async def test_a_string_that_is_not_there_is_told(root, old, why):
    with pytest.raises(ToolError, match=why):
        await edit(root, old, "x")


async def test_what_changes_nothing_is_refused(root):
    with pytest.raises(ToolError, match="are the same"):
        await edit(root, "one", "one")


async def test_an_empty_string_makes_a_file_and_only_that(root):
    with pytest.raises(ToolError, match="old_string is empty, and the file is not"):
        await edit(root, "", "x")
    await call(Edit(), root, file_path="new/b.py", old_string="", new_string="x = 1\n")
    assert (root / "new/b.py").read_text() == "x = 1\n"
    with pytest.raises(ToolError, match=r"nothing\.py does not exist"):
        await call(Edit(), root, file_path="nothing.py", old_string="x", new_string="y")


async def test_lines_keep_their_ends(root):
    (root / "a.py").write_bytes(b"one\r\ntwo\r\nthree\r\n")
    await edit(root, "one\ntwo", "eins\nzwei\ndrei")
    assert (root / "a.py").read_bytes() == b"eins\r\nzwei\r\ndrei\r\nthree\r\n"
    (root / "a.py").write_bytes(b"one\r\ntwo\nthree\r\n")
    await edit(root, "two\n", "zwei\n")
    assert (root / "a.py").read_bytes() == b"one\r\nzwei\nthree\r\n"


async def test_bytes_that_are_no_utf_8_stay(root):
    (root / "a.py").write_bytes(b"\xef\xbb\xbfna\xefve\xff one\n")
    await edit(root, "one", "zwölf")
    assert (root / "a.py").read_bytes() == b"\xef\xbb\xbfna\xefve\xff zw\xc3\xb6lf\n"


async def test_binary_files_and_large_ones_are_refused(root):
    (root / "a.py").write_bytes(b"one\0")
    with pytest.raises(ToolError, match="is a binary file"):
        await edit(root, "one", "two")
    os.truncate(root / "a.py", 5 << 30)
    with pytest.raises(ToolError, match="5,368,709,120 bytes: it is too large"):
        await edit(root, "one", "two")


async def test_what_would_fill_the_memory_is_not_made(root):
    (root / "a.py").write_text("a" * 1_000_000)
    with pytest.raises(ToolError, match="would become larger"):
        await edit(root, "a", "b" * 1_000_000, replace_all=True)
    assert (root / "a.py").stat().st_size == 1_000_000


@pytest.mark.parametrize("path", ["../a.py", "/etc/hostname", "out", "a.py\0"])
async def test_nothing_outside_is_changed(root, path, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "a.py"
    outside.write_text("one")
    (root / "out").symlink_to(outside)
    for tool, arguments in [
        (Edit(), {"old_string": "one", "new_string": "two"}),
        (MultiEdit(), {"edits": [{"old_string": "one", "new_string": "two"}]}),
    ]:
        with pytest.raises(ToolError, match=r"leads out of the workspace|NUL"):
            await call(tool, root, file_path=path, **arguments)
    assert outside.read_text() == "one"


def test_half_a_surrogate_pair_is_no_text(root):
    with pytest.raises(ToolError, match="isn't valid Unicode"):
        edit_file(Workspace(str(root)), "a.py", [Replacement(old_string="def one", new_string="\ud800")])


async def test_edits_are_made_one_after_the_other(root):
    told = await call(
        MultiEdit(),
        root,
        file_path="a.py",
        edits=[
            {"old_string": "def one", "new_string": "def three"},
            {"old_string": "def three", "new_string": "def four"},
            {"old_string": "return 1", "new_string": "return 2", "replace_all": True},
        ],
    )
    assert told.splitlines() == [
        "Changed a.py.",
        "Replaced 1 occurrence, in line 1.",
        "Replaced 1 occurrence, in line 1.",
        "Replaced 2 occurrences, the first in line 2.",
    ]
    assert (root / "a.py").read_text() == "def four():\n    return 2\n\ndef two():\n    return 2\n"


@pytest.mark.parametrize("wrong", [{"old_string": "nothing"}, {"old_string": "return 1"}, {"old_string": ""}])
async def test_one_edit_that_fails_makes_none(root, wrong):
    before = (root / "a.py").stat()
    good = {"old_string": "def one", "new_string": "def three"}
    with pytest.raises(ToolError, match=r"a\.py: Edit 2 of 3: old_string .* None of the edits was made\."):
        await call(MultiEdit(), root, file_path="a.py", edits=[good, {**wrong, "new_string": "x"}, good])
    after = (root / "a.py").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


async def test_edits_can_begin_with_a_new_file(root):
    edits = [{"old_string": "", "new_string": "one two"}, {"old_string": "two", "new_string": "three"}]
    await call(MultiEdit(), root, file_path="b.py", edits=edits)
    assert (root / "b.py").read_text() == "one three"


async def test_no_edits_are_refused(root):
    with pytest.raises(ToolError):
        await call(MultiEdit(), root, file_path="a.py", edits=[])


async def test_edits_as_the_text_of_a_list_are_understood(root):
    await call(MultiEdit(), root, file_path="a.py", edits='[{"old_string": "def one", "new_string": "def three"}]')
    assert (root / "a.py").read_text().startswith("def three")


texts = st.text(alphabet="ab\n", max_size=30)


@given(texts, texts.filter(bool), texts, st.booleans())
def test_a_replacement_is_that_of_the_language_or_an_error(text, old, new, replace_all):
    edit = Replacement(old_string=old, new_string=new, replace_all=replace_all)
    if old == new or not text.count(old) or (text.count(old) > 1 and not replace_all):
        with pytest.raises(ToolError):
            apply(text, [edit], MAX_FILE_BYTES)
    else:
        changed, (done,) = apply(text, [edit], MAX_FILE_BYTES)
        assert changed == text.replace(old, new)
        assert done.count == text.count(old)
        assert done.line == text[: text.index(old)].count("\n") + 1
