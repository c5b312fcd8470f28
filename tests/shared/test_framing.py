import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import FrameError
from shared.framing import HEADER_BYTES, MAX_FRAME_BYTES, FrameDecoder, frame

PAYLOADS = st.lists(st.binary(max_size=300), max_size=8)


@given(PAYLOADS, st.lists(st.integers(min_value=0, max_value=2500)))
def test_payloads_survive_any_cut(payloads, cuts):
    data = b"".join(frame(payload) for payload in payloads)
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = FrameDecoder()
    received = []
    for begin, end in itertools.pairwise(borders):
        received += decoder.receive(data[begin:end])
    assert received == payloads
    assert decoder.pending_bytes == 0


def test_byte_by_byte():
    decoder = FrameDecoder()
    received = [p for byte in frame(b"one") + frame(b"") + frame(b"three") for p in decoder.receive(bytes([byte]))]
    assert received == [b"one", b"", b"three"]


@given(st.binary(max_size=200))
def test_garbage_gives_payloads_or_our_own_error(data):
    decoder = FrameDecoder(max_frame_bytes=50)
    try:
        received = decoder.receive(data)
    except FrameError:
        return
    assert all(len(payload) <= 50 for payload in received)


def test_an_unfinished_frame_is_pending():
    decoder = FrameDecoder()
    assert decoder.receive(frame(b"whole") + frame(b"torn")[:-1]) == [b"whole"]
    assert decoder.pending_bytes == HEADER_BYTES + 3


def test_good_frames_before_garbage_are_not_lost_with_it():
    decoder = FrameDecoder()
    assert decoder.receive(frame(b"good") + b"\xff" * 8) == [b"good"]
    for data in (b"", frame(b"later")):
        with pytest.raises(FrameError, match="over the bound"):
            decoder.receive(data)


def test_the_bound_is_kept_on_both_sides():
    with pytest.raises(FrameError):
        frame(bytes(MAX_FRAME_BYTES + 1))
    assert FrameDecoder(4).receive(frame(b"four")) == [b"four"]
    with pytest.raises(FrameError):
        FrameDecoder(4).receive(frame(b"five!")[:HEADER_BYTES])
