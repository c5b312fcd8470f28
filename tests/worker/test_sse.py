import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError
from worker.dialects.sse import EventCutter, end_of_last_event, payloads, split_events, through_payload

LF = b"data: one\n\n"
CRLF = b"data: one\r\n\r\n"
CR = b"data: one\r\r"
MULTI = b"event: x\nid: 7\ndata: a\ndata:b\n\n"
COMMENT = b": OPENROUTER PROCESSING\n\n"
UTF8 = 'data: {"c": "Grüße 😀\u2028\u0085"}\n\n'.encode()

EVENTS = [LF, CRLF, CR, MULTI, COMMENT, UTF8, b"data:no space\n\n", b"data\n\n", b"\n", b"data: [DONE]\n\n"]


def cut(data: bytes, at: list[int]) -> list[bytes]:
    borders = [0, *sorted(at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(borders)]


@pytest.mark.parametrize("event", [LF, CRLF, CR, MULTI, COMMENT, UTF8])
def test_an_event_comes_out_when_it_is_whole(event):
    whole = EventCutter(1000)
    assert whole.receive(event) == event
    assert whole.receive_eof() == b""
    by_byte = EventCutter(1000)
    assert [by_byte.receive(bytes([byte])) for byte in event] == [b""] * (len(event) - 1) + [event]
    trailing = EventCutter(1000)
    assert trailing.receive(event + b"data: half") == event
    assert trailing.receive_eof() == b"data: half"
    assert trailing.receive_eof() == b""


@given(
    st.lists(st.sampled_from(EVENTS), max_size=8), st.sampled_from([b"", b"data: ha", b"\r", b"data: x\n"]), st.data()
)
def test_any_cutting_gives_the_same(events, tail, data):
    stream = b"".join(events) + tail
    cutter = EventCutter(10_000)
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    out = [cutter.receive(piece) for piece in cut(stream, at) if piece]
    assert b"".join(out) + cutter.receive_eof() == stream
    found = [payload for block in out if block for payload in payloads(block)]
    assert found == payloads(b"".join(out))


@given(st.binary(max_size=200), st.data())
def test_garbage_is_passed_on_whole(garbage, data):
    at = data.draw(st.lists(st.integers(0, len(garbage)), max_size=5))
    cutter = EventCutter(1000)
    out = b"".join(cutter.receive(piece) for piece in cut(garbage, at) if piece)
    assert out + cutter.receive_eof() == garbage


def test_an_endless_event_is_refused():
    cutter = EventCutter(100)
    assert cutter.receive(b"data: " + b"x" * 94) == b""
    with pytest.raises(DialectError, match="max_event_bytes = 100"):
        cutter.receive(b"x")


def test_many_small_events_are_no_endless_one():
    cutter = EventCutter(100)
    block = LF * 1000 + b"data: ha"
    assert cutter.receive(block) == LF * 1000
    assert cutter.receive(b"lf\n\n") == b"data: half\n\n"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"", []),
        (LF, [b"one"]),
        (CRLF, [b"one"]),
        (CR, [b"one"]),
        (LF + CRLF + CR, [b"one"] * 3),
        (MULTI, [b"a\nb"]),
        (COMMENT, []),
        (COMMENT + LF, [b"one"]),
        (b": c\ndata: one\n: c\n\n", [b"one"]),
        (b"data:one\n\n", [b"one"]),
        (b"data:  one\n\n", [b" one"]),
        (b"data: a: b\n\n", [b"a: b"]),
        (b"event: error\ndata: x\n\n", [b"x"]),
        (b"event: ping\n\n", []),
        (b"\n\n\n\ndata: one\n\n\n\n", [b"one"]),
        (b"datum: one\n\n", []),
        (b"\xef\xbb\xbfdata: one\n\ndata: two\n\n", [b"one", b"two"]),
        (UTF8, [UTF8[6:-2]]),
    ],
)
def test_payloads(block, expected):
    assert payloads(block) == expected


@given(st.lists(st.sampled_from([LF, CRLF, CR, MULTI, COMMENT, UTF8]), min_size=1, max_size=10))
def test_split_events_finds_every_border(events):
    assert split_events(b"".join(events)) == events


@given(st.binary(max_size=100))
def test_split_events_loses_nothing(block):
    assert b"".join(split_events(block)) == block


@pytest.mark.parametrize("event", [LF, CRLF, CR, MULTI])
def test_through_a_payload(event):
    block = COMMENT + event + COMMENT + UTF8 + LF
    assert through_payload(block, 1) == COMMENT + event
    assert through_payload(block, 2) == COMMENT + event + COMMENT + UTF8
    assert through_payload(block, 3) == through_payload(block, 9) == block


def test_end_of_last_event_from_a_start():
    assert end_of_last_event(LF + LF) == 2 * len(LF)
    assert end_of_last_event(LF + b"data", len(LF)) == 0
    assert end_of_last_event(b"data: \n\r") == 0
