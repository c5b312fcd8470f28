"""What an HTTP/2 client may send for nothing."""

import struct

import pytest

from worker.flood import CREDIT, CREDIT_A_SECOND, PREFACE, Flood, Gate

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9


def frame(kind, payload=b"", flags=0, stream=1):
    return struct.pack("!BHBBL", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def opened():
    gate = Gate(0.0)
    assert gate.receive(PREFACE, 0.0) == PREFACE
    return gate


STREAM = frame(SETTINGS, b"x" * 6) + frame(HEADERS, b"y" * 300) + frame(DATA, b"z" * 16384) + frame(DATA, flags=1)


@pytest.mark.parametrize("step", [1, 7, 5000, 1 << 20])
def test_frames_pass_as_they_came_however_they_are_cut(step):
    gate = Gate(0.0)
    data = PREFACE + STREAM
    passed = b"".join(gate.receive(data[at : at + step], 0.0) for at in range(0, len(data), step))
    assert passed == data


def test_frames_that_are_of_no_use_do_not_pass():
    gate = opened()
    useless = frame(PRIORITY, b"12345"), frame(GOAWAY, b"12345678", stream=0), frame(77, b"?")
    assert gate.receive(useless[0] + STREAM + useless[1] + useless[2], 0.0) == STREAM


def test_what_is_no_http2_passes_for_h2_to_refuse():
    assert Gate(0.0).receive(b"GET / HTTP/1.1\r\nhost: example.org\r\n\r\n", 0.0).startswith(b"GET / ")
    too_large = frame(DATA)[:0] + struct.pack("!BHBBL", 1, 0, DATA, 0, 1) + b"x" * 10
    assert opened().receive(too_large, 0.0) == too_large


@pytest.mark.parametrize(
    "attack",
    [
        frame(HEADERS, b"y" * 30) + frame(RST_STREAM, b"1234"),
        frame(HEADERS, b"y" * 30),
        frame(PING, b"12345678", stream=0),
        frame(SETTINGS, stream=0),
        frame(WINDOW_UPDATE, b"\0\0\0\1"),
        frame(PRIORITY, b"12345"),
        frame(CONTINUATION),
        frame(DATA),
        frame(DATA, b"\0"),
        frame(77),
    ],
)
def test_a_flood_is_noticed_and_a_trickle_is_not(attack):
    flooded, trickle = opened(), opened()
    with pytest.raises(Flood):
        flooded.receive(attack * (CREDIT + 1), 0.0)
    for second in range(3 * CREDIT // CREDIT_A_SECOND):
        trickle.receive(attack * (CREDIT_A_SECOND // 5), float(second))


def test_whoever_reads_answers_may_acknowledge_all_of_them():
    gate = opened()
    for _ in range(100):
        for _ in range(1000):
            gate.earn()
        gate.receive(frame(WINDOW_UPDATE, b"\0\0\0\1") * 2000, 0.0)


def test_requests_that_are_answered_cost_nothing():
    gate = opened()
    for _ in range(3 * CREDIT):
        gate.receive(frame(HEADERS, b"y" * 30), 0.0)
        gate.earn()


def test_uploads_in_large_frames_cost_nothing():
    gate = opened()
    for _ in range(3 * CREDIT):
        gate.receive(frame(DATA, b"z" * 1000), 0.0)
