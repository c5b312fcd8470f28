import json

import pytest
from fakes.dialect_streams import DONE, call, chunk
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError
from worker.dialects.fragments import Fragments
from worker.dialects.neutral import Begin, Stop, ToolDelta, ToolStart
from worker.dialects.openai.stream_decoder import OpenAIStreamDecoder


def finished(*deltas, finish) -> list:
    """The events of a whole answer behind its `Begin`."""
    decoder = OpenAIStreamDecoder(100_000)
    events = decoder.receive(b"".join(chunk(delta) for delta in deltas) + chunk({}, finish) + DONE)
    if not decoder.done:
        decoder.receive_eof()  # raises what waited
    assert events[0] == Begin()
    return events[1:]


def calls_of(events: list) -> list[tuple[str, str, str]]:
    """id, name and arguments of each; their starts are numbered, and the stop tells of them."""
    found: list[list[str]] = []
    for told in events:
        match told:
            case ToolStart(index, id, name):
                assert index == len(found)
                found.append([id, name, ""])
            case ToolDelta(index, text):
                assert text
                found[index][2] += text
    assert events[-1] == Stop("tools")
    return [(id, name, arguments) for id, name, arguments in found]


def both(first: dict, second: dict) -> dict:
    return {"tool_calls": first["tool_calls"] + second["tool_calls"]}


A, B = '{"a": 1}', '{"b": [2, "}"]}'


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        pytest.param([call(0, "x", "f", A)], [("x", "f", A)], id="whole"),
        pytest.param([both(call(0, "x", "f", A), call(1, "y", "g", B))], [("x", "f", A), ("y", "g", B)], id="both"),
        pytest.param([call(0, "x", "f")], [("x", "f", "")], id="no arguments"),
        pytest.param([call(0, "x", "f", ""), call(1, "y", "g")], [("x", "f", ""), ("y", "g", "")], id="two without"),
        pytest.param(
            [call(0, "x", "f", ""), call(1, "y", "g", ""), call(1, arguments=B), call(0, arguments=A)],
            [("x", "f", A), ("y", "g", B)],
            id="the second gets its arguments first",
        ),
        pytest.param(
            [call(0, "x", "f", A[:3]), call(1, "y", "g", B[:5]), call(0, arguments=A[3:]), call(1, arguments=B[5:])],
            [("x", "f", A), ("y", "g", B)],
            id="mixed",
        ),
        pytest.param([call(1, "x", "f", A), call(4, "y", "g", B)], [("x", "f", A), ("y", "g", B)], id="gaps"),
        pytest.param([call(0, "x", "f", A), call(0, "y", "f", A)], [("x", "f", A), ("y", "f", A)], id="always 0"),
        pytest.param([call(0, None, "f", A), call(0, None, "g", B)], [("", "f", A), ("", "g", B)], id="no id"),
        pytest.param([call(0, None, "f", A), call(0, None, "f", B)], [("", "f", A), ("", "f", B)], id="the same name"),
        pytest.param([call(None, "x", "f", A), call(None, "y", "f", A)], [("x", "f", A), ("y", "f", A)], id="no index"),
        pytest.param(
            [call(None, "x", "f", ""), call(None, arguments=A), call(None, "y", "g", ""), call(None, arguments=B)],
            [("x", "f", A), ("y", "g", B)],
            id="no index, fragments",
        ),
        pytest.param(
            [call(None, None, "f", A[:4]), call(None, arguments=A[4:]), call(None, None, "f", B)],
            [("", "f", A), ("", "f", B)],
            id="neither index nor id",
        ),
        pytest.param([call(None, None, "f"), call(None, None, "g")], [("", "f", ""), ("", "g", "")], id="only names"),
        pytest.param(
            [call(None, "x", "f", A[:3]), call(None, "y", "g", B), call(None, "x", None, A[3:])],
            [("x", "f", A), ("y", "g", B)],
            id="told apart by id",
        ),
        pytest.param(
            [call(0, "x", "f", A[:2]), call(0, "x", "f", A[2:4]), call(0, "x", "f", A[4:]), call(0, "x", "f", "")],
            [("x", "f", A)],
            id="all repeated",
        ),
        pytest.param(
            [call(None, "x", "f", A[:2]), call(None, "x", "f", A[2:4]), call(None, "x", "f", A[4:])],
            [("x", "f", A)],
            id="all repeated, no index",
        ),
        pytest.param(
            [call(0, None, "f", A[:2]), call(0, None, "f", A[2:4]), call(0, None, "f", A[4:])],
            [("", "f", A)],
            id="the name repeated",
        ),
        pytest.param([call(0, "x", "f", A), call(0, "x", "f", A)], [("x", "f", A)], id="summed up"),
        pytest.param(
            [call(0, "x1", "f", A[:2]), call(0, "x2", None, A[2:4]), call(0, "x3", None, A[4:])],
            [("x1", "f", A)],
            id="an id in each",
        ),
        pytest.param([call(0), call(0, "x"), call(0, None, "f", A)], [("x", "f", A)], id="one thing after another"),
        pytest.param([call(0, arguments=A[:3]), call(0, "x", "f"), call(0, arguments=A[3:])], [("x", "f", A)]),
        pytest.param([call(0, None, "f", A), call(0, "x")], [("", "f", A)], id="too late an id"),
        pytest.param([call(0, "x", "get_", ""), call(0, None, "weather", ""), call(0, arguments=A)],
                     [("x", "get_weather", A)], id="a name in pieces"),
        pytest.param([call(0, "x", "f", {"a": 1})], [("x", "f", '{"a":1}')], id="an object"),
        pytest.param([call(0, 7, "f", None)], [("", "f", "")], id="odd types"),
        pytest.param([call(0, "x", "f", A), call(1)], [("x", "f", A)], id="nothing at all"),
    ],
)  # fmt: skip
def test_tool_calls(deltas, calls):
    assert calls_of(finished(*deltas, finish="tool_calls")) == calls
    assert calls_of(finished(*deltas, finish="stop")) == calls


def test_a_call_without_a_name_is_an_error_unless_cut_off():
    with pytest.raises(DialectError, match="without a name"):
        finished(call(0, "x", None, A), finish="tool_calls")
    assert finished(call(0, "x", None, A), finish="length") == [Stop("length")]


def test_a_call_named_late_does_not_go_before_one_named_early():
    events = finished(call(0, None, None, A), call(1, "y", "g", B), call(0, "x", "f"), finish="tool_calls")
    assert calls_of(events) == [("y", "g", B), ("x", "f", A)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=60))
def test_mixed_fragments_in_any_order(turns):
    """Two long calls, fed in any order in pieces of any size."""
    texts = [json.dumps({"text": "x{" * 20, "list": [1, {"a": '\\"}'}]}), json.dumps({"b": "é}" * 30})]
    heads = [call(0, "x", "f", ""), call(1, "y", "g", "")]
    left, deltas = list(texts), list(heads)
    for second, size in turns:
        piece, left[second] = left[second][:size], left[second][size:]
        deltas.append(call(int(second), arguments=piece))
    deltas += [call(index, arguments=rest) for index, rest in enumerate(left)]
    assert sorted(calls_of(finished(*deltas, finish="tool_calls"))) == [("x", "f", texts[0]), ("y", "g", texts[1])]


# --- whether a text is a whole object by now


@given(st.lists(st.text('{}[]":,\\ a1', max_size=6), max_size=12))
def test_wholeness_is_known_at_every_step(pieces):
    fragments = Fragments()
    for piece in pieces:
        fragments.add(piece)
        try:
            whole = isinstance(json.loads(fragments.text), dict)
        except ValueError:
            whole = False
        assert fragments.is_whole() is whole


@given(st.dictionaries(st.text(), st.text()), st.integers(1, 9))
def test_an_object_is_whole_with_its_last_bracket(value, size):
    text = json.dumps(value)
    fragments = Fragments()
    for at in range(0, len(text), size):
        assert not fragments.is_whole()
        fragments.add(text[at : at + size])
    assert fragments.is_whole()
    fragments.add(" \n")
    assert fragments.is_whole()
    fragments.add("x")
    assert not fragments.is_whole()
