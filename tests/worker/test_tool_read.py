import os
import tracemalloc

import pytest
from fakes.file_tools import call
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.errors import ToolError
from worker.agent.excerpt import MAX_LINE_CHARS, Excerpt
from worker.agent.tools import read as module
from worker.agent.tools.read import LINES, Read


def numbered(*lines, start=1):
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(lines, start))


async def test_lines_are_numbered(tmp_path):
    (tmp_path / "a.txt").write_text("one\n  two\n\nfour")
    assert await call(Read(), tmp_path, file_path="a.txt") == numbered("one", "  two", "", "four")
    assert await call(Read(), tmp_path, file_path=str(tmp_path / "a.txt")) == numbered("one", "  two", "", "four")


@pytest.mark.parametrize("text", ["one\ntwo\n", "one\ntwo", "one\r\ntwo\r\n"])
async def test_the_end_of_the_last_line_is_no_line(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert await call(Read(), tmp_path, file_path="a.txt") == numbered("one", "two")


async def test_only_line_feeds_end_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028still\x0cone\ntwo")
    assert await call(Read(), tmp_path, file_path="a.txt") == numbered("one\u2028still\x0cone", "two")


async def test_offset_and_limit(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {number}" for number in range(1, 101)))
    assert await call(Read(), tmp_path, file_path="a.txt", offset=99) == numbered("line 99", "line 100", start=99)
    told = await call(Read(), tmp_path, file_path="a.txt", offset=10, limit=2)
    assert told == (
        numbered("line 10", "line 11", start=10)
        + "\n[… the file goes on: 791 bytes in all; the next line is offset=12 …]"
    )
    assert (await call(Read(), tmp_path, file_path="a.txt", offset=0, limit=1)).startswith(numbered("line 1"))
    told = await call(Read(), tmp_path, file_path="a.txt", offset=None, limit=None)
    assert told == await call(Read(), tmp_path, file_path="a.txt")
    assert await call(Read(), tmp_path, file_path="a.txt", offset=99, limit=2) == await call(
        Read(), tmp_path, file_path="a.txt", offset=99
    )


async def test_a_line_beyond_the_end_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(ToolError, match=r"a\.txt has only 2 lines: there is no line 3"):
        await call(Read(), tmp_path, file_path="a.txt", offset=3)


async def test_so_many_lines_at_once(tmp_path):
    (tmp_path / "a.txt").write_text("x\n" * (LINES + 1))
    told = await call(Read(), tmp_path, file_path="a.txt")
    assert told.count("\tx") == LINES
    assert told.endswith(f"offset={LINES + 1} …]")


async def test_what_has_no_room_is_left_for_the_next_call(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{number} {'x' * 90}\n" for number in range(1, 1001)))
    offset, seen = 1, []
    for _ in range(1000):
        told = await call(Read(), tmp_path, max_output_chars=5000, file_path="a.txt", offset=offset)
        assert len(told) <= 5000
        *lines, last = told.split("\n")
        seen += [int(line.split()[1]) for line in lines]
        if "the next line is" not in last:
            seen.append(int(last.split()[1]))
            break
        offset = int(last.partition("offset=")[2].split()[0])
    assert seen == list(range(1, 1001))


async def test_long_lines_are_cut(tmp_path):
    (tmp_path / "a.txt").write_text("short\n" + "é" * 1_000_000 + "\nend")
    told = await call(Read(), tmp_path, file_path="a.txt")
    assert told == numbered("short", "é" * MAX_LINE_CHARS + "[… this line has 2,000,000 bytes …]", "end")


async def test_one_line_is_shown_however_little_room_there_is(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 1000 + "\nend")
    told = await call(Read(), tmp_path, max_output_chars=300, file_path="a.txt")
    assert told.startswith("     1\t" + "x" * 100)
    assert told.endswith("offset=2 …]")


async def test_an_empty_file_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert await call(Read(), tmp_path, file_path="a.txt") == "[the file is empty]"


async def test_what_is_not_utf_8_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve".encode("latin-1"))
    assert await call(Read(), tmp_path, file_path="a.txt") == numbered("na\ufffdve")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0\0", b"text\n" * 100_000 + b"\0", "text".encode("utf-16")])
async def test_binary_files_are_refused(tmp_path, data):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(ToolError, match=rf"a\.bin is a binary file \({len(data):,} bytes\): only text can be read"):
        await call(Read(), tmp_path, file_path="a.bin", offset=100_000)


async def test_a_file_of_5_gb_takes_no_memory_and_no_time(tmp_path):
    (tmp_path / "large").touch()
    (tmp_path / "large.txt").write_bytes(b"text\n" * 100_000)
    for name in ("large", "large.txt"):
        os.truncate(tmp_path / name, 5 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(ToolError, match=r"large is a binary file \(5,368,709,120 bytes\)"):
            await call(Read(), tmp_path, file_path="large")
        told = await call(Read(), tmp_path, file_path="large.txt")
        assert told.endswith("[… the file goes on: 5,368,709,120 bytes in all; the next line is offset=2001 …]")
        with pytest.raises(ToolError, match="binary"):
            await call(Read(), tmp_path, file_path="large.txt", offset=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_a_search_for_a_line_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SCANNED_BYTES", 1_000_000)
    (tmp_path / "lines").write_bytes(b"x\n" * 2_000_000)
    (tmp_path / "line").write_bytes(b"x" * 4_000_000)
    with pytest.raises(ToolError, match=r"Line 1,900,000 is not within the first 1,000,000 bytes of lines"):
        await call(Read(), tmp_path, file_path="lines", offset=1_900_000)
    told = await call(Read(), tmp_path, file_path="line")
    assert told.startswith(f"     1\t{'x' * MAX_LINE_CHARS}[… this line has 1,0")
    assert "the file goes on: 4,000,000 bytes in all" in told


async def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, why in {
        ".": "is a folder, not a file",
        "fifo": "is a FIFO",
        "nothing.txt": "nothing.txt does not exist",
        "../x": "leads out of the workspace",
        "/dev/zero": "leads out of the workspace",
        "/proc/self/root/etc/passwd": "leads out of the workspace",
        "a\0b": "NUL",
    }.items():
        with pytest.raises(ToolError, match=why):
            await call(Read(), tmp_path, file_path=path)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"offset": -1}, {"offset": "x"}, {}, {"path": "a.txt"}])
async def test_wrong_arguments_are_told(tmp_path, wrong):
    with pytest.raises(ToolError):
        await call(Read(), tmp_path, **({"file_path": "a.txt"} if wrong and "path" not in wrong else {}), **wrong)


def excerpt_of(data, *, pieces, offset, limit):
    excerpt = Excerpt(offset=offset, limit=limit, max_chars=100_000)
    start = 0
    for size in (*pieces, len(data)):
        piece = data[start : start + size]
        start += size
        if piece and not excerpt.receive(piece):
            return excerpt
    excerpt.receive(b"")
    return excerpt


@given(
    st.text(alphabet="ab\nü", max_size=60).map(str.encode),
    st.lists(st.integers(1, 9), max_size=20),
    st.integers(1, 8),
    st.integers(1, 5),
)
def test_pieces_make_no_difference(data, pieces, offset, limit):
    lines = data.decode().removesuffix("\n").split("\n") if data else []
    excerpt = excerpt_of(data, pieces=pieces, offset=offset, limit=limit)
    wanted = lines[offset - 1 : offset - 1 + limit]
    assert excerpt.text() == numbered(*wanted, start=offset)
    assert excerpt.is_full == (len(lines) > offset - 1 + limit)
    assert excerpt.next == offset + len(wanted)
    if not excerpt.is_full:
        assert excerpt.lines == len(lines)
