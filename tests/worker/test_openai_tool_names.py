from msgspec import Raw

from worker.dialects.neutral import Tool
from worker.dialects.openai.tool_names import MAX_CHARS, long_names, short_name


def test_short_names_stay():
    name = "x" * MAX_CHARS
    assert short_name(name) is name
    assert long_names([Tool(name, Raw(b"{}"))]) == {}


def test_long_names_differ_and_come_back():
    names = ["x" * MAX_CHARS + end for end in "ab"]
    short = list(map(short_name, names))
    assert len({*short}) == 2
    assert all(len(name) == MAX_CHARS for name in short)
    assert long_names([Tool(name, Raw(b"{}")) for name in names]) == dict(zip(short, names, strict=True))
